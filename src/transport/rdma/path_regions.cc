#include "transport/rdma/path_regions.h"

#include <algorithm>

namespace mooncake::rdma {
namespace {

// Whether `holds` for the regions of every slice that has bytes.
template <class Holds>
bool HoldsForAll(const PathRegions& regions, const Transfer& transfer, Holds&& holds) {
  RegionCursor cursor;
  return std::all_of(transfer.slices.begin(), transfer.slices.end(), [&](const Slice& slice) {
    if (slice.length_bytes == 0) return true;
    cursor.MoveTo(regions, slice, slice.local);
    return holds(cursor);
  });
}

}  // namespace

bool IsUnregistered(const RemoteRegion& region) noexcept {
  return std::all_of(region.keys.begin(), region.keys.end(),
                     [](const auto& keys) { return keys.empty(); });
}

RemoteRegionPtr PathRegions::FindRemote(RegionId id) const {
  const std::lock_guard lock(mutex_);
  const auto found = remote_.find(id);
  return found == remote_.end() ? nullptr : found->second;
}

void PathRegions::AddRemote(RegionId id, RemoteRegionPtr region) {
  const std::lock_guard lock(mutex_);
  remote_[id] = std::move(region);
  remote_version_.fetch_add(1, std::memory_order_acq_rel);
}

void PathRegions::DropRemote(RegionId id) {
  const std::lock_guard lock(mutex_);
  remote_.erase(id);
  remote_version_.fetch_add(1, std::memory_order_acq_rel);
}

bool PathRegions::AreKnown(const Transfer& transfer) const {
  return HoldsForAll(*this, transfer, [](const RegionCursor& at) {
    return at.local && at.local->is_settled() && at.remote;
  });
}

bool PathRegions::CanBeCarried(const Transfer& transfer) const {
  return HoldsForAll(*this, transfer, [](const RegionCursor& at) {
    const bool refused_here =
        !at.local || (at.local->is_settled() && !at.local->is_ready_anywhere());
    return !refused_here && !(at.remote && IsUnregistered(*at.remote));
  });
}

}  // namespace mooncake::rdma
