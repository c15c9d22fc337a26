#include "cluster_run.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/log.h"

namespace mooncake {

using namespace std::chrono_literals;

constexpr std::uint64_t kEventsMax = 1'000'000;  // of a run; the longest have a tenth of it

ClusterRun::ClusterRun(Plan plan, bool keep_history)
    : plan_(std::move(plan)), shape_(plan_.shape), sim_(plan_.seed), keep_history_(keep_history) {
  sim_.net().stream_options = shape_.streams;
  sim_.clock_drift_ppm_max = shape_.clock_drift_ppm_max;
  begin_ = sim_.Now();
}

SimOutcome ClusterRun::Run() {
  Record("{}", Describe(plan_));
  sim_.loop().on_step = [this](SimTurn* turn) {
    if (turn != nullptr && plan_.crash_point) LookForCrashPoint(turn);
    AfterStep(turn);
  };
  Build();
  ScheduleActions();
  ScheduleFaults();
  const bool acted =
      Await([this] { return actions_left_ == 0 && faults_left_ == 0; }, After(sim_.Now(), 1h));
  if (!acted) Found(Rule::kTooMuch, "the load did not end");
  if (plan_.crash_point) {  // everything that was begun may be hit, what proves that it heals not
    static_cast<void>(Await([this] { return checker_.open() == 0 && pending_repairs_ == 0; },
                            After(sim_.Now(), 1h)));
  }
  may_crash_ = false;
  Heal();
  TakeDown();
  for (const std::string& warning : TakeWarnings()) {
    if (!IsExpected(warning)) Found(Rule::kWarning, warning);
  }
  checker_.Finish();
  Tell(history::Disturbed{});  // says what Finish() has found
  sim_.loop().on_step = nullptr;
  outcome_.violations = checker_.violations();
  outcome_.events = sim_.loop().steps();
  outcome_.simulated = sim_.Now() - begin_;
  Digest(fmt::format("{} events", outcome_.events));
  outcome_.digest = digest_;
  return std::move(outcome_);
}

void ClusterRun::Build() {
  // The directory's host is the first, so that it is the same one whatever nodes are left out.
  directory_host_ = &sim_.AddHost();
  SimRandom random(StreamSeed(plan_.seed, "hosts", 0));
  SimHost* host = nullptr;
  for (std::size_t node = 0; node < shape_.nodes; ++node) {
    const bool moves = random.Chance(0.5);
    const bool alone = !shape_.share_hosts || moves;
    if (host == nullptr || (alone && !shape_.own_directory)) host = &sim_.AddHost();
    node_hosts_.push_back(host);
  }
  for (SimHost* a : AllHosts()) {
    for (SimHost* b : AllHosts()) {
      if (a != b) sim_.net().Link(*a, *b) = shape_.link;
    }
  }
  if (!shape_.p2p && !shape_.own_directory) StartDirectory();
  for (std::size_t node = 0; node < shape_.nodes; ++node) StartNode(node);
}

std::vector<SimHost*> ClusterRun::AllHosts() const {
  std::vector<SimHost*> hosts = node_hosts_;
  std::sort(hosts.begin(), hosts.end(), [](const SimHost* a, const SimHost* b) {
    return a->addresses().front() < b->addresses().front();
  });
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  hosts.push_back(directory_host_);
  return hosts;
}

void ClusterRun::StartDirectory() {
  directory_ = std::make_shared<DirectoryHost>();
  directory_->process = &sim_.Start(*directory_host_);
  World& world = directory_->process->world();
  directory_->server = std::make_shared<DirectoryServer>(world);
  directory_->port = std::make_shared<PortServer>(world, directory_->metrics, PortServerOptions{});
  const Identity self{world.random.DrawInstanceId(), 1, "directory", world.network.host(), "sim"};
  directory_->port->introduce = [self] { return Introduction{self, {}, {}}; };
  directory_->server->AddTo(directory_->port->router);
  Result<std::unique_ptr<Listener>> listener =
      world.network.Listen(world.control, {IpAddress::AnyV6(), kDirectoryPort});
  if (!listener) return Found(Rule::kNotHealed, listener.error().Text());
  directory_->port->Serve(std::move(*listener));
  all_directories_.push_back(directory_);
  Record("directory starts");
}

void ClusterRun::CloseDirectories() {
  for (const auto& directory : all_directories_) {
    if (directory->process->is_dead()) sim_.Exhume(*directory->process);
    Post(directory->process->world().control,
         [directory] { directory->port->Close(Error{ErrorId::kClosed, "the directory stops"}); });
  }
}

void ClusterRun::ForgetDirectories() {
  for (const auto& directory : all_directories_) {
    directory->port = nullptr;
    directory->server = nullptr;
  }
}

void ClusterRun::ScheduleActions() {
  actions_left_ = plan_.actions.size();
  for (const Action& action : plan_.actions) {
    sim_.loop().At(After(begin_, action.at), [this, &action] {
      actions_left_ -= 1;
      Act(action);
    });
  }
}

void ClusterRun::ScheduleFaults() {
  faults_left_ = plan_.faults.size();
  for (const Fault& fault : plan_.faults) {
    sim_.loop().At(After(begin_, fault.at), [this, &fault] {
      faults_left_ -= 1;
      outcome_.faults += 1;
      Commit(fault);
    });
  }
}

void ClusterRun::Commit(const Fault& fault) {
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
      Tell(history::Disturbed{sim_.Now()});
      while (cut < count && sim_.net().CutOne(cut_kind, random)) ++cut;
      return Record("fault: {} cut, kind {}", cut, static_cast<int>(cut_kind));
    }
    case FaultKind::kPartition:
      return Partition(lasts, random);
    case FaultKind::kPairPartition:
      return PartitionPair(lasts, random);
    case FaultKind::kStall:
      return StallNode(node, lasts);
    case FaultKind::kCrash:
      return CrashNode(node, kind, lasts);
    case FaultKind::kStop:
      return StopNode(node, lasts);
    case FaultKind::kDirectoryCrash:
      return CrashDirectory(kind, lasts);
    case FaultKind::kWallStep:
      return StepWall(random);
  }
}

