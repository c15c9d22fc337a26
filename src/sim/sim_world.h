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

namespace mooncake {

/// xoshiro256**: fast, and the same everywhere.
class SimRandom final : public Random {
 public:
  explicit SimRandom(std::uint64_t seed);
  std::uint64_t Next() override;
  /// Uniform in [low, high].
  [[nodiscard]] std::uint64_t Between(std::uint64_t low, std::uint64_t high) {
    return low + Below(high - low + 1);
  }
  [[nodiscard]] Duration Between(Duration low, Duration high) {
    return Duration(static_cast<std::int64_t>(Between(static_cast<std::uint64_t>(low.count()),
                                                      static_cast<std::uint64_t>(high.count()))));
  }
  /// Small values as likely as large ones: the number of digits is what is drawn.
  [[nodiscard]] std::uint64_t Skewed(std::uint64_t low, std::uint64_t high);
  [[nodiscard]] Duration Skewed(Duration low, Duration high) {
    return Duration(static_cast<std::int64_t>(
        Skewed(static_cast<std::uint64_t>(low.count()), static_cast<std::uint64_t>(high.count()))));
  }
  [[nodiscard]] bool Chance(double share) {
    return static_cast<double>(Next() >> 11) * 0x1.0p-53 < share;
  }

 private:
  std::array<std::uint64_t, 4> state_{};
};

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
  [[nodiscard]] Instant ToLocal(Instant when) const noexcept {
    return when == kNever ? when : when + clock_offset_;
  }
  [[nodiscard]] Instant FromLocal(Instant when) const noexcept {
    return when == kNever ? when : when - clock_offset_;
  }

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
  SimProcess(SimWorld& world, SimHost& host, HostIdentity identity, Duration clock_offset);
  SimWorld& sim_;
  SimHost& host_;
  SimTurn turn_;
  Executor executor_;
  Duration clock_offset_;
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

  /// The chance of faults and of the network, and for whoever draws what happens in the simulation.
  [[nodiscard]] SimRandom& random() noexcept { return random_; }
  [[nodiscard]] SimLoop& loop() noexcept { return loop_; }
  [[nodiscard]] SimNet& net() noexcept { return net_; }
  [[nodiscard]] Instant Now() const noexcept { return loop_.Now(); }

  /// "host-3" with the addresses 10.0.0.3 and 127.0.0.1.
  SimHost& AddHost();
  /// A new process on `host`, with clocks of its own. A host without power is switched on.
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
  /// Stops the process for a while, as SIGSTOP does: its kernel goes on, its peers wait.
  void Stall(SimProcess& process, Duration duration);

 private:
  friend class SimProcess;
  SimRandom random_;
  SimLoop loop_;
  SimNet net_;
  std::vector<std::unique_ptr<SimProcess>> processes_;
  std::size_t hosts_ = 0;
};

}  // namespace mooncake
