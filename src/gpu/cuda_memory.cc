#include "gpu/cuda_memory.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "base/log.h"

namespace mooncake::gpu {
namespace {

constexpr std::string_view kPrefix = "cuda:";

DeviceAddress AddressOf(const void* pointer) { return reinterpret_cast<DeviceAddress>(pointer); }

std::optional<int> OrdinalOf(std::string_view location) {
  if (!location.starts_with(kPrefix)) return std::nullopt;
  location.remove_prefix(kPrefix.size());
  int ordinal = 0;
  const char* const end = location.data() + location.size();
  const auto [at, failure] = std::from_chars(location.data(), end, ordinal);
  if (failure != std::errc() || at != end) return std::nullopt;
  return ordinal;
}

Error Freed(const void* place) {
  return {ErrorId::kBadRange,
          fmt::format("{} is registered as memory of a GPU, and is none any more: it was freed "
                      "before it was unregistered",
                      place)};
}

// The driver, and the contexts of the GPUs in use. Shared by all that was made with it.
class Gpus {
 public:
  explicit Gpus(std::shared_ptr<CudaDriver> d) : driver(std::move(d)) {}
  ~Gpus() {
    for (const auto& [ordinal, context] : contexts_)
      Released("cuDevicePrimaryCtxRelease", driver->PrimaryCtxRelease(ordinal));
  }
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;

  [[nodiscard]] Error Refused(std::string_view call, CudaResult result) const {
    return {ErrorId::kGpuCall, fmt::format("{}: {}", call, driver->ErrorName(result))};
  }
  [[nodiscard]] Status Check(std::string_view call, CudaResult result) const {
    if (result == CudaResult::kSuccess) return {};
    return Fail(Refused(call, result));
  }
  // A destructor has no caller to tell, so it logs.
  void Released(std::string_view call, CudaResult result) const noexcept {
    // At the end of the process the driver may be gone before us, with all that it had.
    if (result != CudaResult::kSuccess && result != CudaResult::kDeinitialized)
      MC_LOG(warn, "a GPU handle could not be released: {}", Refused(call, result).context);
  }

  // The GPU that owns the memory at `address`; nothing: it is the host's.
  [[nodiscard]] Result<std::optional<int>> OwnerOf(DeviceAddress address) const {
    constexpr std::string_view kCall = "cuPointerGetAttribute";
    unsigned kind = 0;
    const CudaResult known =
        driver->PointerGetAttribute(&kind, PointerAttribute::kMemoryType, address);
    // Nobody can have got memory from a driver that is not initialised.
    if (known == CudaResult::kInvalidValue || known == CudaResult::kNotInitialized)
      return std::optional<int>();
    MC_TRY_STATUS(Check(kCall, known));
    if (kind != kMemoryTypeDevice) return std::optional<int>();
    unsigned managed = 0;
    MC_TRY_STATUS(
        Check(kCall, driver->PointerGetAttribute(&managed, PointerAttribute::kIsManaged, address)));
    if (managed != 0) return std::optional<int>();
    int ordinal = 0;
    MC_TRY_STATUS(Check(
        kCall, driver->PointerGetAttribute(&ordinal, PointerAttribute::kDeviceOrdinal, address)));
    return std::optional(ordinal);
  }

  [[nodiscard]] Status Use(int ordinal) {
    const std::lock_guard lock(mutex_);
    if (contexts_.contains(ordinal)) return {};
    CudaContext context = nullptr;
    MC_TRY_STATUS(Check("cuDevicePrimaryCtxRetain", driver->PrimaryCtxRetain(context, ordinal)));
    contexts_.emplace(ordinal, context);
    in_use_.store(true, std::memory_order_release);
    return {};
  }
  [[nodiscard]] bool in_use() const noexcept { return in_use_.load(std::memory_order_acquire); }
  // That of the GPU, if it is in use, else of any.
  [[nodiscard]] Result<CudaContext> ContextOf(std::optional<int> ordinal) const {
    const std::lock_guard lock(mutex_);
    if (contexts_.empty()) return Fail(ErrorId::kMemoryKind, "this process uses no GPU");
    const auto found = ordinal ? contexts_.find(*ordinal) : contexts_.end();
    return found != contexts_.end() ? found->second : contexts_.begin()->second;
  }

