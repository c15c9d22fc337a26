// libcuda, found at run time.
#pragma once

#include "gpu/cuda_driver.h"

namespace mooncake::gpu {

/// libcuda.so.1 if this process has loaded it: only then it can have memory of a GPU. Loads and
/// initialises nothing. kMemoryKind: it has not, or the library is too old.
[[nodiscard]] Result<std::shared_ptr<CudaDriver>> FindLoadedCudaDriver();

}  // namespace mooncake::gpu
