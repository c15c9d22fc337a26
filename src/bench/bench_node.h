// An engine with a port of its own: what each of the two processes of a benchmark has.
#pragma once

#include <memory>

#include "base/await.h"
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

}  // namespace mooncake
