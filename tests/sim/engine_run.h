// One run of the engine simulation: a cluster built from a plan, its load (engine_load.cc), its
// faults (engine_faults.cc), and what is told to the checker of histories (engine_checks.cc).
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>
#include <set>

#include "checked_memory.h"
#include "directory/memory/directory_server.h"
#include "engine/engine.h"
#include "engine_sim.h"
#include "history_checker.h"
#include "plan.h"
#include "sim/sim_world.h"
#include "transport/fake/fake_transport.h"

namespace mooncake {

struct Instance;

struct Region {
  Region(Instance& o, const RegionInfo& i, bool l, MutableBytes bytes, SimRandom& random)
      : owner(o), info(i), listed(l), memory(bytes, random) {}
  Instance& owner;
  RegionInfo info;
  bool listed;
  CheckedMemory memory;
  std::size_t local_batches = 0;  // of its owner, that use it as local memory
  bool leaving = false;           // being unregistered
};
using RegionPtr = std::shared_ptr<Region>;

// One process of a node: a node that restarts has several, one after another.
struct Instance {
  enum class State { kStarting, kLive, kClosing, kClosed, kDead };
  Instance(std::size_t i, std::size_t n, SimProcess& p, std::size_t memory_bytes,
           std::uint64_t seed)
      : number(i), node(n), process(p), random(seed), arena(memory_bytes) {}
  std::size_t number;  // in the history
  std::size_t node;
  SimProcess& process;
  SimRandom random;  // of what fills its memory
  Identity identity;
  Metrics metrics;
  std::unique_ptr<Directory> directory;
  std::shared_ptr<PortServer> port;
  std::unique_ptr<Engine> engine;
  State state = State::kStarting;
  std::size_t closes = 0;  // running
  std::vector<std::byte> arena;
  std::vector<RegionPtr> regions;                      // those that can be used
  std::vector<RegionPtr> abandoned;                    // unregistered, but not in time
  std::vector<std::unique_ptr<CheckedMemory>> guards;  // memory that nobody may touch
  std::map<std::size_t, PeerPtr> peers;                // by node
  std::set<std::size_t> connecting;
  std::set<std::uint64_t> others;  // connects and unregistrations, running
};

struct Range {
  RegionPtr local;
  RegionPtr remote;
  std::uint64_t local_offset;
  std::uint64_t remote_offset;
  std::uint64_t length;
  std::vector<std::byte> bytes;  // that are to be at the destination
};

// A batch, or a notification alone.
struct Operation {
  std::uint64_t number = 0;
  Instance* from = nullptr;
  Instance* to = nullptr;
  Direction direction = Direction::kWrite;
  bool notify = false;
  std::vector<Range> ranges;
  std::uint64_t total_bytes = 0;
  Instant deadline = kNever;
  std::shared_ptr<Batch> batch;
  bool ended = false;
  bool orphaned = false;  // who started it is dead
};
using OperationPtr = std::shared_ptr<Operation>;

// The process that carries the directory.
struct DirectoryHost {
  SimProcess* process = nullptr;
  Metrics metrics;
  std::shared_ptr<PortServer> port;
  std::shared_ptr<DirectoryServer> server;
};

class EngineRun {
 public:
  EngineRun(Plan plan, bool keep_history);
  SimOutcome Run();
  [[nodiscard]] bool taken_down() const noexcept { return taken_down_; }

 private:
  static constexpr std::uint16_t kDirectoryPort = 7700;
  static constexpr std::uint16_t kFirstPort = 5000;

  // ---- the cluster ----
  void Build();
  std::string Label(std::size_t node) const;
  void StartDirectory();
  void Start(std::size_t node);
  Task<void> Publish(Instance& instance, Endpoint at);
  void Register(Instance& instance);
  void AddRegion(Instance& instance, MutableBytes memory);
  void BeginClose(Instance& instance);
  Task<void> Close(Instance& instance);
  Task<void> CloseParts(Instance& instance);
  void Heal();
  Task<void> Prove(Instance& from, std::size_t to);
  void TakeDown();
  bool Await(const std::function<bool()>& done, Instant limit);
  [[nodiscard]] std::vector<SimHost*> AllHosts() const;

