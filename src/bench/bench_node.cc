#include "bench/bench_node.h"

#include "directory/p2p/p2p_directory.h"

namespace mooncake {

BenchNode::BenchNode(World& world, std::string label, const std::vector<std::string>& transports,
                     const TransportFactory& add_transports, const CopyEngine& copy)
    : world_(world),
      directory_(MakeP2pDirectory(world)),
      port_(std::make_shared<PortServer>(world, metrics_, PortServerOptions{})) {
  Identity identity{world.random.DrawInstanceId(), 1, std::move(label), world.network.host(),
                    MOONCAKE_VERSION};
  EngineOptions options;
  options.transports = transports;
  engine_ = std::make_unique<Engine>(world, metrics_, port_, *directory_, std::move(identity),
                                     std::move(options));
  add_transports(world, metrics_, *engine_, copy);
  Await(world.control, [](Engine& engine) -> Task<void> {
    engine.Start();
    co_return;
  }(*engine_));
}

BenchNode::~BenchNode() {
  Await(world_.control, [](PortServer& port) -> Task<void> {
    port.Close(Error{ErrorId::kClosed, "the benchmark ends"});
    co_return;
  }(*port_));
  engine_ = nullptr;
}

Result<Endpoint> BenchNode::Listen(const Endpoint& at) {
  MC_TRY(std::unique_ptr<Listener> listener, world_.network.Listen(world_.control, at));
  const Endpoint bound = listener->bound();
  Await(world_.control, [](PortServer& port, std::shared_ptr<Listener> one) -> Task<void> {
    port.Serve(std::move(one));
    co_return;
  }(*port_, std::move(listener)));
  return bound;
}

}  // namespace mooncake
