// Memory of GPUs, as everybody but this folder sees it: whose an address is, copies, buffers for
// staging, and what other processes and devices need to reach it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mooncake {

/// A place in memory of this process, and whose it is.
struct Place {
  std::byte* at = nullptr;
  bool on_gpu = false;
};

/// Copies that a GPU makes, one after another, beside the thread that adds them. What they read and
/// write stays until Finish() has returned, or the queue is destroyed, which waits. One thread at a
/// time. A length of 0 is legal. Errors: kGpuCall, kBadRange (an address on the GPU's side that is
/// no GPU's any more); copies that were added before may still run.
class CopyQueue {
 public:
  virtual ~CopyQueue() = default;
  [[nodiscard]] virtual Status ToHost(void* to, const void* from_gpu,
                                      std::uint64_t length_bytes) = 0;
  [[nodiscard]] virtual Status ToGpu(void* to_gpu, const void* from,
                                     std::uint64_t length_bytes) = 0;
  [[nodiscard]] virtual Status WithinGpus(void* to_gpu, const void* from_gpu,
                                          std::uint64_t length_bytes) = 0;
  /// Whichever of them it takes; between memory of the host, at once.
  [[nodiscard]] Status Add(Place to, Place from, std::uint64_t length_bytes);
  /// Waits: afterwards every byte is where it belongs.
  [[nodiscard]] virtual Status Finish() = 0;
  /// Whether Finish() would not wait.
  [[nodiscard]] virtual Result<bool> IsDone() = 0;
};

/// Memory with one owner; what is behind `bytes()` is freed, or closed, with it.
class OwnedBytes {
 public:
  virtual ~OwnedBytes() = default;
  [[nodiscard]] virtual std::span<std::byte> bytes() const noexcept = 0;
};

/// A part of a range as another process opens it: `length_bytes` at `offset` of what `handle`
/// opens. As it comes from a peer, it is data.
struct ExportedPiece {
  std::string handle;
  std::uint64_t offset = 0;
  std::uint64_t length_bytes = 0;
};

/// A range as a device opens it: it begins at `offset` of the dmabuf.
struct Dmabuf {
  UniqueFd descriptor;
  std::uint64_t offset = 0;
};

/// Any thread.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// Where there are no GPUs: all memory is the host's.
  [[nodiscard]] static std::shared_ptr<DeviceMemory> None();

  /// Whose memory the range is: "cuda:3", or empty: the host's. Memory that a GPU reaches but the
  /// processor may touch (pinned, managed) is the host's. kBadRange: it is not of one kind, or has
  /// holes. kGpuCall.
  [[nodiscard]] virtual Result<std::string> Locate(const void* base,
                                                   std::uint64_t length_bytes) = 0;
  /// Whether Locate() has found memory of a GPU; before that the rest fails with kMemoryKind, but
  /// for MakeStaging(), which then gives ordinary memory.
  [[nodiscard]] virtual bool in_use() const noexcept = 0;
  /// Why this process can have no memory of a GPU, in words; empty: it can.
  [[nodiscard]] virtual std::string Absence() = 0;

  /// `location` tells the GPU to prefer: that of most of the memory.
  [[nodiscard]] virtual Result<std::unique_ptr<CopyQueue>> MakeQueue(
      const std::string& location) = 0;
  /// Memory of the host that copies from and to GPUs are fast with.
  [[nodiscard]] virtual Result<std::unique_ptr<OwnedBytes>> MakeStaging(
      std::uint64_t length_bytes) = 0;
  /// Memory of a GPU of the engine's own, on any GPU that is in use.
  [[nodiscard]] virtual Result<std::unique_ptr<OwnedBytes>> Allocate(
      std::uint64_t length_bytes) = 0;

  /// For another process of this host. kMemoryKind: this memory has no such handle (it was mapped
  /// piece by piece).
  [[nodiscard]] virtual Result<std::vector<ExportedPiece>> Export(const void* base,
                                                                  std::uint64_t length_bytes) = 0;
  /// Opens what another process has exported: all of the allocation. kMemoryKind: it cannot be
  /// opened here.
  [[nodiscard]] virtual Result<std::unique_ptr<OwnedBytes>> Import(const std::string& handle) = 0;
  /// kMemoryKind: driver or kernel have no dmabuf of it.
  [[nodiscard]] virtual Result<Dmabuf> ExportDmabuf(const void* base,
                                                    std::uint64_t length_bytes) = 0;
};

}  // namespace mooncake
