// An engine with a port of its own: what each of the two processes of a benchmark has.
#pragma once

#include <future>
#include <memory>

#include "base/metrics.h"
#include "engine/engine.h"

namespace mooncake {

class BenchNode {
 public:
  /// Only these transports; all if empty.
  BenchNode(World& world, std::string label, const std::vector<std::string>& transports,
            const TransportFactory& add_transports, const CopyEngine& copy);
  ~BenchNode();
  BenchNode(const BenchNode&) = delete;
  BenchNode& operator=(const BenchNode&) = delete;

  [[nodiscard]] Engine& engine() noexcept { return *engine_; }
  /// Before Listen().
  [[nodiscard]] RpcRouter& router() noexcept { return port_->router; }
  /// Serves peers from now on, there. Errors as Network::Listen.
  [[nodiscard]] Result<Endpoint> Listen(const Endpoint& at);

 private:
  World& world_;
  Metrics metrics_;
  std::unique_ptr<Directory> directory_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
};

/// Runs `task` on the control loop and waits for it. Not from a loop.
template <class T>
T AwaitOnControl(World& world, Task<T> task) {
  std::promise<T> end;
  Spawn(world.control, [](Task<T> body, std::promise<T>& result) -> Task<void> {
    T value = co_await std::move(body);
    result.set_value(std::move(value));
  }(std::move(task), end));
  return end.get_future().get();
}

}  // namespace mooncake
