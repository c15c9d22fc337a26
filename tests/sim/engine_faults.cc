#include <array>

#include "engine_run.h"

namespace mooncake {

using namespace std::chrono_literals;

// ---- faults -----------------------------------------------------------------------------------
bool EngineRun::Reaches(const InstanceId& from, const InstanceId& to) {
  const Instance& a = *by_id_.at(from);
  const Instance& b = *by_id_.at(to);
  return !a.process.is_dead() && !b.process.is_dead() &&
         !sim_.net().Link(a.process.host(), b.process.host()).down;
}

void EngineRun::ScheduleFaults() {
  faults_left_ = plan_.faults.size();
  for (const Fault& fault : plan_.faults) {
    sim_.loop().At(After(begin_, fault.at), [this, &fault] {
      faults_left_ -= 1;
      outcome_.faults += 1;
      Commit(fault);
    });
  }
}

void EngineRun::Commit(const Fault& fault) {
  SimRandom random(fault.seed);
  const Duration lasts = random.Skewed(Duration(100us), Duration(8s));
  const std::size_t node = random.Below(shape_.nodes_drawn);
  const CrashKind kind = random.Chance(0.6) ? CrashKind::kKilled : CrashKind::kPowerLost;
  const bool needs_node = fault.kind == FaultKind::kStall || fault.kind == FaultKind::kCrash ||
                          fault.kind == FaultKind::kStop;
  if (needs_node && node >= shape_.nodes) return;
  switch (fault.kind) {
    case FaultKind::kCut: {
      const CutKind cut_kind = std::array{CutKind::kBothNotice, CutKind::kOneNotices,
                                          CutKind::kNobodyNotices}[random.Below(3)];
      const std::uint64_t count = random.Skewed(1, 8);
      std::uint64_t cut = 0;
      while (cut < count && sim_.net().CutOne(cut_kind, random)) ++cut;
      return Record("fault: {} cut, kind {}", cut, static_cast<int>(cut_kind));
    }
    case FaultKind::kPartition:
      return Partition(lasts, random);
    case FaultKind::kPairPartition:
      return PartitionPair(lasts, random);
    case FaultKind::kStall:
      return Stall(*current_[node], lasts);
    case FaultKind::kCrash:
      return Crash(node, kind, lasts);
    case FaultKind::kStop:
      return StopInOrder(node, lasts);
    case FaultKind::kDirectoryCrash:
      return CrashDirectory(kind, lasts);
    case FaultKind::kWallStep:
      return StepWall(random);
  }
}

// Partitions may overlap: a way is open again when all that closed it have ended.
void EngineRun::Block(SimHost& from, SimHost& to, int by) {
  int& count = blocked_[{&from, &to}];
  count += by;
  sim_.net().Link(from, to).down = count > 0;
}

void EngineRun::Hold(const std::vector<std::pair<SimHost*, SimHost*>>& ways, Duration lasts) {
  for (const auto& [from, to] : ways) Block(*from, *to, 1);
  pending_repairs_ += 1;
  sim_.loop().At(After(sim_.Now(), lasts), [this, ways] {
    pending_repairs_ -= 1;
    for (const auto& [from, to] : ways) Block(*from, *to, -1);
    Record("a partition ends");
  });
}

// A group of hosts is cut off from the rest: in both directions, or in one.
void EngineRun::Partition(Duration lasts, SimRandom& random) {
  std::set<SimHost*> inside;
  for (SimHost* host : AllHosts()) {
    if (random.Chance(0.4)) inside.insert(host);
  }
  const bool both = random.Chance(0.7);
  std::vector<std::pair<SimHost*, SimHost*>> ways;
  for (SimHost* a : AllHosts()) {
    for (SimHost* b : AllHosts()) {
      if (!inside.contains(a) || inside.contains(b)) continue;
      ways.emplace_back(a, b);
      if (both) ways.emplace_back(b, a);
    }
  }
  Record("fault: partition around {} hosts{}", inside.size(), both ? "" : ", one way");
  Hold(ways, lasts);
}

// Two hosts do not reach each other, and both reach all others, the directory for one.
void EngineRun::PartitionPair(Duration lasts, SimRandom& random) {
  const std::vector<SimHost*> hosts = AllHosts();
  SimHost* const a = hosts[random.Below(hosts.size())];
  SimHost* const b = hosts[random.Below(hosts.size())];
  if (a == b) return;
  std::vector<std::pair<SimHost*, SimHost*>> ways = {{a, b}};
  if (random.Chance(0.7)) ways.emplace_back(b, a);
  Record("fault: {} does not reach {}{}", a->name(), b->name(),
         ways.size() == 1 ? ", one way" : "");
  Hold(ways, lasts);
}

void EngineRun::StepWall(SimRandom& random) {
  const std::vector<SimHost*> hosts = AllHosts();
  SimHost& host = *hosts[random.Below(hosts.size())];
  Duration by = random.Skewed(Duration(1s), Duration(5h));
  if (random.Chance(0.5)) by = -by;
  Record("fault: the wall clock of {} steps by {} s", host.name(), by.count() / 1'000'000'000);
  sim_.StepWallClock(host, by);
}

void EngineRun::Stall(Instance& instance, Duration lasts) {
  if (instance.process.is_dead()) return;
  Record("fault: node {} stalls", instance.node);
  Tell(history::Stalled{instance.number, After(sim_.Now(), lasts)});
  sim_.Stall(instance.process, lasts);
}

void EngineRun::Crash(std::size_t node, CrashKind kind, Duration lasts) {
  Instance& first = *current_[node];
  if (first.state == Instance::State::kDead || first.state == Instance::State::kClosed) return;
  Record("fault: node {} crashes{}", node, kind == CrashKind::kPowerLost ? ", power lost" : "");
  sim_.Crash(first.process, kind);
  for (const auto& instance : instances_) {
    const bool fell = instance->process.is_dead() && instance->state != Instance::State::kDead &&
                      instance->state != Instance::State::kClosed;
    if (fell) Bury(*instance, lasts);
    // One that had stopped may still have waited for a connect.
    if (instance->process.is_dead()) OrphanOthers(*instance);
  }
}

void EngineRun::LookForCrashPoint(const SimTurn* turn) {
  const CrashPoint& point = *plan_.crash_point;
  const bool is_node = point.victim < shape_.nodes;
  if (!is_node && !directory_) return;
  SimProcess& process = is_node ? current_[point.victim]->process : *directory_->process;
  if (!may_crash_ || &process.turn() != turn || ++victim_events_ != point.event) return;
  outcome_.crash_point_reached = true;
  constexpr Duration kDead = 20ms;
  if (is_node) {
    Crash(point.victim, CrashKind::kKilled, kDead);
  } else {
    CrashDirectory(CrashKind::kKilled, kDead);
  }
}

void EngineRun::OrphanOthers(Instance& instance) {
  for (const std::uint64_t other : std::exchange(instance.others, {}))
    Tell(history::Orphaned{other});
}

// Nothing of a dead instance may be touched any more; what it had begun has no end.
void EngineRun::Bury(Instance& instance, Duration lasts) {
  if (instance.state == Instance::State::kClosing) pending_repairs_ -= 1;
  instance.state = Instance::State::kDead;
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

void EngineRun::RetireAll(Instance& instance) {
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

void EngineRun::RestartLater(std::size_t node, Duration after) {
  pending_repairs_ += 1;
  sim_.loop().At(After(sim_.Now(), after), [this, node] {
    pending_repairs_ -= 1;
    Start(node);
  });
}

void EngineRun::StopInOrder(std::size_t node, Duration lasts) {
  Instance& instance = *current_[node];
  if (instance.state != Instance::State::kLive) return;
  Record("fault: node {} stops in order", node);
  BeginClose(instance);
  pending_repairs_ += 1;
  Spawn(instance.process.world().control,
        [](EngineRun& me, Instance& closing, Duration pause) -> Task<void> {
          auto close = me.Close(closing);
          co_await std::move(close);
          if (closing.state == Instance::State::kDead)
            co_return;  // it crashed meanwhile, and has had its successor
          me.pending_repairs_ -= 1;
          me.RestartLater(closing.node, pause);
        }(*this, instance, lasts));
}

void EngineRun::CrashDirectory(CrashKind kind, Duration lasts) {
  if (!directory_ || directory_->process->is_dead()) return;
  Record("fault: the directory crashes");
  sim_.Crash(*directory_->process, kind);
  pending_repairs_ += 1;
  sim_.loop().At(After(sim_.Now(), lasts), [this] {
    pending_repairs_ -= 1;
    StartDirectory();
  });
}

}  // namespace mooncake
