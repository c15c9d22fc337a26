#include "gpu/real_cuda_driver.h"

#include <fmt/format.h>

#include "base/dynamic_library.h"

namespace mooncake::gpu {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

constexpr unsigned kHostAllocPortable = 1;  // CU_MEMHOSTALLOC_PORTABLE
constexpr unsigned kStreamNonBlocking = 1;  // CU_STREAM_NON_BLOCKING
constexpr unsigned kIpcLazyPeerAccess = 1;  // CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
constexpr int kRangeHandleDmabuf = 1;       // CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD

// Every function that is called, under the name of the version whose types are used here. CUresult
// and the enumerations of the driver are ints.
struct Library : DynamicLibrary {
  int (*get_error_name)(int, const char**) = nullptr;
  int (*primary_ctx_retain)(CudaContext*, int) = nullptr;
  int (*primary_ctx_release)(int) = nullptr;
  int (*ctx_push_current)(CudaContext) = nullptr;
  int (*ctx_pop_current)(CudaContext*) = nullptr;
  int (*pointer_get_attribute)(void*, int, DeviceAddress) = nullptr;
  int (*pointer_set_attribute)(const void*, int, DeviceAddress) = nullptr;
  int (*mem_get_address_range)(DeviceAddress*, std::size_t*, DeviceAddress) = nullptr;
  int (*mem_alloc)(DeviceAddress*, std::size_t) = nullptr;
  int (*mem_free)(DeviceAddress) = nullptr;
  int (*mem_host_alloc)(void**, std::size_t, unsigned) = nullptr;
  int (*mem_free_host)(void*) = nullptr;
  int (*ipc_get_mem_handle)(IpcHandle*, DeviceAddress) = nullptr;
  int (*ipc_open_mem_handle)(DeviceAddress*, IpcHandle, unsigned) = nullptr;
  int (*ipc_close_mem_handle)(DeviceAddress) = nullptr;
  int (*stream_create)(CudaStream*, unsigned) = nullptr;
  int (*stream_destroy)(CudaStream) = nullptr;
  int (*stream_query)(CudaStream) = nullptr;
  int (*stream_synchronize)(CudaStream) = nullptr;
  int (*memcpy_dtoh_async)(void*, DeviceAddress, std::size_t, CudaStream) = nullptr;
  int (*memcpy_htod_async)(DeviceAddress, const void*, std::size_t, CudaStream) = nullptr;
  int (*memcpy_dtod_async)(DeviceAddress, DeviceAddress, std::size_t, CudaStream) = nullptr;
  // Of CUDA 11.7 and newer; null where it is missing.
  int (*mem_get_handle_for_address_range)(void*, DeviceAddress, std::size_t, int,
                                          unsigned long long) = nullptr;
};

Result<Library> Load() {
  Library library;
  library.handle = ::dlopen(kLibrary, RTLD_NOW | RTLD_NOLOAD);
  if (library.handle == nullptr) {
    return Fail(
        ErrorId::kMemoryKind,
        fmt::format("this process has not loaded {}, so none of its memory is a GPU's", kLibrary));
  }
  const bool all = library.Take(library.get_error_name, "cuGetErrorName") &&
                   library.Take(library.primary_ctx_retain, "cuDevicePrimaryCtxRetain") &&
                   library.Take(library.primary_ctx_release, "cuDevicePrimaryCtxRelease_v2") &&
                   library.Take(library.ctx_push_current, "cuCtxPushCurrent_v2") &&
                   library.Take(library.ctx_pop_current, "cuCtxPopCurrent_v2") &&
                   library.Take(library.pointer_get_attribute, "cuPointerGetAttribute") &&
                   library.Take(library.pointer_set_attribute, "cuPointerSetAttribute") &&
                   library.Take(library.mem_get_address_range, "cuMemGetAddressRange_v2") &&
                   library.Take(library.mem_alloc, "cuMemAlloc_v2") &&
                   library.Take(library.mem_free, "cuMemFree_v2") &&
                   library.Take(library.mem_host_alloc, "cuMemHostAlloc") &&
                   library.Take(library.mem_free_host, "cuMemFreeHost") &&
                   library.Take(library.ipc_get_mem_handle, "cuIpcGetMemHandle") &&
                   library.Take(library.ipc_open_mem_handle, "cuIpcOpenMemHandle_v2") &&
                   library.Take(library.ipc_close_mem_handle, "cuIpcCloseMemHandle") &&
                   library.Take(library.stream_create, "cuStreamCreate") &&
                   library.Take(library.stream_destroy, "cuStreamDestroy_v2") &&
                   library.Take(library.stream_query, "cuStreamQuery") &&
                   library.Take(library.stream_synchronize, "cuStreamSynchronize") &&
                   library.Take(library.memcpy_dtoh_async, "cuMemcpyDtoHAsync_v2") &&
                   library.Take(library.memcpy_htod_async, "cuMemcpyHtoDAsync_v2") &&
                   library.Take(library.memcpy_dtod_async, "cuMemcpyDtoDAsync_v2");
  if (!all) {
    Error missing{ErrorId::kMemoryKind, fmt::format("{} is too old: {}", kLibrary, ::dlerror())};
    ::dlclose(library.handle);
    return Fail(std::move(missing));
  }
  static_cast<void>(
      library.Take(library.mem_get_handle_for_address_range, "cuMemGetHandleForAddressRange"));
  return library;
}

CudaResult Told(int result) { return static_cast<CudaResult>(result); }

class RealCudaDriver final : public CudaDriver {
 public:
  explicit RealCudaDriver(const Library& library) : library_(library) {}

