// One run of the engine simulation: a cluster built from a plan, its load (engine_load.cc), its
// faults (engine_faults.cc), and what is told to the checker of histories (engine_checks.cc).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>

#include "checked_memory.h"
#include "cluster_run.h"
#include "engine/engine.h"
#include "transport/fake/fake_transport.h"

namespace mooncake {

struct EngineNode;

struct Region {
  Region(EngineNode& o, const RegionInfo& i, bool l, MutableBytes bytes, SimRandom& random)
      : owner(o), info(i), listed(l), memory(bytes, random) {}
  EngineNode& owner;
  RegionInfo info;
  bool listed;
  CheckedMemory memory;
  std::size_t local_batches = 0;  // of its owner, that use it as local memory
  bool leaving = false;           // being unregistered
};
using RegionPtr = std::shared_ptr<Region>;

// One process of a node: a node that restarts has several, one after another.
struct EngineNode {
  enum class State { kStarting, kLive, kClosing, kClosed, kDead };
  EngineNode(std::size_t i, std::size_t n, SimProcess& p, std::size_t memory_bytes,
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
  EngineNode* from = nullptr;
  EngineNode* to = nullptr;
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

class EngineRun final : public ClusterRun {
 public:
  EngineRun(Plan plan, bool keep_history);

 private:
  // ---- the cluster ----
  void StartNode(std::size_t node) override;
  SimProcess& ProcessOf(std::size_t node) override { return current_[node]->process; }
  void Heal() override;
  void TakeDown() override;
  std::string Label(std::size_t node) const;
  Task<void> Publish(EngineNode& instance, Endpoint at);
  void Register(EngineNode& instance);
  void AddRegion(EngineNode& instance, MutableBytes memory);
  void BeginClose(EngineNode& instance);
  Task<void> Close(EngineNode& instance);
  Task<void> CloseParts(EngineNode& instance);
  Task<void> Prove(EngineNode& from, std::size_t to);

  // ---- load ----
  void Act(const Action& action) override;
  void ConnectTo(EngineNode& from, std::size_t to, SimRandom& random);
  Instant DrawDeadline(SimRandom& random) const;
  OperationPtr NewOperation(EngineNode& from, const PeerPtr& peer);
  static std::optional<std::uint64_t> FindFree(const RegionPtr& region, std::uint64_t length,
                                               SimRandom& random);
  static RegionPtr DrawRegion(EngineNode& instance, SimRandom& random);
  OperationPtr Submit(EngineNode& from, const PeerPtr& peer, SimRandom& random);
  void AddRange(Operation& operation, const PeerPtr& peer, std::vector<Copy>& copies,
                std::uint64_t count, SimRandom& random);
  void NotifyOnly(EngineNode& from, const PeerPtr& peer, SimRandom& random);
  void CancelOne(SimRandom& random);
  std::uint64_t BeginOther(EngineNode& instance, std::string name, history::Kind kind,
                           Instant deadline);
  void EndOther(EngineNode& instance, history::Ended end);
  void UnregisterOne(EngineNode& instance, SimRandom& random);
  void Unregistered(EngineNode& owner, const RegionPtr& region, std::uint64_t number,
                    const Status& status);

  // ---- faults ----
  bool Reaches(const InstanceId& from, const InstanceId& to);
  void StallNode(std::size_t node, Duration lasts) override;
  void CrashNode(std::size_t node, CrashKind kind, Duration lasts) override;
  void StopNode(std::size_t node, Duration lasts) override;
  void OrphanOthers(EngineNode& instance);
  void Bury(EngineNode& instance, Duration lasts);
  void RetireAll(EngineNode& instance);

  // ---- what the checker is told ----
  static std::string Where(const Region& region);
  void Completed(const OperationPtr& operation, const Status& status);
  static void ForgetPeer(EngineNode& from, const EngineNode& to);
  static std::string WrongBytes(const Operation& operation);
  void SettleRange(const Operation& operation, Range& range, bool success);
  void CheckAround(const Region& region, std::uint64_t offset, std::uint64_t length);
  void CheckAllMemory();
  void CheckLeases();
  void AfterStep(const SimTurn* turn) override;
  void TakeNotificationsOf(EngineNode& instance);

  std::unique_ptr<FakeWire> wire_;
  std::vector<std::unique_ptr<EngineNode>> instances_;
  std::vector<EngineNode*> current_;  // by node
  std::map<InstanceId, EngineNode*> by_id_;
  std::vector<OperationPtr> operations_;
  std::map<std::uint64_t, Instant> dead_since_;  // by instance number
  std::uint64_t others_ = 0;  // operations that are no batch and no notification, so far
  std::uint64_t steps_since_check_ = 0;
};

}  // namespace mooncake
