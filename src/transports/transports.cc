#include "transports/transports.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "gpu/cuda_memory.h"
#include "gpu/real_cuda_driver.h"
#include "topology/device_choice.h"
#include "transport/cma/cma_transport.h"
#include "transport/cuda/cuda_transport.h"
#include "transport/rdma/rdma_transport.h"
#include "transport/rdma/real_verbs.h"
#include "transport/shm/shm_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

Result<std::unique_ptr<Transport>> MakeRdma(World& world, Metrics& metrics, Engine& engine,
                                            const TransportPlan& plan) {
  RdmaOptions options;
  options.nearest = plan.rdma_nearest;
  MC_TRY(std::shared_ptr<rdma::Verbs> verbs, rdma::OpenRealVerbs());
  return MakeRdmaTransport(
      world, metrics, std::move(verbs), plan.rdma_devices, engine.regions(), engine.gpus(),
      [&engine] { return engine.Introduce(); }, options);
}

// For memory of each NUMA node and each GPU.
std::map<std::string, std::vector<std::vector<std::string>>> Nearest(const Topology& topology) {
  std::map<std::string, std::vector<std::vector<std::string>>> nearest;
  for (const NumaNode& node : topology.nodes) {
    const std::string location = fmt::format("cpu:{}", node.id);
    nearest[location] = TiersFor(topology, location);
  }
  for (const Gpu& gpu : topology.gpus) nearest[gpu.location] = TiersFor(topology, gpu.location);
  return nearest;
}

void SayWhyNoRdma(const std::string& why) {
  MC_LOG(info, "rdma is not in use: {}; the fastest of the others serves", why);
}

}  // namespace

Result<TransportPlan> PlanTransports(const TransportChoice& choice) {
  TransportPlan plan;
  const auto& only = choice.transports;
  const bool listed = std::find(only.begin(), only.end(), "rdma") != only.end();
  const bool asked = choice.protocol == "rdma" || listed;
  if (!listed && !only.empty()) {
    if (asked) plan.why_no_rdma = "it is not among the transports in use";
    return plan;
  }
  if (choice.protocol == "tcp" || choice.protocol == "shm") return plan;
  if (choice.encrypted && !listed) {
    if (asked)
      plan.why_no_rdma = "its bytes are not encrypted; list it in transports to allow that";
    return plan;
  }
  if (!choice.discover && choice.device_name.empty()) {
    if (asked) plan.why_no_rdma = "no device is named, and none is to be looked for";
    return plan;
  }
  const Topology topology = ReadTopology();
  Result<DeviceChoice> devices = ChooseDevices(topology.devices, choice.device_name);
  if (devices) {
    plan.rdma_devices = std::move(devices->used);
    plan.rdma_nearest = Nearest(topology);
  } else if (devices.error().id != ErrorId::kNoRdma) {
    return Fail(devices.error());
  } else if (asked) {
    plan.why_no_rdma = devices.error().context;
  }
  return plan;
}

TransportFactory MakeTransports(TransportPlan plan) {
  return [plan = std::move(plan)](World& world, Metrics& metrics, Engine& engine,
                                  const CopyEngine& copy) {
    engine.UseGpus(gpu::MakeCudaMemory(gpu::FindLoadedCudaDriver));
    if (Result<std::vector<std::unique_ptr<Transport>>> shared =
            MakeShmTransports(world, engine.identity().id, engine.regions(), copy)) {
      for (std::unique_ptr<Transport>& transport : *shared)
        engine.AddTransport(std::move(transport));
    } else {
      MC_LOG(warn, "shm and ring are not in use: {}", shared.error().Text());
    }
    engine.AddTransport(MakeCmaTransport(world, engine.identity().id));
    if (plan.rdma_devices.empty()) {
      if (!plan.why_no_rdma.empty()) SayWhyNoRdma(plan.why_no_rdma);
    } else if (Result<std::unique_ptr<Transport>> rdma = MakeRdma(world, metrics, engine, plan)) {
      engine.AddTransport(std::move(*rdma));
    } else {
      SayWhyNoRdma(rdma.error().context);
    }
    engine.AddTransport(MakeCudaTransport(world, metrics, engine.regions(), engine.gpus(), copy,
                                          [&engine] { return engine.Introduce(); }));
    engine.AddTransport(MakeTcpTransport(
        world, metrics, engine.regions(), copy, [&engine] { return engine.Introduce(); },
        TcpOptions{}));
  };
}

}  // namespace mooncake
