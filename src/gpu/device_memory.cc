#include "gpu/device_memory.h"

#include <cstring>

namespace mooncake {
namespace {

class HeapBytes final : public OwnedBytes {
 public:
  explicit HeapBytes(std::uint64_t length_bytes) : memory_(length_bytes) {}
  std::span<std::byte> bytes() const noexcept override { return memory_; }

 private:
  mutable std::vector<std::byte> memory_;
};

class NoDeviceMemory final : public DeviceMemory {
 public:
  Result<std::string> Locate(const void*, std::uint64_t) override { return std::string(); }
  bool in_use() const noexcept override { return false; }
  std::string Absence() override { return "this engine was given no GPUs"; }
  Result<std::unique_ptr<CopyQueue>> MakeQueue(const std::string&) override { return NoGpu(); }
  Result<std::unique_ptr<OwnedBytes>> MakeStaging(std::uint64_t length_bytes) override {
    return std::make_unique<HeapBytes>(length_bytes);
  }
  Result<std::unique_ptr<OwnedBytes>> Allocate(std::uint64_t) override { return NoGpu(); }
  Result<std::vector<ExportedPiece>> Export(const void*, std::uint64_t) override { return NoGpu(); }
  Result<std::unique_ptr<OwnedBytes>> Import(const std::string&) override { return NoGpu(); }
  Result<Dmabuf> ExportDmabuf(const void*, std::uint64_t) override { return NoGpu(); }

 private:
  static tl::unexpected<Error> NoGpu() {
    return Fail(ErrorId::kMemoryKind, "this process uses no GPU");
  }
};

}  // namespace

Status CopyQueue::Add(Place to, Place from, std::uint64_t length_bytes) {
  if (to.on_gpu && from.on_gpu) return WithinGpus(to.at, from.at, length_bytes);
  if (to.on_gpu) return ToGpu(to.at, from.at, length_bytes);
  if (from.on_gpu) return ToHost(to.at, from.at, length_bytes);
  if (length_bytes > 0) std::memmove(to.at, from.at, length_bytes);
  return {};
}

std::shared_ptr<DeviceMemory> DeviceMemory::None() { return std::make_shared<NoDeviceMemory>(); }

}  // namespace mooncake
