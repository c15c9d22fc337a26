// The regions of both ends as the NICs know them: this process's registrations, and the peer's
// keys.
#pragma once

#include <atomic>
#include <mutex>
#include <unordered_map>

#include "transport/rdma/rdma_link.h"
#include "transport/rdma/rdma_memory.h"

namespace mooncake::rdma {

/// Any thread.
class PathRegions {
 public:
  explicit PathRegions(std::shared_ptr<RdmaMemory> memory) : memory_(std::move(memory)) {}

  [[nodiscard]] RdmaMemory& local() const noexcept { return *memory_; }
  /// Null: its keys have not been fetched, or were dropped.
  [[nodiscard]] RemoteRegionPtr FindRemote(RegionId id) const;
  void AddRemote(RegionId id, RemoteRegionPtr region);
  void DropRemote(RegionId id);
  /// Grows with every change of what a lookup finds.
  [[nodiscard]] std::uint64_t version() const noexcept {
    return memory_->version() + remote_version_.load(std::memory_order_acquire);
  }
  /// Whether it is known of each region of the transfer if it is registered, and under which key.
  [[nodiscard]] bool AreKnown(const Transfer& transfer) const;
  /// False: some region of the transfer, here or there, is registered on no device.
  [[nodiscard]] bool CanBeCarried(const Transfer& transfer) const;

 private:
  const std::shared_ptr<RdmaMemory> memory_;
  mutable std::mutex mutex_;
  std::unordered_map<RegionId, RemoteRegionPtr> remote_;  // guarded by mutex_
  std::atomic<std::uint64_t> remote_version_ = 0;         // written under mutex_
};

/// The two regions that a place of a transfer is in: mostly the same as of the place before.
struct RegionCursor {
  RegisteredRegionPtr local;  ///< Null: not offered, or withdrawn.
  RemoteRegionPtr remote;     ///< Null: as PathRegions::FindRemote().
  RegionId remote_id{};
  std::uint64_t version = 0;  ///< Of PathRegions, before the first lookup.
  /// For a new transfer: drops what may not be true any more.
  void Renew(const PathRegions& regions) {
    const std::uint64_t now = regions.version();
    if (version != now) *this = {};
    version = now;
  }
  /// `place` lies in the local range of `slice`.
  void MoveTo(const PathRegions& regions, const Slice& slice, const std::byte* place) {
    if (!local || !Contains(local->info, place)) local = regions.local().FindLocal(place);
    if (!remote || remote_id != slice.region) remote = regions.FindRemote(remote_id = slice.region);
  }
};

/// Registered there on no device at all.
[[nodiscard]] bool IsUnregistered(const RemoteRegion& region) noexcept;

}  // namespace mooncake::rdma
