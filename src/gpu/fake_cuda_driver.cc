#include "gpu/fake_cuda_driver.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <mutex>

#include "base/assert.h"
#include "base/unique_fd.h"

namespace mooncake::gpu {
namespace {

constexpr std::size_t kPageBytes = 4096;

std::size_t WholePages(std::size_t length) {
  return (length + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// What an IPC handle is made of: where the memory's file is.
struct HandleFacts {
  std::uint64_t magic = 0;
  std::int64_t process = 0;
  std::int32_t descriptor = 0;
  std::int32_t device = 0;
  std::uint64_t length = 0;
};
constexpr std::uint64_t kMagic = 0x4650494B45464147;
static_assert(sizeof(HandleFacts) <= sizeof(IpcHandle));

// Memory of a GPU: a file that is mapped twice, once where the application sees it and nobody may
// touch it, once for the copies of the GPU.
class Memory {
 public:
  Memory(UniqueFd file, std::size_t length, int device, FakeKind kind, bool imported)
      : file_(std::move(file)),
        length_(length),
        device_(device),
        kind_(kind),
        imported_(imported),
        seen_(Map(kind == FakeKind::kPlain || kind == FakeKind::kMapped ? PROT_NONE
                                                                        : PROT_READ | PROT_WRITE)),
        bytes_(Map(PROT_READ | PROT_WRITE)) {}
  ~Memory() {
    ::munmap(seen_, MappedBytes());
    ::munmap(bytes_, MappedBytes());
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] DeviceAddress base() const { return reinterpret_cast<DeviceAddress>(seen_); }
  [[nodiscard]] std::byte* seen() const { return seen_; }
  [[nodiscard]] std::byte* bytes() const { return bytes_; }
  [[nodiscard]] std::size_t length() const { return length_; }
  [[nodiscard]] int device() const { return device_; }
  [[nodiscard]] FakeKind kind() const { return kind_; }
  [[nodiscard]] bool imported() const { return imported_; }
  [[nodiscard]] int file() const { return file_.get(); }
  [[nodiscard]] bool IsGpus() const {
    return kind_ == FakeKind::kPlain || kind_ == FakeKind::kMapped;
  }

 private:
  // With a page behind the file's end: no other memory begins where this one ends.
  [[nodiscard]] std::size_t MappedBytes() const { return WholePages(length_) + kPageBytes; }
  [[nodiscard]] std::byte* Map(int protection) const {
    void* const at = ::mmap(nullptr, MappedBytes(), protection, MAP_SHARED, file_.get(), 0);
    MC_ASSERT(at != MAP_FAILED);
    return static_cast<std::byte*>(at);
  }

  const UniqueFd file_;
  const std::size_t length_;
  const int device_;
  const FakeKind kind_;
  const bool imported_;
  std::byte* const seen_;
  std::byte* const bytes_;
};

struct Copy {
  std::byte* to;
  const std::byte* from;
  std::size_t length;
};
struct Stream {
  std::deque<Copy> copies;
};

// The contexts of the calling thread, of all drivers.
std::vector<CudaContext>& ContextsOfThread() {
  thread_local std::vector<CudaContext> contexts;
  return contexts;
}

class FakeDriver final : public FakeCudaDriver {
 public:
  explicit FakeDriver(const FakeGpus& gpus) : gpus_(gpus), contexts_(gpus.devices) {}

  // ---- as the application ----
  std::byte* AllocateMemory(int device, std::size_t length, FakeKind kind) override {
    const std::lock_guard lock(mutex_);
    return Add(MakeFile(length), length, device, kind, false)->seen();
  }
  void FreeMemory(std::byte* address) override {
    const std::lock_guard lock(mutex_);
    auto freed = memory_.extract(reinterpret_cast<DeviceAddress>(address));
    MC_ASSERT(!freed.empty());
    freed_.push_back(std::move(freed.mapped()));
  }

  // ---- as the test ----
  std::span<std::byte> View(const std::byte* address) override {
    const std::lock_guard lock(mutex_);
    const Memory* const memory = Around(reinterpret_cast<DeviceAddress>(address), 1);
    MC_ASSERT(memory != nullptr);
    const auto offset = static_cast<std::size_t>(address - memory->seen());
    return {memory->bytes() + offset, memory->length() - offset};
  }
  // ---- the driver ----
  std::string ErrorName(CudaResult result) override {
    switch (result) {
      case CudaResult::kInvalidValue:
        return "CUDA_ERROR_INVALID_VALUE";
      case CudaResult::kNotSupported:
        return "CUDA_ERROR_NOT_SUPPORTED";
      case CudaResult::kUnknown:
        return "CUDA_ERROR_UNKNOWN";
      default:
        return fmt::format("error {}", static_cast<int>(result));
    }
  }

  CudaResult PrimaryCtxRetain(CudaContext& context, int device) override {
    const std::lock_guard lock(mutex_);
    if (Fails("PrimaryCtxRetain")) return CudaResult::kUnknown;
    context = ContextOf(device);
    CountHandle("context", 1);
    return CudaResult::kSuccess;
  }
  CudaResult PrimaryCtxRelease(int) override {
    const std::lock_guard lock(mutex_);
    CountHandle("context", -1);
    return CudaResult::kSuccess;
  }
  CudaResult CtxPushCurrent(CudaContext context) override {
    const std::lock_guard lock(mutex_);
    if (Fails("CtxPushCurrent")) return CudaResult::kUnknown;
    ContextsOfThread().push_back(context);
    return CudaResult::kSuccess;
  }
  CudaResult CtxPopCurrent() override {
    if (!HasContext()) return CudaResult::kInvalidContext;
    ContextsOfThread().pop_back();
    return CudaResult::kSuccess;
  }

  CudaResult PointerGetAttribute(void* value, PointerAttribute attribute,
                                 DeviceAddress address) override {
    const std::lock_guard lock(mutex_);
    if (Fails("PointerGetAttribute")) return CudaResult::kUnknown;
    if (!gpus_.initialized) return CudaResult::kNotInitialized;
    const Memory* const memory = Around(address, 1);
    if (memory == nullptr) return CudaResult::kInvalidValue;
    switch (attribute) {
      case PointerAttribute::kMemoryType:
        Put(value, memory->kind() == FakeKind::kPinned ? 1U : kMemoryTypeDevice);
        break;
      case PointerAttribute::kIsManaged:
        Put(value, memory->kind() == FakeKind::kManaged ? 1U : 0U);
        break;
      case PointerAttribute::kDeviceOrdinal:
        Put(value, memory->device());
        break;
      case PointerAttribute::kSyncMemops:
        return CudaResult::kNotSupported;
    }
    return CudaResult::kSuccess;
  }
  CudaResult PointerSetAttribute(const void*, PointerAttribute, DeviceAddress address) override {
    const std::lock_guard lock(mutex_);
    if (Fails("PointerSetAttribute")) return CudaResult::kUnknown;
    return Around(address, 1) == nullptr ? CudaResult::kInvalidValue : CudaResult::kSuccess;
  }
  CudaResult MemGetAddressRange(DeviceAddress& base, std::size_t& length,
                                DeviceAddress address) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemGetAddressRange")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    const Memory* const memory = Around(address, 1);
    if (memory == nullptr) return CudaResult::kNotFound;
    base = memory->base();
    length = memory->length();
    return CudaResult::kSuccess;
  }

  CudaResult MemAlloc(DeviceAddress& address, std::size_t length) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemAlloc")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    address = Add(MakeFile(length), length, CurrentDevice(), FakeKind::kPlain, false)->base();
    CountHandle("allocation", 1);
    return CudaResult::kSuccess;
  }
  CudaResult MemFree(DeviceAddress address) override {
    const std::lock_guard lock(mutex_);
    if (memory_.erase(address) == 0) return CudaResult::kInvalidValue;
    CountHandle("allocation", -1);
    return CudaResult::kSuccess;
  }
  CudaResult MemHostAlloc(void*& memory, std::size_t length) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemHostAlloc")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    memory = Add(MakeFile(length), length, CurrentDevice(), FakeKind::kPinned, false)->seen();
    CountHandle("buffer", 1);
    return CudaResult::kSuccess;
  }
  CudaResult MemFreeHost(void* memory) override {
    const std::lock_guard lock(mutex_);
    if (memory_.erase(reinterpret_cast<DeviceAddress>(memory)) == 0)
      return CudaResult::kInvalidValue;
    CountHandle("buffer", -1);
    return CudaResult::kSuccess;
  }