// Partitions may overlap: a way is open again when all that closed it have ended.
void ClusterRun::Block(SimHost& from, SimHost& to, int by) {
  int& count = blocked_[{&from, &to}];
  count += by;
  sim_.net().Link(from, to).down = count > 0;
}

void ClusterRun::Hold(const std::vector<std::pair<SimHost*, SimHost*>>& ways, Duration lasts) {
  Tell(history::Disturbed{After(sim_.Now(), lasts)});
  for (const auto& [from, to] : ways) Block(*from, *to, 1);
  pending_repairs_ += 1;
  sim_.loop().At(After(sim_.Now(), lasts), [this, ways] {
    pending_repairs_ -= 1;
    for (const auto& [from, to] : ways) Block(*from, *to, -1);
    Record("a partition ends");
  });
}

// A group of hosts is cut off from the rest: in both directions, or in one.
void ClusterRun::Partition(Duration lasts, SimRandom& random) {
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
void ClusterRun::PartitionPair(Duration lasts, SimRandom& random) {
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

void ClusterRun::StepWall(SimRandom& random) {
  const std::vector<SimHost*> hosts = AllHosts();
  SimHost& host = *hosts[random.Below(hosts.size())];
  Duration by = random.Skewed(Duration(1s), Duration(5h));
  if (random.Chance(0.5)) by = -by;
  Record("fault: the wall clock of {} steps by {} s", host.name(), by.count() / 1'000'000'000);
  sim_.StepWallClock(host, by);
}

void ClusterRun::CrashDirectory(CrashKind kind, Duration lasts) {
  if (!directory_ || directory_->process->is_dead()) return;
  Record("fault: the directory crashes");
  Tell(history::Disturbed{After(sim_.Now(), lasts)});
  sim_.Crash(*directory_->process, kind);
  pending_repairs_ += 1;
  sim_.loop().At(After(sim_.Now(), lasts), [this] {
    pending_repairs_ -= 1;
    StartDirectory();
  });
}

void ClusterRun::Tell(history::Event event) {
  checker_.Add(sim_.Now(), std::move(event));
  const std::vector<Violation>& violations = checker_.violations();
  for (; violations_told_ < violations.size(); ++violations_told_) {
    const Violation& violation = violations[violations_told_];
    Record("VIOLATION ({}) {}", ToString(violation.rule), violation.text);
  }
}

void ClusterRun::Found(Rule rule, std::string text) { Tell(history::Found{rule, std::move(text)}); }

void ClusterRun::Note(const std::string& text) {
  const std::string line =
      fmt::format("{:.6f} {}", std::chrono::duration<double>(sim_.Now() - begin_).count(), text);
  Digest(line);
  if (keep_history_) outcome_.history.push_back(line);
}

void ClusterRun::Digest(std::string_view text) {
  for (const char c : text)
    digest_ = (digest_ ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;  // FNV-1a
}

void ClusterRun::CheckLeft(const SimProcess& process, const std::string& name) {
  const SimProcess::Left left = process.left();
  if (left.nothing()) return;
  Found(Rule::kNotGivenBack,
        fmt::format("{} has left {} coroutines, {} streams, {} listeners, {} timers", name,
                    left.coroutines, left.streams, left.listeners, left.timers));
}

// False also when too much happens: something goes round in a circle.
bool ClusterRun::Await(const std::function<bool()>& done, Instant limit) {
  const auto enough = [this] { return sim_.loop().steps() > kEventsMax; };
  const bool came = sim_.RunUntil([&] { return done() || enough(); }, limit);
  if (enough()) Found(Rule::kTooMuch, fmt::format("more than {} events", kEventsMax));
  return came && !enough();
}

void ClusterRun::RestartLater(std::size_t node, Duration after) {
  pending_repairs_ += 1;
  sim_.loop().At(After(sim_.Now(), after), [this, node] {
    pending_repairs_ -= 1;
    StartNode(node);
  });
}

void ClusterRun::LookForCrashPoint(const SimTurn* turn) {
  const CrashPoint& point = *plan_.crash_point;
  const bool is_node = point.victim < shape_.nodes;
  if (!is_node && !directory_) return;
  SimProcess& process = is_node ? ProcessOf(point.victim) : *directory_->process;
  if (!may_crash_ || &process.turn() != turn || ++victim_events_ != point.event) return;
  outcome_.crash_point_reached = true;
  constexpr Duration kDead = 20ms;
  if (is_node) {
    CrashNode(point.victim, CrashKind::kKilled, kDead);
  } else {
    CrashDirectory(CrashKind::kKilled, kDead);
  }
}

}  // namespace mooncake
