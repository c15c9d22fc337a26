// RDMA: memory of peers is written and read by the network card, over reliable queue pairs.
// docs/design/rdma.md.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "gpu/device_memory.h"
#include "memory/region_table.h"
#include "transport/rdma/rdma_options.h"
#include "transport/transport.h"
#include "wire/handshake.h"

namespace mooncake {

namespace rdma {
class Verbs;
}

/// `devices`: names, at least one; those that cannot be opened are left out, with a line in the
/// log. `gpus` may own some of the regions. `introduce` tells who this side is, at each dial.
/// `world` and `metrics` outlive the transport. kRdmaCall: the driver refuses, for each device.
[[nodiscard]] Result<std::unique_ptr<Transport>> MakeRdmaTransport(
    World& world, Metrics& metrics, std::shared_ptr<rdma::Verbs> verbs,
    const std::vector<std::string>& devices, std::shared_ptr<const RegionTable> regions,
    std::shared_ptr<DeviceMemory> gpus, std::function<Introduction()> introduce,
    const RdmaOptions& options);

}  // namespace mooncake