  CudaResult IpcGetMemHandle(IpcHandle& handle, DeviceAddress address) override {
    const std::lock_guard lock(mutex_);
    if (Fails("IpcGetMemHandle")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    const Memory* const memory = Around(address, 1);
    if (memory == nullptr || memory->kind() != FakeKind::kPlain || !gpus_.ipc)
      return CudaResult::kInvalidValue;
    const HandleFacts facts{kMagic, ::getpid(), memory->file(), memory->device(), memory->length()};
    handle = {};
    std::memcpy(handle.bytes.data(), &facts, sizeof facts);
    return CudaResult::kSuccess;
  }
  CudaResult IpcOpenMemHandle(DeviceAddress& address, const IpcHandle& handle) override {
    const std::lock_guard lock(mutex_);
    if (Fails("IpcOpenMemHandle")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    HandleFacts facts;
    std::memcpy(&facts, handle.bytes.data(), sizeof facts);
    if (facts.magic != kMagic || !gpus_.ipc) return CudaResult::kInvalidValue;
    const std::string path = fmt::format("/proc/{}/fd/{}", facts.process, facts.descriptor);
    UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!file) return CudaResult::kInvalidValue;
    if (gpus_.opens_other_memory) file = MakeFile(facts.length);
    const Memory* const memory =
        Add(std::move(file), facts.length, facts.device, FakeKind::kPlain, true);
    address = memory->base();
    CountHandle("import", 1);
    return CudaResult::kSuccess;
  }
  CudaResult IpcCloseMemHandle(DeviceAddress address) override {
    const std::lock_guard lock(mutex_);
    if (memory_.erase(address) == 0) return CudaResult::kInvalidValue;
    CountHandle("import", -1);
    return CudaResult::kSuccess;
  }
  CudaResult MemGetDmabuf(int& descriptor, DeviceAddress address, std::size_t length) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemGetDmabuf")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    if (!gpus_.dmabuf) return CudaResult::kNotSupported;
    const Memory* const memory = Around(address, 1);
    if (memory == nullptr || address != memory->base() || length > WholePages(memory->length()))
      return CudaResult::kInvalidValue;
    descriptor = ::fcntl(memory->file(), F_DUPFD_CLOEXEC, 0);
    return descriptor >= 0 ? CudaResult::kSuccess : CudaResult::kUnknown;
  }

