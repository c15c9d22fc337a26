// What a run of the simulator is going to be, decided before it begins: the shape of the cluster, a
// list of actions and a list of faults. Each action and fault has a seed of its own, so that one
// that is left out changes nothing in the others: that is how a failing run is made smaller.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "sim/sim_network.h"
#include "transport/fake/fake_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {

struct Shape {
  std::size_t nodes = 2;
  std::size_t nodes_drawn = 2;  ///< Actions choose among these; those of nodes left out do nothing.
  bool share_hosts = false;
  bool own_directory = false;  ///< All on one host, which one of them carries the directory of.
  bool p2p = false;
  bool tcp = true;
  bool fake = false;
  TcpOptions tcp_options;
  FakeOptions fake_options;
  EngineOptions engine;
  PortServerOptions port;
  std::size_t memory_bytes = 0;
  SimLink link;
  SimStreamOptions streams;
  std::uint64_t clock_drift_ppm_max = 0;
};

enum class Subject : std::uint8_t {
  kEngines,    ///< Engines, their memory and their batches.
  kInstances,  ///< Prefill and decode instances with their clients.
};

/// What instances are beyond their engines. Small, so that they are full now and then.
struct InstanceShape {
  std::vector<std::string> roles;  ///< By node.
  double scale = 0.25;
  std::uint64_t page_tokens = 4;
  std::uint64_t kv_pages = 64;
  std::uint64_t queue_max = 16;
  std::uint64_t running_max = 4;
  Duration request_timeout = std::chrono::seconds(10);
  std::uint64_t prefill_tokens_per_second = 0;
  std::uint64_t decode_tokens_per_second = 0;
};

struct Action {
  Duration at{};           ///< Since the beginning.
  std::uint64_t seed = 0;  ///< What it does follows from this.
};

enum class FaultKind : std::uint8_t {
  kCut,            ///< Connections, some of them unnoticed.
  kPartition,      ///< Hosts from the rest.
  kPairPartition,  ///< Two hosts that both reach all others.
  kStall,
  kCrash,
  kStop,  ///< In order, and started again.
  kDirectoryCrash,
  kWallStep,  ///< Somebody sets a host's clock.
};
[[nodiscard]] std::string_view ToString(FaultKind kind) noexcept;

struct Fault {
  Duration at{};
  FaultKind kind = FaultKind::kCut;
  std::uint64_t seed = 0;
};

/// One process is killed after one of its events: of a node, or (past the last node) of the
/// directory.
struct CrashPoint {
  std::size_t victim = 0;
  std::uint64_t event = 0;  ///< Counted from 1.
};

struct Plan {
  std::uint64_t seed = 0;
  Subject subject = Subject::kEngines;
  Shape shape;
  InstanceShape instances;
  std::vector<Action> actions;
  std::vector<Fault> faults;
  std::optional<CrashPoint> crash_point;
};

[[nodiscard]] Plan DrawPlan(std::uint64_t seed);
/// As DrawPlan() of a seed that draws this subject.
[[nodiscard]] Plan DrawPlan(std::uint64_t seed, Subject subject);
/// A short, calm run whose every event may be somebody's last. `tcp`: over sockets, else the fake
/// transport.
[[nodiscard]] Plan CrashPlan(Subject subject, bool tcp);
/// "4 engines, tcp+fake, P2PHANDSHAKE, 40 actions, 3 faults, …".
[[nodiscard]] std::string Describe(const Plan& plan);

}  // namespace mooncake
