// GPUs of one process, for tests. Their memory traps when the processor touches it; copies happen
// when somebody waits for them, and not before; any call fails when it is told to.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fault_book.h"
#include "gpu/cuda_driver.h"

namespace mooncake::gpu {

struct FakeGpus {
  int devices = 1;
  bool initialized = true;  ///< Whether the application has called cuInit().
  bool ipc = true;
  bool dmabuf = true;
  bool opens_other_memory = false;  ///< What a handle opens here is not what it was made of.
};

/// How the application got memory.
enum class FakeKind : std::uint8_t {
  kPlain,    ///< cudaMalloc.
  kMapped,   ///< Mapped piece by piece: it has no IPC handle.
  kManaged,  ///< The processor may touch it.
  kPinned,   ///< Likewise.
};

/// The GPUs as one process sees them: two engines of a test have one each. Handles open what
/// another one exports, of this process or of another one of this user. Live handles are contexts,
/// streams, buffers, allocations and imports, without the application's own. Any thread.
class FakeCudaDriver : public CudaDriver, public FaultBook {
 public:
  [[nodiscard]] static std::shared_ptr<FakeCudaDriver> Make(const FakeGpus& gpus = {});

  // ---- as the application ----
  [[nodiscard]] virtual std::byte* AllocateMemory(int device, std::size_t length_bytes,
                                                  FakeKind kind = FakeKind::kPlain) = 0;
  virtual void FreeMemory(std::byte* address) = 0;

  // ---- as the test ----
  /// What the GPU has at `address`, for the eyes of the test.
  [[nodiscard]] virtual std::span<std::byte> View(const std::byte* address) = 0;
  /// The names that FailCall() takes, "StreamCreate" for one.
  [[nodiscard]] static std::vector<std::string> Calls();
};

}  // namespace mooncake::gpu
