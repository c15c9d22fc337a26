#include "engine_run.h"

namespace mooncake {

// ---- the checker ------------------------------------------------------------------------------
std::string EngineRun::Where(const Region& region) {
  return fmt::format("node {} ({}) region {}: ", region.owner.node,
                     ShortId(region.owner.identity.id), static_cast<std::uint64_t>(region.info.id));
}

void EngineRun::Completed(const OperationPtr& operation, const Status& status) {
  Operation& o = *operation;
  if (o.orphaned) return;  // its process is dead, and only finishes to be taken down
  Record("{} ends: {}", o.number, status ? "done" : ErrorName(status.error().id));
  Tell(history::Ended{o.number, status ? std::nullopt : std::optional(status.error()),
                      status ? WrongBytes(o) : std::string()});
  if (std::exchange(o.ended, true)) return;
  for (Range& range : o.ranges) SettleRange(o, range, status.has_value());
  o.batch = nullptr;
  if (status) {
    outcome_.succeeded += 1;
  } else if (status.error().id == ErrorId::kPeerGone || (status.error().code() == Errc::kPeerGone &&
                                                         o.to->state == EngineNode::State::kDead)) {
    ForgetPeer(*o.from, *o.to);
  }
}

// Which bytes of a batch that has succeeded are not where they are to be.
std::string EngineRun::WrongBytes(const Operation& o) {
  for (const Range& range : o.ranges) {
    const bool write = o.direction == Direction::kWrite;
    const Region& target = write ? *range.remote : *range.local;
    const std::uint64_t offset = write ? range.remote_offset : range.local_offset;
    if (!target.memory.Has(offset, range.bytes)) {
      return fmt::format("its bytes are not at {}offset {}, {} bytes", Where(target), offset,
                         range.length);
    }
  }
  return {};
}

void EngineRun::ForgetPeer(EngineNode& from, const EngineNode& to) {
  const auto known = from.peers.find(to.node);
  if (known != from.peers.end() && known->second->identity().id == to.identity.id)
    from.peers.erase(known);
}

// Whoever started the batch has its memory back, and uses it.
void EngineRun::SettleRange(const Operation& o, Range& range, bool success) {
  const bool write = o.direction == Direction::kWrite;
  CheckAround(*range.local, range.local_offset, range.length);
  CheckAround(*range.remote, range.remote_offset, range.length);
  range.local->local_batches -= 1;
  if (write) {
    if (success) {
      range.remote->memory.Settle(range.remote_offset, range.length);
    } else {
      range.remote->memory.Taint(range.remote_offset, range.length);
    }
  } else {
    range.remote->memory.Release(range.remote_offset, range.length);
  }
  if (!range.local->memory.is_retired())
    range.local->memory.Scribble(range.local_offset, range.length, range.local->owner.random);
}

void EngineRun::CheckAround(const Region& region, std::uint64_t offset, std::uint64_t length) {
  constexpr std::uint64_t kMargin = 64;
  const std::uint64_t begin = offset - std::min(offset, kMargin);
  const std::uint64_t end =
      std::min<std::uint64_t>(region.memory.memory().size(), offset + length + kMargin);
  if (const auto wrong = region.memory.Check(begin, end - begin))
    Found(Rule::kForeignBytes, Where(region) + *wrong);
}

void EngineRun::CheckAllMemory() {
  for (const auto& instance : instances_) {
    for (const RegionPtr& region : instance->regions) {
      if (const auto wrong = region->memory.CheckAll())
        Found(Rule::kForeignBytes, Where(*region) + *wrong);
    }
    for (const auto& guard : instance->guards) {
      if (const auto wrong = guard->CheckAll()) {
        Found(Rule::kForeignBytes,
              fmt::format("node {} ({}), memory that is not registered: {}", instance->node,
                          ShortId(instance->identity.id), *wrong));
      }
    }
  }
}

// A record in the carried directory is a lease: it does not outlive its owner for long.
void EngineRun::CheckLeases() {
  if (!directory_ || !directory_->server || directory_->process->is_dead()) return;
  for (const mooncake::Record& record : directory_->server->table().List("default")) {
    const auto owner = by_id_.find(record.identity.id);
    if (owner == by_id_.end()) {
      Found(Rule::kTwoOwners, "the directory has a record of nobody");
      continue;
    }
    constexpr Duration kSlack = std::chrono::seconds(2);
    const auto dead = dead_since_.find(owner->second->number);
    if (dead != dead_since_.end() && sim_.Now() > After(dead->second, kLeaseDuration + kSlack)) {
      Found(Rule::kNotGivenBack,
            fmt::format("the directory still has node {} ({}), which died {} ms ago",
                        owner->second->node, ShortId(record.identity.id),
                        (sim_.Now() - dead->second).count() / 1'000'000));
    }
  }
}

void EngineRun::AfterStep(const SimTurn* turn) {
  if (turn != nullptr) {
    for (EngineNode* const instance : current_) {
      if (instance != nullptr && &instance->process.turn() == turn && instance->engine)
        TakeNotificationsOf(*instance);
    }
  }
  constexpr std::uint64_t kFullCheckEvery = 512;  // events
  if (++steps_since_check_ < kFullCheckEvery) return;
  steps_since_check_ = 0;
  CheckAllMemory();
  CheckLeases();
}

void EngineRun::TakeNotificationsOf(EngineNode& instance) {
  for (const Notification& notification : instance.engine->TakeNotifications()) {
    const std::uint64_t number = std::stoull(notification.message);
    Record("node {} hears of {}", instance.node, number);
    outcome_.notifications += 1;
    const Operation& o = *operations_.at(number);
    const auto sender = by_id_.find(notification.sender);
    // After its end, a write's bytes may have been replaced by those of the next one.
    const bool looked_at = !o.ended && o.direction == Direction::kWrite;
    Tell(history::Heard{
        number, instance.number,
        sender == by_id_.end() ? std::nullopt : std::optional(sender->second->number),
        !looked_at || WrongBytes(o).empty()});
  }
}

}  // namespace mooncake
