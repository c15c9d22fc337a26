#include <array>

#include "engine_run.h"

namespace mooncake {

using namespace std::chrono_literals;

// ---- faults -----------------------------------------------------------------------------------
bool EngineRun::Reaches(const InstanceId& from, const InstanceId& to) {
  const EngineNode& a = *by_id_.at(from);
  const EngineNode& b = *by_id_.at(to);
  return !a.process.is_dead() && !b.process.is_dead() &&
         !sim_.net().Link(a.process.host(), b.process.host()).down;
}

void EngineRun::StallNode(std::size_t node, Duration lasts) {
  EngineNode& instance = *current_[node];
  if (instance.process.is_dead()) return;
  Record("fault: node {} stalls", instance.node);
  Tell(history::Stalled{instance.number, After(sim_.Now(), lasts)});
  sim_.Stall(instance.process, lasts);
}

void EngineRun::CrashNode(std::size_t node, CrashKind kind, Duration lasts) {
  EngineNode& first = *current_[node];
  if (first.state == EngineNode::State::kDead || first.state == EngineNode::State::kClosed) return;
  Record("fault: node {} crashes{}", node, kind == CrashKind::kPowerLost ? ", power lost" : "");
  sim_.Crash(first.process, kind);
  for (const auto& instance : instances_) {
    const bool fell = instance->process.is_dead() && instance->state != EngineNode::State::kDead &&
                      instance->state != EngineNode::State::kClosed;
    if (fell) Bury(*instance, lasts);
    // One that had stopped may still have waited for a connect.
    if (instance->process.is_dead()) OrphanOthers(*instance);
  }
}

void EngineRun::OrphanOthers(EngineNode& instance) {
  for (const std::uint64_t other : std::exchange(instance.others, {}))
    Tell(history::Orphaned{other});
}

// Nothing of a dead instance may be touched any more; what it had begun has no end.
void EngineRun::Bury(EngineNode& instance, Duration lasts) {
  if (instance.state == EngineNode::State::kClosing) pending_repairs_ -= 1;
  instance.state = EngineNode::State::kDead;
  dead_since_[instance.number] = sim_.Now();
  Tell(history::Gone{instance.number});
  wire_->Leave(instance.identity.id);
  for (const OperationPtr& operation : operations_) {
    if (operation->from != &instance || operation->ended) continue;
    operation->orphaned = true;
    Tell(history::Orphaned{operation->number});
    for (const Range& range : operation->ranges) {
      if (operation->direction == Direction::kWrite) {
        range.remote->memory.Taint(range.remote_offset, range.length);
      } else {
        range.remote->memory.Release(range.remote_offset, range.length);
      }
    }
  }
  RetireAll(instance);
  RestartLater(instance.node, lasts);
}

void EngineRun::RetireAll(EngineNode& instance) {
  for (std::vector<RegionPtr>* const regions : {&instance.regions, &instance.abandoned}) {
    for (const RegionPtr& region : *regions) {
      if (const auto wrong = region->memory.CheckAll())
        Found(Rule::kForeignBytes, Where(*region) + *wrong);
      region->memory.Retire();
    }
    regions->clear();
  }
  instance.guards.clear();
  instance.guards.push_back(
      std::make_unique<CheckedMemory>(MutableBytes(instance.arena), instance.random));
}

void EngineRun::StopNode(std::size_t node, Duration lasts) {
  EngineNode& instance = *current_[node];
  if (instance.state != EngineNode::State::kLive) return;
  Record("fault: node {} stops in order", node);
  BeginClose(instance);
  pending_repairs_ += 1;
  Spawn(instance.process.world().control,
        [](EngineRun& me, EngineNode& closing, Duration pause) -> Task<void> {
          auto close = me.Close(closing);
          co_await std::move(close);
          if (closing.state == EngineNode::State::kDead)
            co_return;  // it crashed meanwhile, and has had its successor
          me.pending_repairs_ -= 1;
          me.RestartLater(closing.node, pause);
        }(*this, instance, lasts));
}

}  // namespace mooncake
