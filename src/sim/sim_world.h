// The simulated World: processes on hosts, all in one thread, under simulated time. All chance
// comes from one seed, so that a seed replays a run exactly. docs/design/simulator.md says what is
// simulated and what is not.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/world.h"
#include "sim/sim_loop.h"
#include "sim/sim_network.h"
#include "sim/sim_random.h"

namespace mooncake {

enum class CrashKind : std::uint8_t {
  kKilled,     ///< Its kernel lives and closes its connections.
  kPowerLost,  ///< The host is gone with everything on it: peers hear nothing. Until a process is
               ///< started there again.
};

class SimWorld;

/// One process: its own view of the world, its own clocks. Made by SimWorld::Start().
class SimProcess {
 public:
  ~SimProcess();
  SimProcess(const SimProcess&) = delete;
  SimProcess& operator=(const SimProcess&) = delete;

  [[nodiscard]] World& world() noexcept;
  [[nodiscard]] SimHost& host() const noexcept { return host_; }
  [[nodiscard]] SimTurn& turn() noexcept { return turn_; }
  [[nodiscard]] bool is_dead() const noexcept { return dead_; }
  /// What its clock shows at simulated instant `when`, and the reverse.
  [[nodiscard]] Instant ToLocal(Instant when) const noexcept;
  /// The first instant at which its clock shows `when`.
  [[nodiscard]] Instant FromLocal(Instant when) const noexcept;

  /// What it has not given back. After an orderly end of everything in it: nothing.
  struct Left {
    std::size_t coroutines = 0;  ///< 0 or not: Asio counts some of them twice.
    std::size_t streams = 0;
    std::size_t listeners = 0;
    std::size_t timers = 0;
    [[nodiscard]] bool nothing() const noexcept {
      return coroutines + streams + listeners + timers == 0;
    }
  };
  [[nodiscard]] Left left() const noexcept;

 private:
  friend class SimWorld;
  friend class SimNet;
  friend class SimStream;
  friend class SimListener;
  friend class SimTimer;
  struct Parts;
  SimProcess(SimWorld& world, SimHost& host, HostIdentity identity, std::uint64_t seed);
  SimHost& host_;
  SimTurn turn_;
  Executor executor_;
  Duration clock_offset_{};
  std::int64_t clock_drift_ppm_ = 0;
  bool dead_ = false;
  std::size_t streams_ = 0;
  std::size_t listeners_ = 0;
  std::size_t timers_ = 0;
  std::unique_ptr<Parts> parts_;
};

class SimWorld {
 public:
  explicit SimWorld(std::uint64_t seed);
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  /// For whoever draws what happens in the simulation. Processes, hosts and connections have
  /// streams of their own.
  [[nodiscard]] SimRandom& random() noexcept { return random_; }
  [[nodiscard]] SimLoop& loop() noexcept { return loop_; }
  [[nodiscard]] SimNet& net() noexcept { return net_; }
  [[nodiscard]] Instant Now() const noexcept { return loop_.Now(); }

  /// "host-3" with the addresses 10.0.0.3 and 127.0.0.1.
  SimHost& AddHost();
  /// Clocks of processes that are started from now on go fast or slow by up to this many parts per
  /// million.
  std::uint64_t clock_drift_ppm_max = 0;
  /// A new process on `host`, with a steady clock of its own. A host without power is switched on.
  SimProcess& Start(SimHost& host);

  /// Runs what happens until `until`; what lies at that instant too.
  void RunUntil(Instant until);
  void RunFor(Duration duration) { RunUntil(After(Now(), duration)); }
  /// Runs until `done` says so; false if that is not before `limit`.
  [[nodiscard]] bool RunUntil(const std::function<bool()>& done, Instant limit);
  /// Runs one coroutine of `process` to its end; false if that is not before `limit`.
  [[nodiscard]] bool Run(SimProcess& process, Task<void> task, Instant limit = kNever);

  /// At once: nothing of the process runs any more, and nothing leaves it.
  void Crash(SimProcess& process, CrashKind kind);
  /// Lets the coroutines of a dead process run again, cut off from everybody, so that its owner can
  /// take it down and look whether anything is left.
  void Exhume(SimProcess& process);
  /// Somebody sets the host's clock: wall time steps forward or back, for all processes there.
  void StepWallClock(SimHost& host, Duration by) { host.wall_offset_ += by; }
  /// Stops the process for a while, as SIGSTOP does: its kernel goes on, its peers wait.
  void Stall(SimProcess& process, Duration duration);

 private:
  friend class SimProcess;
  const std::uint64_t seed_;
  SimRandom random_;
  SimLoop loop_;
  SimNet net_;
  std::vector<std::unique_ptr<SimProcess>> processes_;
  std::size_t hosts_ = 0;
};

}  // namespace mooncake