  CudaResult StreamCreate(CudaStream& stream) override {
    const std::lock_guard lock(mutex_);
    if (Fails("StreamCreate")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    stream = reinterpret_cast<CudaStream>(new Stream());
    CountHandle("stream", 1);
    return CudaResult::kSuccess;
  }
  CudaResult StreamDestroy(CudaStream stream) override {
    const std::lock_guard lock(mutex_);
    delete reinterpret_cast<Stream*>(stream);
    CountHandle("stream", -1);
    return CudaResult::kSuccess;
  }
  CudaResult StreamQuery(CudaStream stream) override {
    const std::lock_guard lock(mutex_);
    if (Fails("StreamQuery")) return CudaResult::kUnknown;
    if (!HasContext()) return CudaResult::kInvalidContext;
    // One copy ends between two questions.
    auto& copies = reinterpret_cast<Stream*>(stream)->copies;
    if (copies.empty()) return CudaResult::kSuccess;
    Do(copies.front());
    copies.pop_front();
    return CudaResult::kNotReady;
  }
  CudaResult StreamSynchronize(CudaStream stream) override {
    std::deque<Copy> copies;
    {
      const std::lock_guard lock(mutex_);
      if (!HasContext()) return CudaResult::kInvalidContext;
      copies = std::exchange(reinterpret_cast<Stream*>(stream)->copies, {});
      if (Fails("StreamSynchronize")) return CudaResult::kUnknown;
    }
    for (const Copy& copy : copies) Do(copy);
    return CudaResult::kSuccess;
  }
  CudaResult MemcpyDtoHAsync(void* to, DeviceAddress from, std::size_t length,
                             CudaStream stream) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemcpyDtoHAsync")) return CudaResult::kUnknown;
    return Queue(stream, static_cast<std::byte*>(to), Inside(from, length), length);
  }
  CudaResult MemcpyHtoDAsync(DeviceAddress to, const void* from, std::size_t length,
                             CudaStream stream) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemcpyHtoDAsync")) return CudaResult::kUnknown;
    return Queue(stream, Inside(to, length), static_cast<const std::byte*>(from), length);
  }
  CudaResult MemcpyDtoDAsync(DeviceAddress to, DeviceAddress from, std::size_t length,
                             CudaStream stream) override {
    const std::lock_guard lock(mutex_);
    if (Fails("MemcpyDtoDAsync")) return CudaResult::kUnknown;
    return Queue(stream, Inside(to, length), Inside(from, length), length);
  }

