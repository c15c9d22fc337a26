// The calls of the CUDA driver that are needed, as an interface: libcuda where the process has
// loaded it (real_cuda_driver.h), GPUs within the process for tests (fake_cuda_driver.h). Meanings
// are those of the driver's documentation; types and numbers are declared here, so that no header
// of NVIDIA is needed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"

namespace mooncake::gpu {

/// CUresult; others than these occur.
enum class CudaResult : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kInvalidContext = 201,
  kNotFound = 500,
  kNotReady = 600,
  kNotSupported = 801,
  kUnknown = 999,
};

using CudaContext = struct CudaContextOpaque*;
using CudaStream = struct CudaStreamOpaque*;
using DeviceAddress = std::uint64_t;  ///< CUdeviceptr: an address like any other, here.

/// CUpointer_attribute.
enum class PointerAttribute : int {
  kMemoryType = 2,     ///< unsigned: kMemoryTypeDevice, or another kind.
  kSyncMemops = 6,     ///< unsigned, also to be set.
  kIsManaged = 8,      ///< unsigned.
  kDeviceOrdinal = 9,  ///< int.
};
inline constexpr unsigned kMemoryTypeDevice = 2;

/// CUipcMemHandle.
struct IpcHandle {
  std::array<std::byte, 64> bytes;
};

/// Every member function may be called from any thread. Those marked C need a current context.
class CudaDriver {
 public:
  virtual ~CudaDriver() = default;
  [[nodiscard]] virtual std::string ErrorName(CudaResult result) = 0;

  [[nodiscard]] virtual CudaResult PrimaryCtxRetain(CudaContext& context, int device) = 0;
  virtual CudaResult PrimaryCtxRelease(int device) = 0;
  [[nodiscard]] virtual CudaResult CtxPushCurrent(CudaContext context) = 0;
  virtual CudaResult CtxPopCurrent() = 0;

  /// kInvalidValue: an address that the driver does not know, the host's.
  [[nodiscard]] virtual CudaResult PointerGetAttribute(void* value, PointerAttribute attribute,
                                                       DeviceAddress address) = 0;
  [[nodiscard]] virtual CudaResult PointerSetAttribute(const void* value,
                                                       PointerAttribute attribute,
                                                       DeviceAddress address) = 0;
  /// The allocation around `address`.
  [[nodiscard]] virtual CudaResult MemGetAddressRange(DeviceAddress& base, std::size_t& length,
                                                      DeviceAddress address) = 0;  // C

  [[nodiscard]] virtual CudaResult MemAlloc(DeviceAddress& address, std::size_t length) = 0;  // C
  virtual CudaResult MemFree(DeviceAddress address) = 0;
  /// Pinned, for every context.
  [[nodiscard]] virtual CudaResult MemHostAlloc(void*& memory, std::size_t length) = 0;  // C
  virtual CudaResult MemFreeHost(void* memory) = 0;

  /// Of the whole allocation around `address`.
  [[nodiscard]] virtual CudaResult IpcGetMemHandle(IpcHandle& handle,
                                                   DeviceAddress address) = 0;  // C
  [[nodiscard]] virtual CudaResult IpcOpenMemHandle(DeviceAddress& address,
                                                    const IpcHandle& handle) = 0;  // C
  virtual CudaResult IpcCloseMemHandle(DeviceAddress address) = 0;
  /// `address` and `length` in whole pages. The descriptor is the caller's.
  [[nodiscard]] virtual CudaResult MemGetDmabuf(int& descriptor, DeviceAddress address,
                                                std::size_t length) = 0;  // C

  [[nodiscard]] virtual CudaResult StreamCreate(CudaStream& stream) = 0;  // C, waits for no other
  virtual CudaResult StreamDestroy(CudaStream stream) = 0;
  [[nodiscard]] virtual CudaResult StreamQuery(CudaStream stream) = 0;        // C, kNotReady
  [[nodiscard]] virtual CudaResult StreamSynchronize(CudaStream stream) = 0;  // C
  [[nodiscard]] virtual CudaResult MemcpyDtoHAsync(void* to, DeviceAddress from, std::size_t length,
                                                   CudaStream stream) = 0;  // C
  [[nodiscard]] virtual CudaResult MemcpyHtoDAsync(DeviceAddress to, const void* from,
                                                   std::size_t length, CudaStream stream) = 0;  // C
  [[nodiscard]] virtual CudaResult MemcpyDtoDAsync(DeviceAddress to, DeviceAddress from,
                                                   std::size_t length, CudaStream stream) = 0;  // C
};

/// The driver, if this process can have memory of a GPU by now. An error says why not, in words.
using CudaLookup = std::function<Result<std::shared_ptr<CudaDriver>>()>;

}  // namespace mooncake::gpu