  const std::shared_ptr<CudaDriver> driver;

 private:
  mutable std::mutex mutex_;
  std::map<int, CudaContext> contexts_;  // guarded by mutex_
  std::atomic<bool> in_use_ = false;
};
using GpusPtr = std::shared_ptr<Gpus>;

// The context is the calling thread's while this lives; the application's own comes back.
class Current {
 public:
  [[nodiscard]] static Result<Current> Make(const Gpus& gpus, CudaContext context) {
    MC_TRY_STATUS(gpus.Check("cuCtxPushCurrent", gpus.driver->CtxPushCurrent(context)));
    return Current(gpus);
  }
  Current(Current&& other) noexcept : gpus_(std::exchange(other.gpus_, nullptr)) {}
  Current& operator=(Current&&) = delete;
  ~Current() {
    if (gpus_ != nullptr) gpus_->Released("cuCtxPopCurrent", gpus_->driver->CtxPopCurrent());
  }

 private:
  explicit Current(const Gpus& gpus) : gpus_(&gpus) {}
  const Gpus* gpus_;
};

class CudaQueue final : public CopyQueue {
 public:
  [[nodiscard]] static Result<std::unique_ptr<CopyQueue>> Make(GpusPtr gpus, CudaContext context) {
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus, context));
    CudaStream stream = nullptr;
    MC_TRY_STATUS(gpus->Check("cuStreamCreate", gpus->driver->StreamCreate(stream)));
    return std::unique_ptr<CopyQueue>(new CudaQueue(std::move(gpus), context, stream));
  }
  ~CudaQueue() override {
    const Result<Current> current = Current::Make(*gpus_, context_);
    // The destruction itself does not wait for copies.
    static_cast<void>(gpus_->driver->StreamSynchronize(stream_));
    gpus_->Released("cuStreamDestroy", gpus_->driver->StreamDestroy(stream_));
  }

  Status ToHost(void* to, const void* from_gpu, std::uint64_t length_bytes) override {
    return Add("cuMemcpyDtoHAsync", length_bytes, from_gpu, nullptr, [&] {
      return gpus_->driver->MemcpyDtoHAsync(to, AddressOf(from_gpu), length_bytes, stream_);
    });
  }
  Status ToGpu(void* to_gpu, const void* from, std::uint64_t length_bytes) override {
    return Add("cuMemcpyHtoDAsync", length_bytes, to_gpu, nullptr, [&] {
      return gpus_->driver->MemcpyHtoDAsync(AddressOf(to_gpu), from, length_bytes, stream_);
    });
  }
  Status WithinGpus(void* to_gpu, const void* from_gpu, std::uint64_t length_bytes) override {
    return Add("cuMemcpyDtoDAsync", length_bytes, to_gpu, from_gpu, [&] {
      return gpus_->driver->MemcpyDtoDAsync(AddressOf(to_gpu), AddressOf(from_gpu), length_bytes,
                                            stream_);
    });
  }
  Status Finish() override {
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus_, context_));
    return gpus_->Check("cuStreamSynchronize", gpus_->driver->StreamSynchronize(stream_));
  }
  Result<bool> IsDone() override {
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus_, context_));
    const CudaResult result = gpus_->driver->StreamQuery(stream_);
    if (result == CudaResult::kNotReady) return false;
    MC_TRY_STATUS(gpus_->Check("cuStreamQuery", result));
    return true;
  }

 private:
  CudaQueue(GpusPtr gpus, CudaContext context, CudaStream stream)
      : gpus_(std::move(gpus)), context_(context), stream_(stream) {}

  // `ours`: what must be memory of a GPU; `other` too, unless it is null.
  template <class Call>
  Status Add(std::string_view name, std::uint64_t length_bytes, const void* ours, const void* other,
             Call&& call) {
    if (length_bytes == 0) return {};
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus_, context_));
    const CudaResult result = call();
    if (result == CudaResult::kSuccess) return {};
    for (const void* const place : {ours, other}) {
      if (place == nullptr || result != CudaResult::kInvalidValue) continue;
      MC_TRY(const std::optional<int> owner, gpus_->OwnerOf(AddressOf(place)));
      if (!owner) return Fail(Freed(place));
    }
    return Fail(gpus_->Refused(name, result));
  }

  const GpusPtr gpus_;
  const CudaContext context_;
  const CudaStream stream_;
};

