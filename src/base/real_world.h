// The real World: Asio on two loops, the kernel's clocks, random numbers, sockets and files.
#pragma once

#include <memory>
#include <string>

#include "base/world.h"

namespace mooncake {

/// Owns the loops, one thread each. Stop() ends both: what is ready there still runs, what waits is
/// destroyed.
class RealWorld {
 public:
  RealWorld();
  ~RealWorld();
  RealWorld(const RealWorld&) = delete;
  RealWorld& operator=(const RealWorld&) = delete;

  [[nodiscard]] World& world() noexcept;
  /// Runs `call` on the control loop when the process gets SIGINT or SIGTERM from now on, each
  /// time. Not from a loop.
  void OnStopSignal(std::function<void()> call);
  /// Joins the loops' threads. Not from a loop.
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Processor time that all threads of this process have spent.
[[nodiscard]] Duration ProcessCpuTime() noexcept;

/// The environment variable, empty if unset.
[[nodiscard]] std::string ReadEnvironment(const char* name);

}  // namespace mooncake
