// Memory of a peer's GPUs that this process has opened.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "gpu/device_memory.h"
#include "transport/transfer_check.h"
#include "wire/messages.pb.h"

namespace mooncake::cuda {

/// A region as the GPU of this process sees it.
class OpenedRegion {
 public:
  /// What the peer says of a region of `length_bytes`: data. kBadFrame: the pieces are not that
  /// region. Errors of DeviceMemory::Import().
  [[nodiscard]] static Result<std::shared_ptr<OpenedRegion>> Open(
      DeviceMemory& gpus, const pb::CudaExportReply::Region& told, std::uint64_t length_bytes);
  /// The memory at `offset`, and in `contiguous_bytes` how much of it is in one piece.
  [[nodiscard]] std::byte* At(std::uint64_t offset, std::uint64_t& contiguous_bytes) const;

  std::atomic<bool> forgotten = false;

 private:
  struct Part {
    std::uint64_t begin = 0;  // in the region
    std::span<std::byte> bytes;
    std::unique_ptr<OwnedBytes> opened;
  };
  std::vector<Part> parts_;
};

/// What is known of a peer's regions of GPUs: opened here, or not to be opened. Any thread.
class PeerMemory {
 public:
  /// `region` null: it cannot be opened, so it is staged.
  void Decide(RegionId id, std::shared_ptr<OpenedRegion> region);
  [[nodiscard]] bool IsDecided(RegionId id) const;
  /// Null: not decided, or staged.
  [[nodiscard]] std::shared_ptr<OpenedRegion> Find(RegionId id) const;
  /// The region is closed when this returns; copies that use it are waited for.
  void Forget(RegionId id);
  /// All that is open, given away.
  [[nodiscard]] std::vector<std::shared_ptr<OpenedRegion>> TakeAll();

 private:
  mutable std::mutex mutex_;
  std::map<RegionId, std::shared_ptr<OpenedRegion>> regions_;  // guarded by mutex_
};

}  // namespace mooncake::cuda