// What one call of the driver gave, and another one takes back.
class CudaBytes final : public OwnedBytes {
 public:
  using Release = CudaResult (*)(CudaDriver&, std::byte*);
  CudaBytes(GpusPtr gpus, CudaContext context, std::span<std::byte> bytes,
            std::string_view release_name, Release release)
      : gpus_(std::move(gpus)),
        context_(context),
        bytes_(bytes),
        release_name_(release_name),
        release_(release) {}
  ~CudaBytes() override {
    const Result<Current> current = Current::Make(*gpus_, context_);
    gpus_->Released(release_name_, release_(*gpus_->driver, bytes_.data()));
  }
  std::span<std::byte> bytes() const noexcept override { return bytes_; }

 private:
  const GpusPtr gpus_;
  const CudaContext context_;
  const std::span<std::byte> bytes_;
  const std::string_view release_name_;
  const Release release_;
};

std::span<std::byte> ToSpan(DeviceAddress address, std::uint64_t length_bytes) {
  return {reinterpret_cast<std::byte*>(address), length_bytes};
}

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(CudaLookup lookup) : lookup_(std::move(lookup)) {}

  Result<std::string> Locate(const void* base, std::uint64_t length_bytes) override {
    const Result<GpusPtr> found = Find();
    if (!found) return std::string();
    Gpus& gpus = **found;
    const DeviceAddress begin = AddressOf(base);
    MC_TRY(const std::optional<int> first, gpus.OwnerOf(begin));
    MC_TRY(const std::optional<int> last,
           gpus.OwnerOf(begin + std::max<std::uint64_t>(length_bytes, 1) - 1));
    if (first != last) {
      return Fail(ErrorId::kBadRange,
                  fmt::format("{} bytes at {} begin in memory of {} and end in memory of {}",
                              length_bytes, base, NameOf(first), NameOf(last)));
    }
    if (!first) return std::string();
    MC_TRY_STATUS(gpus.Use(*first));
    MC_TRY(const CudaContext context, gpus.ContextOf(first));
    MC_TRY([[maybe_unused]] const Current current, Current::Make(gpus, context));
    // Copies of the application that return at once must be over when we read. Some kinds of
    // memory have no such switch, and need none.
    const auto order = [&gpus](DeviceAddress at, const Allocation&) -> Status {
      const unsigned on = 1;
      static_cast<void>(gpus.driver->PointerSetAttribute(&on, PointerAttribute::kSyncMemops, at));
      return {};
    };
    MC_TRY_STATUS(ForEachAllocation(gpus, begin, length_bytes, order));
    return NameOf(first);
  }

  bool in_use() const noexcept override {
    const std::lock_guard lock(mutex_);
    return gpus_ && gpus_->in_use();
  }

  std::string Absence() override {
    const Result<GpusPtr> found = Find();
    return found ? std::string() : found.error().context;
  }

  Result<std::unique_ptr<CopyQueue>> MakeQueue(const std::string& location) override {
    MC_TRY(GpusPtr gpus, Used());
    MC_TRY(const CudaContext context, gpus->ContextOf(OrdinalOf(location)));
    return CudaQueue::Make(std::move(gpus), context);
  }

  Result<std::unique_ptr<OwnedBytes>> MakeStaging(std::uint64_t length_bytes) override {
    if (!in_use()) return DeviceMemory::None()->MakeStaging(length_bytes);
    MC_TRY(GpusPtr gpus, Used());
    MC_TRY(const CudaContext context, gpus->ContextOf(std::nullopt));
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus, context));
    void* memory = nullptr;
    MC_TRY_STATUS(gpus->Check("cuMemHostAlloc", gpus->driver->MemHostAlloc(memory, length_bytes)));
    return std::make_unique<CudaBytes>(
        std::move(gpus), context, std::span(static_cast<std::byte*>(memory), length_bytes),
        "cuMemFreeHost", [](CudaDriver& driver, std::byte* at) { return driver.MemFreeHost(at); });
  }

  Result<std::unique_ptr<OwnedBytes>> Allocate(std::uint64_t length_bytes) override {
    MC_TRY(GpusPtr gpus, Used());
    MC_TRY(const CudaContext context, gpus->ContextOf(std::nullopt));
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus, context));
    DeviceAddress address = 0;
    MC_TRY_STATUS(gpus->Check("cuMemAlloc", gpus->driver->MemAlloc(address, length_bytes)));
    return std::make_unique<CudaBytes>(
        std::move(gpus), context, ToSpan(address, length_bytes), "cuMemFree",
        [](CudaDriver& driver, std::byte* at) { return driver.MemFree(AddressOf(at)); });
  }

  Result<std::vector<ExportedPiece>> Export(const void* base, std::uint64_t length_bytes) override {
    MC_TRY(const GpusPtr gpus, Used());
    MC_TRY(const std::optional<int> owner, gpus->OwnerOf(AddressOf(base)));
    if (!owner) return Fail(Freed(base));
    MC_TRY(const CudaContext context, gpus->ContextOf(owner));
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus, context));
    std::vector<ExportedPiece> pieces;
    const auto add = [&](DeviceAddress at, const Allocation& allocation) -> Status {
      IpcHandle handle{};
      const CudaResult got = gpus->driver->IpcGetMemHandle(handle, allocation.base);
      if (got != CudaResult::kSuccess) {
        return Fail(ErrorId::kMemoryKind,
                    fmt::format("cuIpcGetMemHandle of {} bytes at {}: {}", length_bytes, base,
                                gpus->driver->ErrorName(got)));
      }
      std::string text(reinterpret_cast<const char*>(handle.bytes.data()), handle.bytes.size());
      const std::uint64_t rest = AddressOf(base) + length_bytes - at;
      const std::uint64_t offset = at - allocation.base;
      pieces.push_back({std::move(text), offset, std::min(rest, allocation.length_bytes - offset)});
      return {};
    };
    MC_TRY_STATUS(ForEachAllocation(*gpus, AddressOf(base), length_bytes, add));
    return pieces;
  }

  Result<std::unique_ptr<OwnedBytes>> Import(const std::string& handle) override {
    MC_TRY(GpusPtr gpus, Used());
    IpcHandle wanted{};
    if (handle.size() != wanted.bytes.size())
      return Fail(ErrorId::kMemoryKind, fmt::format("a handle of {} bytes", handle.size()));
    std::memcpy(wanted.bytes.data(), handle.data(), handle.size());
    MC_TRY(const CudaContext context, gpus->ContextOf(std::nullopt));
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus, context));
    DeviceAddress address = 0;
    const CudaResult opened = gpus->driver->IpcOpenMemHandle(address, wanted);
    if (opened != CudaResult::kSuccess) {
      return Fail(ErrorId::kMemoryKind,
                  fmt::format("cuIpcOpenMemHandle: {}", gpus->driver->ErrorName(opened)));
    }
    const auto made = [&](std::uint64_t length_bytes) {
      return std::make_unique<CudaBytes>(gpus, context, ToSpan(address, length_bytes),
                                         "cuIpcCloseMemHandle",
                                         [](CudaDriver& driver, std::byte* at) {
                                           return driver.IpcCloseMemHandle(AddressOf(at));
                                         });
    };
    const Result<Allocation> around = AllocationAt(*gpus, address);
    if (around) return made(around->base + around->length_bytes - address);
    const std::unique_ptr<OwnedBytes> closed = made(0);
    return Fail(around.error());
  }

  Result<Dmabuf> ExportDmabuf(const void* base, std::uint64_t length_bytes) override {
    MC_TRY(const GpusPtr gpus, Used());
    MC_TRY(const std::optional<int> owner, gpus->OwnerOf(AddressOf(base)));
    if (!owner) return Fail(Freed(base));
    MC_TRY(const CudaContext context, gpus->ContextOf(owner));
    MC_TRY([[maybe_unused]] const Current current, Current::Make(*gpus, context));
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const DeviceAddress begin = AddressOf(base) / page * page;
    const DeviceAddress end = (AddressOf(base) + length_bytes + page - 1) / page * page;
    int descriptor = -1;
    const CudaResult got = gpus->driver->MemGetDmabuf(descriptor, begin, end - begin);
    if (got != CudaResult::kSuccess) {
      return Fail(ErrorId::kMemoryKind,
                  fmt::format("cuMemGetHandleForAddressRange: {}", gpus->driver->ErrorName(got)));
    }
    return Dmabuf{UniqueFd(descriptor), AddressOf(base) - begin};
  }

 private:
  struct Allocation {
    DeviceAddress base = 0;
    std::uint64_t length_bytes = 0;
  };

  static std::string NameOf(std::optional<int> ordinal) {
    return ordinal ? fmt::format("{}{}", kPrefix, *ordinal) : "the host";
  }

  static Result<Allocation> AllocationAt(const Gpus& gpus, DeviceAddress address) {
    std::size_t length = 0;
    Allocation allocation;
    const CudaResult got = gpus.driver->MemGetAddressRange(allocation.base, length, address);
    allocation.length_bytes = length;
    if (got == CudaResult::kSuccess) return allocation;
    if (got == CudaResult::kInvalidValue || got == CudaResult::kNotFound)
      return Fail(ErrorId::kBadRange, fmt::format("no memory of a GPU is at {:#x}", address));
    return Fail(gpus.Refused("cuMemGetAddressRange", got));
  }

  // From where each of them begins within the range. A context is current.
  template <class Call>
  static Status ForEachAllocation(const Gpus& gpus, DeviceAddress begin, std::uint64_t length_bytes,
                                  Call&& call) {
    for (DeviceAddress at = begin; at < begin + length_bytes;) {
      const Result<Allocation> around = AllocationAt(gpus, at);
      if (!around)
        return Fail(Within(fmt::format("{} bytes at {:#x}", length_bytes, begin), around.error()));
      MC_TRY_STATUS(call(at, *around));
      at = around->base + around->length_bytes;
    }
    return {};
  }

  Result<GpusPtr> Find() {
    const std::lock_guard lock(mutex_);
    if (gpus_) return gpus_;
    MC_TRY(std::shared_ptr<CudaDriver> driver, lookup_());
    gpus_ = std::make_shared<Gpus>(std::move(driver));
    return gpus_;
  }
  Result<GpusPtr> Used() const {
    const std::lock_guard lock(mutex_);
    if (gpus_ && gpus_->in_use()) return gpus_;
    return Fail(ErrorId::kMemoryKind, "this process uses no GPU");
  }

  const CudaLookup lookup_;
  mutable std::mutex mutex_;
  GpusPtr gpus_;  // guarded by mutex_; null until the driver is found
};

}  // namespace

std::shared_ptr<DeviceMemory> MakeCudaMemory(CudaLookup lookup) {
  return std::make_shared<CudaMemory>(std::move(lookup));
}

}  // namespace mooncake::gpu
