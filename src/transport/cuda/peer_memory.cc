#include "transport/cuda/peer_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace mooncake::cuda {

Result<std::shared_ptr<OpenedRegion>> OpenedRegion::Open(DeviceMemory& gpus,
                                                         const pb::CudaExportReply::Region& told,
                                                         std::uint64_t length_bytes) {
  const auto region = std::make_shared<OpenedRegion>();
  std::uint64_t begin = 0;
  for (const pb::CudaPiece& piece : told.pieces()) {
    MC_TRY(std::unique_ptr<OwnedBytes> opened, gpus.Import(piece.handle()));
    const std::span<std::byte> all = opened->bytes();
    if (piece.length_bytes() == 0 || piece.length_bytes() > length_bytes - begin ||
        piece.offset() > all.size() || piece.length_bytes() > all.size() - piece.offset()) {
      return Fail(ErrorId::kBadFrame, "a handle of other memory than the region's");
    }
    region->parts_.push_back(
        {begin, all.subspan(piece.offset(), piece.length_bytes()), std::move(opened)});
    begin += piece.length_bytes();
  }
  if (begin != length_bytes) return Fail(ErrorId::kBadFrame, "handles of a part of the region");
  return region;
}

std::byte* OpenedRegion::At(std::uint64_t offset, std::uint64_t& contiguous_bytes) const {
  const auto after =
      std::upper_bound(parts_.begin(), parts_.end(), offset,
                       [](std::uint64_t at, const Part& part) { return at < part.begin; });
  const Part& part = *std::prev(after);
  const std::uint64_t within = offset - part.begin;
  contiguous_bytes = part.bytes.size() - within;
  return part.bytes.data() + within;
}

void PeerMemory::Decide(RegionId id, std::shared_ptr<OpenedRegion> region) {
  const std::lock_guard lock(mutex_);
  regions_[id] = std::move(region);
}

bool PeerMemory::IsDecided(RegionId id) const {
  const std::lock_guard lock(mutex_);
  return regions_.contains(id);
}

std::shared_ptr<OpenedRegion> PeerMemory::Find(RegionId id) const {
  const std::lock_guard lock(mutex_);
  const auto found = regions_.find(id);
  return found == regions_.end() ? nullptr : found->second;
}

void PeerMemory::Forget(RegionId id) {
  std::shared_ptr<OpenedRegion> region;
  {
    const std::lock_guard lock(mutex_);
    const auto found = regions_.find(id);
    if (found == regions_.end()) return;
    region = std::move(found->second);
    regions_.erase(found);
  }
  if (!region) return;
  region->forgotten.store(true, std::memory_order_release);
  // Whoever copies holds a reference; ours is the last one then.
  while (region.use_count() > 1) std::this_thread::yield();
  std::atomic_thread_fence(std::memory_order_acquire);
}

std::vector<std::shared_ptr<OpenedRegion>> PeerMemory::TakeAll() {
  std::vector<std::shared_ptr<OpenedRegion>> all;
  const std::lock_guard lock(mutex_);
  for (auto& [id, region] : regions_) all.push_back(std::move(region));
  regions_.clear();
  return all;
}

}  // namespace mooncake::cuda
