#include "engine_run.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kOthers = std::uint64_t{1} << 32;  // what is neither batch nor notification

}  // namespace

void EngineRun::Act(const Action& action) {
  SimRandom random(action.seed);
  const std::size_t node = random.Below(shape_.nodes_drawn);
  const std::size_t to = random.Below(shape_.nodes_drawn);
  const std::uint64_t die = random.Below(100);
  if (node >= shape_.nodes || to >= shape_.nodes) return;
  EngineNode& from = *current_[node];
  if (from.state != EngineNode::State::kLive && from.state != EngineNode::State::kStarting) return;
  if (die < 5) return CancelOne(random);
  if (die < 12) return UnregisterOne(from, random);
  const auto known = from.peers.find(to);
  if (known == from.peers.end()) return ConnectTo(from, to, random);
  if (die < 20) return NotifyOnly(from, known->second, random);
  const std::uint64_t burst =
      random.Chance(0.2) ? random.Between(std::uint64_t{2}, std::uint64_t{8}) : 1;
  for (std::uint64_t i = 0; i < burst; ++i) Submit(from, known->second, random);
}

std::uint64_t EngineRun::BeginOther(EngineNode& instance, std::string name, history::Kind kind,
                                    Instant deadline) {
  const std::uint64_t number = kOthers + others_++;
  instance.others.insert(number);
  Tell(history::Began{.operation = number,
                      .name = std::move(name),
                      .kind = kind,
                      .from = instance.number,
                      .deadline = deadline});
  return number;
}

void EngineRun::EndOther(EngineNode& instance, history::Ended end) {
  instance.others.erase(end.operation);
  Tell(std::move(end));
}

void EngineRun::ConnectTo(EngineNode& from, std::size_t to, SimRandom& random) {
  if (!from.connecting.insert(to).second) return;
  const Instant deadline =
      After(from.process.world().clock.Now(), random.Skewed(Duration(1ms), Duration(5s)));
  const std::uint64_t number =
      BeginOther(from, fmt::format("the connect of node {} to node {}", from.node, to),
                 history::Kind::kConnect, from.process.FromLocal(deadline));
  Spawn(from.process.world().control,
        [](EngineRun& me, EngineNode& instance, std::size_t node, Instant limit,
           std::uint64_t operation) -> Task<void> {
          auto connect = instance.engine->Connect(me.Label(node), limit);
          const Result<PeerPtr> peer = co_await std::move(connect);
          if (instance.process.is_dead()) co_return;
          instance.connecting.erase(node);
          me.Record("node {} connects to node {}: {}", instance.node, node,
                    peer ? "done" : ErrorName(peer.error().id));
          if (!peer) co_return me.EndOther(instance, {operation, peer.error(), {}});
          const auto found = me.by_id_.find((*peer)->identity().id);
          const bool right = found != me.by_id_.end() && found->second->node == node;
          me.EndOther(instance, {operation, {}, right ? "" : "led to somebody else"});
          if (right) instance.peers[node] = *peer;
        }(*this, from, to, deadline, number));
}

Instant EngineRun::DrawDeadline(SimRandom& random) const {
  if (random.Chance(0.1)) return kNever;
  const bool hurried = random.Chance(0.25);
  return After(sim_.Now(), hurried ? random.Skewed(Duration(0), Duration(10ms))
                                   : random.Skewed(Duration(10ms), Duration(30s)));
}

OperationPtr EngineRun::NewOperation(EngineNode& from, const PeerPtr& peer) {
  auto operation = std::make_shared<Operation>();
  operation->number = operations_.size();
  operation->from = &from;
  operation->to = by_id_.at(peer->identity().id);
  operations_.push_back(operation);
  return operation;
}