  // ---- load ----
  void ScheduleActions();
  void Act(const Action& action);
  void ConnectTo(Instance& from, std::size_t to, SimRandom& random);
  Instant DrawDeadline(SimRandom& random) const;
  OperationPtr NewOperation(Instance& from, const PeerPtr& peer);
  static std::optional<std::uint64_t> FindFree(const RegionPtr& region, std::uint64_t length,
                                               SimRandom& random);
  static RegionPtr DrawRegion(Instance& instance, SimRandom& random);
  OperationPtr Submit(Instance& from, const PeerPtr& peer, SimRandom& random);
  void AddRange(Operation& operation, const PeerPtr& peer, std::vector<Copy>& copies,
                std::uint64_t count, SimRandom& random);
  void NotifyOnly(Instance& from, const PeerPtr& peer, SimRandom& random);
  void CancelOne(SimRandom& random);
  std::uint64_t BeginOther(Instance& instance, std::string name, history::Kind kind,
                           Instant deadline);
  void EndOther(Instance& instance, history::Ended end);
  void UnregisterOne(Instance& instance, SimRandom& random);
  void Unregistered(Instance& owner, const RegionPtr& region, std::uint64_t number,
                    const Status& status);

  // ---- faults ----
  void ScheduleFaults();
  void Commit(const Fault& fault);
  bool Reaches(const InstanceId& from, const InstanceId& to);
  void Block(SimHost& from, SimHost& to, int by);
  void Partition(Duration lasts, SimRandom& random);
  void PartitionPair(Duration lasts, SimRandom& random);
  void Hold(const std::vector<std::pair<SimHost*, SimHost*>>& ways, Duration lasts);
  void StepWall(SimRandom& random);
  void Stall(Instance& instance, Duration lasts);
  void Crash(std::size_t node, CrashKind kind, Duration lasts);
  void OrphanOthers(Instance& instance);
  void Bury(Instance& instance, Duration lasts);
  void RetireAll(Instance& instance);
  void RestartLater(std::size_t node, Duration after);
  void StopInOrder(std::size_t node, Duration lasts);
  void CrashDirectory(CrashKind kind, Duration lasts);
  void LookForCrashPoint(const SimTurn* turn);

  // ---- what the checker is told ----
  void Tell(history::Event event);
  static std::string Where(const Region& region);
  void Completed(const OperationPtr& operation, const Status& status);
  static void ForgetPeer(Instance& from, const Instance& to);
  static std::string WrongBytes(const Operation& operation);
  void SettleRange(const Operation& operation, Range& range, bool success);
  void CheckAround(const Region& region, std::uint64_t offset, std::uint64_t length);
  void CheckAllMemory();
  void CheckLeases();
  void AfterStep(const SimTurn* turn);
  void TakeNotificationsOf(Instance& instance);
  void CheckLeft(const SimProcess& process, const std::string& name);
  void Found(Rule rule, std::string text);
  template <class... Arguments>
  void Record(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    Note(fmt::format(format, std::forward<Arguments>(arguments)...));
  }
  void Note(const std::string& text);
  void Digest(std::string_view text);

  const Plan plan_;
  const Shape& shape_;
  SimWorld sim_;
  const bool keep_history_;
  SimOutcome outcome_;
  HistoryChecker checker_;
  std::size_t violations_told_ = 0;
  std::unique_ptr<FakeWire> wire_;
  std::vector<SimHost*> node_hosts_;
  SimHost* directory_host_ = nullptr;
  std::map<std::pair<SimHost*, SimHost*>, int> blocked_;  // how often, by way
  std::shared_ptr<DirectoryHost> directory_;              // the one that is meant to run
  std::vector<std::shared_ptr<DirectoryHost>> all_directories_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::vector<Instance*> current_;  // by node
  std::map<InstanceId, Instance*> by_id_;
  std::vector<OperationPtr> operations_;
  std::map<std::uint64_t, Instant> dead_since_;  // by instance number
  std::uint64_t others_ = 0;  // operations that are no batch and no notification, so far
  std::size_t actions_left_ = 0;
  std::size_t faults_left_ = 0;
  std::size_t pending_repairs_ = 0;
  std::uint64_t victim_events_ = 0;
  std::uint64_t steps_since_check_ = 0;
  bool may_crash_ = true;
  bool taken_down_ = false;
  Instant begin_{};
  std::uint64_t digest_ = 0xCBF29CE484222325ULL;
};

}  // namespace mooncake
