// Device memory as CUDA has it.
#pragma once

#include "gpu/cuda_driver.h"
#include "gpu/device_memory.h"

namespace mooncake::gpu {

/// `lookup` is asked at each Locate() until it has found the driver. Contexts are the application's
/// own (the primary one of each GPU), kept while this or anything made by it lives.
[[nodiscard]] std::shared_ptr<DeviceMemory> MakeCudaMemory(CudaLookup lookup);

}  // namespace mooncake::gpu
