#include "transports/transports.h"

#include "base/log.h"
#include "transport/cma/cma_transport.h"
#include "transport/shm/shm_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {

void AddTransports(World& world, Metrics& metrics, Engine& engine, const CopyEngine& copy) {
  if (Result<std::vector<std::unique_ptr<Transport>>> shared =
          MakeShmTransports(world, engine.identity().id, engine.regions(), copy)) {
    for (std::unique_ptr<Transport>& transport : *shared) engine.AddTransport(std::move(transport));
  } else {
    MC_LOG(warn, "shm and ring are not in use: {}", shared.error().Text());
  }
  engine.AddTransport(MakeCmaTransport(world, engine.identity().id));
  const auto introduce = [&engine] { return engine.Introduce(); };
  engine.AddTransport(
      MakeTcpTransport(world, metrics, engine.regions(), copy, introduce, TcpOptions{}));
}

}  // namespace mooncake