  std::string ErrorName(CudaResult result) override {
    const char* name = nullptr;
    if (library_.get_error_name(static_cast<int>(result), &name) != 0 || name == nullptr)
      return fmt::format("error {}", static_cast<int>(result));
    return name;
  }

  CudaResult PrimaryCtxRetain(CudaContext& context, int device) override {
    return Told(library_.primary_ctx_retain(&context, device));
  }
  CudaResult PrimaryCtxRelease(int device) override {
    return Told(library_.primary_ctx_release(device));
  }
  CudaResult CtxPushCurrent(CudaContext context) override {
    return Told(library_.ctx_push_current(context));
  }
  CudaResult CtxPopCurrent() override {
    CudaContext popped = nullptr;
    return Told(library_.ctx_pop_current(&popped));
  }

  CudaResult PointerGetAttribute(void* value, PointerAttribute attribute,
                                 DeviceAddress address) override {
    return Told(library_.pointer_get_attribute(value, static_cast<int>(attribute), address));
  }
  CudaResult PointerSetAttribute(const void* value, PointerAttribute attribute,
                                 DeviceAddress address) override {
    return Told(library_.pointer_set_attribute(value, static_cast<int>(attribute), address));
  }
  CudaResult MemGetAddressRange(DeviceAddress& base, std::size_t& length,
                                DeviceAddress address) override {
    return Told(library_.mem_get_address_range(&base, &length, address));
  }

  CudaResult MemAlloc(DeviceAddress& address, std::size_t length) override {
    return Told(library_.mem_alloc(&address, length));
  }
  CudaResult MemFree(DeviceAddress address) override { return Told(library_.mem_free(address)); }
  CudaResult MemHostAlloc(void*& memory, std::size_t length) override {
    return Told(library_.mem_host_alloc(&memory, length, kHostAllocPortable));
  }
  CudaResult MemFreeHost(void* memory) override { return Told(library_.mem_free_host(memory)); }

  CudaResult IpcGetMemHandle(IpcHandle& handle, DeviceAddress address) override {
    return Told(library_.ipc_get_mem_handle(&handle, address));
  }
  CudaResult IpcOpenMemHandle(DeviceAddress& address, const IpcHandle& handle) override {
    return Told(library_.ipc_open_mem_handle(&address, handle, kIpcLazyPeerAccess));
  }
  CudaResult IpcCloseMemHandle(DeviceAddress address) override {
    return Told(library_.ipc_close_mem_handle(address));
  }
  CudaResult MemGetDmabuf(int& descriptor, DeviceAddress address, std::size_t length) override {
    if (library_.mem_get_handle_for_address_range == nullptr) return CudaResult::kNotSupported;
    return Told(library_.mem_get_handle_for_address_range(&descriptor, address, length,
                                                          kRangeHandleDmabuf, 0));
  }

  CudaResult StreamCreate(CudaStream& stream) override {
    return Told(library_.stream_create(&stream, kStreamNonBlocking));
  }
  CudaResult StreamDestroy(CudaStream stream) override {
    return Told(library_.stream_destroy(stream));
  }
  CudaResult StreamQuery(CudaStream stream) override { return Told(library_.stream_query(stream)); }
  CudaResult StreamSynchronize(CudaStream stream) override {
    return Told(library_.stream_synchronize(stream));
  }
  CudaResult MemcpyDtoHAsync(void* to, DeviceAddress from, std::size_t length,
                             CudaStream stream) override {
    return Told(library_.memcpy_dtoh_async(to, from, length, stream));
  }
  CudaResult MemcpyHtoDAsync(DeviceAddress to, const void* from, std::size_t length,
                             CudaStream stream) override {
    return Told(library_.memcpy_htod_async(to, from, length, stream));
  }
  CudaResult MemcpyDtoDAsync(DeviceAddress to, DeviceAddress from, std::size_t length,
                             CudaStream stream) override {
    return Told(library_.memcpy_dtod_async(to, from, length, stream));
  }

 private:
  const Library library_;  // stays loaded: the application uses it
};

}  // namespace

Result<std::shared_ptr<CudaDriver>> FindLoadedCudaDriver() {
  MC_TRY(const Library library, Load());
  return std::make_shared<RealCudaDriver>(library);
}

}  // namespace mooncake::gpu