 private:
  template <class T>
  static void Put(void* value, T what) {
    std::memcpy(value, &what, sizeof what);
  }
  static UniqueFd MakeFile(std::size_t length) {
    UniqueFd file(::memfd_create("fake GPU", MFD_CLOEXEC));
    MC_ASSERT(file && ::ftruncate(file.get(), static_cast<off_t>(WholePages(length))) == 0);
    return file;
  }
  static void Do(const Copy& copy) { std::memmove(copy.to, copy.from, copy.length); }

  // A context is the address of its place in the list.
  [[nodiscard]] CudaContext ContextOf(int device) {
    return reinterpret_cast<CudaContext>(&contexts_.at(static_cast<std::size_t>(device)));
  }
  [[nodiscard]] int CurrentDevice() const {
    return static_cast<int>(reinterpret_cast<const char*>(ContextsOfThread().back()) -
                            contexts_.data());
  }
  [[nodiscard]] bool HasContext() const {
    if (ContextsOfThread().empty()) return false;
    const auto* const context = reinterpret_cast<const char*>(ContextsOfThread().back());
    return context >= contexts_.data() && context < contexts_.data() + contexts_.size();
  }

  Memory* Add(UniqueFd file, std::size_t length, int device, FakeKind kind, bool imported) {
    auto memory = std::make_shared<Memory>(std::move(file), length, device, kind, imported);
    Memory* const raw = memory.get();
    memory_.emplace(raw->base(), std::move(memory));
    return raw;
  }
  [[nodiscard]] const Memory* Around(DeviceAddress address, std::size_t length) const {
    const auto next = memory_.upper_bound(address);
    if (next == memory_.begin()) return nullptr;
    const Memory& memory = *std::prev(next)->second;
    const std::uint64_t offset = address - memory.base();
    return offset < memory.length() && length <= memory.length() - offset ? &memory : nullptr;
  }
  // Where the GPU's copies read and write; null: no memory of a GPU.
  [[nodiscard]] std::byte* Inside(DeviceAddress address, std::size_t length) const {
    const Memory* const memory = Around(address, length);
    if (memory == nullptr || !memory->IsGpus()) return nullptr;
    return memory->bytes() + (address - memory->base());
  }
  CudaResult Queue(CudaStream stream, std::byte* to, const std::byte* from, std::size_t length) {
    if (!HasContext()) return CudaResult::kInvalidContext;
    if (to == nullptr || from == nullptr) return CudaResult::kInvalidValue;
    reinterpret_cast<Stream*>(stream)->copies.push_back({to, from, length});
    return CudaResult::kSuccess;
  }

  const FakeGpus gpus_;
  std::vector<char> contexts_;
  mutable std::mutex mutex_;
  // All of it guarded by mutex_.
  std::map<DeviceAddress, std::shared_ptr<Memory>> memory_;
  std::vector<std::shared_ptr<Memory>> freed_;  // whose addresses are not used again
};

}  // namespace

std::shared_ptr<FakeCudaDriver> FakeCudaDriver::Make(const FakeGpus& gpus) {
  return std::make_shared<FakeDriver>(gpus);
}

std::vector<std::string> FakeCudaDriver::Calls() {
  return {"PrimaryCtxRetain",   "CtxPushCurrent",  "PointerGetAttribute", "PointerSetAttribute",
          "MemGetAddressRange", "MemAlloc",        "MemHostAlloc",        "IpcGetMemHandle",
          "IpcOpenMemHandle",   "MemGetDmabuf",    "StreamCreate",        "StreamQuery",
          "StreamSynchronize",  "MemcpyDtoHAsync", "MemcpyHtoDAsync",     "MemcpyDtoDAsync"};
}

}  // namespace mooncake::gpu
