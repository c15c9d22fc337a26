// "cuda": moves memory of GPUs that no other transport reaches, by CUDA IPC within a host, else by
// way of buffers of the host. docs/design/gpu-memory.md.
#pragma once

#include <functional>
#include <memory>

#include "base/metrics.h"
#include "gpu/device_memory.h"
#include "memory/copy.h"
#include "memory/region_table.h"
#include "transport/transport.h"
#include "wire/handshake.h"

namespace mooncake {

/// Connects nothing and has no thread until a transfer needs it. `introduce` tells who this side
/// is, at each dial. `world` and `metrics` outlive the transport.
[[nodiscard]] std::unique_ptr<Transport> MakeCudaTransport(
    World& world, Metrics& metrics, std::shared_ptr<const RegionTable> regions,
    std::shared_ptr<DeviceMemory> gpus, const CopyEngine& copy,
    std::function<Introduction()> introduce);

}  // namespace mooncake