// A range of `region` that nobody uses, at most `length` long. Null region: none was found.
std::optional<std::uint64_t> EngineRun::FindFree(const RegionPtr& region, std::uint64_t length,
                                                 SimRandom& random) {
  for (int attempt = 0; attempt < 6; ++attempt) {
    // Often near the beginning: what is used again soon shows who still writes there.
    const std::uint64_t places = region->memory.memory().size() - length + 1;
    const std::uint64_t offset = random.Below(
        random.Chance(0.6) ? std::min<std::uint64_t>(places, 2 * length + 200) : places);
    if (region->memory.IsFree(offset, length)) return offset;
  }
  return std::nullopt;
}

RegionPtr EngineRun::DrawRegion(EngineNode& instance, SimRandom& random) {
  std::vector<RegionPtr> usable;
  for (const RegionPtr& region : instance.regions) {
    if (!region->leaving) usable.push_back(region);
  }
  return usable.empty() ? nullptr : usable[random.Below(usable.size())];
}

OperationPtr EngineRun::Submit(EngineNode& from, const PeerPtr& peer, SimRandom& random) {
  const OperationPtr operation = NewOperation(from, peer);
  operation->direction = random.Chance(0.5) ? Direction::kWrite : Direction::kRead;
  operation->notify = random.Chance(0.3);
  operation->deadline = DrawDeadline(random);
  std::vector<Copy> copies;
  const std::uint64_t count = random.Skewed(1, 100);
  for (std::uint64_t i = 0; i < count; ++i) AddRange(*operation, peer, copies, count, random);
  BatchOptions options;
  options.deadline = from.process.ToLocal(operation->deadline);
  operation->deadline = from.process.FromLocal(options.deadline);  // as its clock can show it
  if (operation->notify)
    options.notify = std::pair{std::string("batch"), std::to_string(operation->number)};
  Record("node {} {} {}: {} ranges, {} bytes at node {} ({}){}", from.node,
         operation->direction == Direction::kWrite ? "writes" : "reads", operation->number,
         copies.size(), operation->total_bytes, operation->to->node,
         ShortId(operation->to->identity.id), operation->notify ? ", notifies" : "");
  outcome_.batches += 1;
  Tell(history::Began{
      .operation = operation->number,
      .name = fmt::format("{} {}", operation->direction == Direction::kWrite ? "write" : "read",
                          operation->number),
      .from = from.number,
      .to = operation->to->number,
      .deadline = operation->deadline,
      .moves_bytes = operation->total_bytes > 0,
      .notifies = operation->notify});
  for (const Range& range : operation->ranges) {
    if (range.remote->leaving) Tell(history::RegionLeft{operation->number});
  }
  operation->batch =
      from.engine->Submit(peer, operation->direction, std::move(copies), std::move(options));
  operation->batch->OnDone(
      [this, operation](const Status& status) { Completed(operation, status); });
  return operation;
}

void EngineRun::AddRange(Operation& operation, const PeerPtr& peer, std::vector<Copy>& copies,
                         std::uint64_t count, SimRandom& random) {
  const RegionPtr local = DrawRegion(*operation.from, random);
  const RegionPtr remote = DrawRegion(*operation.to, random);
  if (!local || !remote) return;
  const std::uint64_t most =
      std::min(local->memory.memory().size(), remote->memory.memory().size()) / 2 /
      std::min<std::uint64_t>(count, 8);
  std::uint64_t length = random.Skewed(0, most);
  if (random.Chance(0.1)) length = std::min<std::uint64_t>(length, 4096) == 4096 ? 4096 : length;
  const std::optional<std::uint64_t> here = FindFree(local, length, random);
  if (!here) return;
  local->memory.Hold(
      *here, length);  // a node may be its own peer: the other range must not overlap this one
  const std::optional<std::uint64_t> there = FindFree(remote, length, random);
  if (!there) return local->memory.Release(*here, length);
  const bool write = operation.direction == Direction::kWrite;
  const MutableBytes local_bytes = local->memory.memory().subspan(*here, length);
  const MutableBytes remote_bytes = remote->memory.memory().subspan(*there, length);
  Range range{local, remote, *here, *there, length, {}};
  const Bytes source = write ? local_bytes : remote_bytes;
  range.bytes.assign(source.begin(), source.end());
  if (write) {
    remote->memory.Expect(*there, range.bytes);
  } else {
    remote->memory.Hold(*there, length);
    local->memory.Expect(*here, range.bytes);
  }
  local->local_batches += 1;
  copies.push_back({local_bytes.data(), remote->info.id, *there, length});
  operation.total_bytes += length;
  operation.ranges.push_back(std::move(range));
  // Told by the application, as the unlisted ones must be; for the others the engine asks.
  if (!remote->listed || random.Chance(0.5)) peer->AddRegion(remote->info);
}

void EngineRun::NotifyOnly(EngineNode& from, const PeerPtr& peer, SimRandom& random) {
  const OperationPtr operation = NewOperation(from, peer);
  operation->notify = true;
  operation->deadline = DrawDeadline(random);
  Record("node {} notifies {}: node {}", from.node, operation->number, operation->to->node);
  Tell(history::Began{.operation = operation->number,
                      .name = fmt::format("notification {}", operation->number),
                      .from = from.number,
                      .to = operation->to->number,
                      .deadline = operation->deadline,
                      .notifies = true});
  Spawn(from.process.world().control,
        [](EngineRun& me, OperationPtr o, PeerPtr with) -> Task<void> {
          auto notify = o->from->engine->Notify(with, "alone", std::to_string(o->number),
                                                o->from->process.ToLocal(o->deadline));
          const Status status = co_await std::move(notify);
          me.Completed(o, status);
        }(*this, operation, peer));
}

void EngineRun::CancelOne(SimRandom& random) {
  std::vector<OperationPtr> running;
  for (const OperationPtr& operation : operations_) {
    if (operation->batch && !operation->ended && !operation->orphaned) running.push_back(operation);
  }
  if (running.empty()) return;
  const OperationPtr& operation = running[random.Below(running.size())];
  Record("cancel {}", operation->number);
  Tell(history::Cancelled{operation->number});
  operation->batch->Cancel();
}

void EngineRun::UnregisterOne(EngineNode& instance, SimRandom& random) {
  const RegionPtr region = DrawRegion(instance, random);
  if (!region || region->local_batches > 0) return;
  region->leaving = true;
  Record("node {} unregisters region {}", instance.node,
         static_cast<std::uint64_t>(region->info.id));
  const std::uint64_t number =
      BeginOther(instance, fmt::format("the unregistering at node {}", instance.node),
                 history::Kind::kUnregister, kNever);
  for (const OperationPtr& operation : operations_) {
    if (operation->ended) continue;
    for (const Range& range : operation->ranges) {
      if (range.remote == region) Tell(history::RegionLeft{operation->number});
    }
  }
  Spawn(instance.process.world().control,
        [](EngineRun& me, EngineNode& owner, RegionPtr r, std::uint64_t operation) -> Task<void> {
          auto unregister = owner.engine->UnregisterAsync(r->info.id);
          const Status status = co_await std::move(unregister);
          me.Unregistered(owner, r, operation, status);
        }(*this, instance, region, number));
}

// Success: nobody touches the memory any more, so it gets new bytes and, after a while, a new
// registration.
void EngineRun::Unregistered(EngineNode& owner, const RegionPtr& region, std::uint64_t number,
                             const Status& status) {
  if (owner.process.is_dead()) return;
  Record("node {} has unregistered region {}: {}", owner.node,
         static_cast<std::uint64_t>(region->info.id),
         status ? "done" : ErrorName(status.error().id));
  EndOther(owner, {number, status ? std::nullopt : std::optional(status.error()), {}});
  if (owner.state != EngineNode::State::kLive && owner.state != EngineNode::State::kStarting)
    return;
  std::erase(owner.regions, region);
  if (const auto wrong = region->memory.CheckAll())
    Found(Rule::kForeignBytes, Where(*region) + *wrong);
  if (!status) {  // somebody may still copy: the memory is not used again
    owner.abandoned.push_back(region);
    return;
  }
  region->memory.Retire();
  AddRegion(owner, region->memory.memory());
}

}  // namespace mooncake
