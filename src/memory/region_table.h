// The regions of this process: memory that peers may read or write, each under a random key.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/spin.h"
#include "base/unique_fd.h"
#include "base/world.h"
#include "memory/shared_segment.h"

namespace mooncake {

enum class Access : std::uint8_t { kRead = 1, kWrite = 2, kReadWrite = 3 };
[[nodiscard]] constexpr bool Allows(Access granted, Access wanted) noexcept {
  return (static_cast<unsigned>(granted) & static_cast<unsigned>(wanted)) ==
         static_cast<unsigned>(wanted);
}

/// A region as its owner describes it to peers.
struct RegionInfo {
  RegionId id{};
  RegionKey key{};
  std::uint64_t base = 0;  ///< Address in the owner's memory: a name for raw-address clients, never
                           ///< dereferenced here.
  std::uint64_t length_bytes = 0;
  std::string location = "cpu:0";
  Access access = Access::kReadWrite;
  bool mappable = false;  ///< Backed by a memfd that peers of the same host may map.
};

[[nodiscard]] inline bool IsGpuLocation(std::string_view location) noexcept {
  return location.starts_with("cuda:");
}
/// Whether the region is memory of a GPU, which the processor must not touch.
[[nodiscard]] inline bool IsOnGpu(const RegionInfo& region) noexcept {
  return IsGpuLocation(region.location);
}

/// What its caller reads and writes memory with.
enum class Reach : std::uint8_t {
  kHost,  ///< The processor.
  kAny,   ///< Whatever the memory asks for.
};

/// Whether `place` lies in the memory that `region`, one of this process, describes.
[[nodiscard]] inline bool Contains(const RegionInfo& region, const void* place) noexcept {
  return reinterpret_cast<std::uint64_t>(place) - region.base < region.length_bytes;
}

[[nodiscard]] inline MutableBytes BytesOf(const RegionInfo& info) noexcept {
  return {reinterpret_cast<std::byte*>(info.base), info.length_bytes};
}

/// Whether [begin, begin + length) lies in it.
[[nodiscard]] inline bool Contains(const RegionInfo& info, std::uint64_t begin,
                                   std::uint64_t length_bytes) noexcept {
  const std::uint64_t offset = begin - info.base;
  return offset <= info.length_bytes && length_bytes <= info.length_bytes - offset;
}

struct RegisterOptions {
  std::string location = "*";  ///< "cpu:0", "cuda:3", "*" to have it found out.
  Access access = Access::kReadWrite;
  /// Listed regions are told, with their keys, to every peer that this process talks to; others
  /// only to those whom the application gives the RegionInfo.
  bool listed = true;
};

namespace internal {
struct Region {
  ~Region() {
    if (unused) unused();
  }
  RegionInfo info;
  bool listed = true;
  SharedSegment* segment = nullptr;  // null for memory that the application allocated
  mutable std::function<void()>
      unused;  // set when it leaves the table; the last reference calls it
};
}  // namespace internal

/// A range of a region that stays valid while this lives: its memory is the owner's again after
/// that.
class PinnedRange {
 public:
  PinnedRange() = default;
  /// All of it.
  explicit PinnedRange(std::shared_ptr<const internal::Region> region) noexcept
      : region_(std::move(region)), bytes_(BytesOf(region_->info)) {}
  PinnedRange(std::shared_ptr<const internal::Region> region, MutableBytes bytes)
      : region_(std::move(region)), bytes_(bytes) {}
  [[nodiscard]] MutableBytes bytes() const noexcept { return bytes_; }
  /// Whether bytes() are addresses that only a GPU may use.
  [[nodiscard]] bool on_gpu() const noexcept { return region_ && IsOnGpu(region_->info); }
  /// A part of this range, which the caller has checked to lie inside it.
  [[nodiscard]] PinnedRange Narrow(std::uint64_t offset, std::uint64_t length_bytes) && {
    return {std::move(region_), bytes_.subspan(offset, length_bytes)};
  }

 private:
  std::shared_ptr<const internal::Region> region_;
  MutableBytes bytes_;
};

/// All regions of one engine. Every member function may be called from any thread.
class RegionTable {
 public:
  explicit RegionTable(Random& random) : random_(random) {}

  /// O(log n), touches no page. Errors: kBadRange (null, empty, past the end of the address space),
  /// kRegionExists (overlaps).
  [[nodiscard]] Result<RegionInfo> Register(void* base, std::uint64_t length_bytes,
                                            const RegisterOptions& options);
  /// Registers all of `segment`, which must outlive the registration; peers of this host may map
  /// it.
  [[nodiscard]] Result<RegionInfo> Register(SharedSegment& segment, const RegisterOptions& options);
  /// Afterwards no new access begins. Calls `unused` once, when those in progress have ended:
  /// before it returns, or later on the thread that ends the last one. kRegionUnknown.
  [[nodiscard]] Status Unregister(RegionId id, std::function<void()> unused);
  /// The region that begins at `base`. kRegionUnknown.
  [[nodiscard]] Result<RegionInfo> FindBase(const void* base) const;

  /// For whoever serves a peer: checks key, bounds and access, and pins. Errors: kRegionUnknown,
  /// kBadRegionKey, kOutOfRegion, kMemoryKind (it is a GPU's).
  [[nodiscard]] Result<PinnedRange> Resolve(RegionId id, RegionKey key, std::uint64_t offset,
                                            std::uint64_t length_bytes, Access wanted) const;
  /// All of a region, pinned once for many ranges. Errors: kRegionUnknown, kBadRegionKey,
  /// kMemoryKind: `reach` does not reach it.
  [[nodiscard]] Result<PinnedRange> Pin(RegionId id, RegionKey key, Access wanted,
                                        Reach reach = Reach::kHost) const;
  /// A descriptor of the memfd behind a mappable region, and the region's length, for a peer that
  /// shows its key. Errors as Resolve, and kMapFailed when it has none.
  [[nodiscard]] Result<std::pair<UniqueFd, std::uint64_t>> ResolveSegment(RegionId id,
                                                                          RegionKey key,
                                                                          Access wanted) const;
  /// The listed or unlisted region that contains [address, address + length). kNotRegistered.
  [[nodiscard]] Result<RegionInfo> FindLocal(const void* address, std::uint64_t length_bytes) const;
  /// All of the registered memory around [address, address + length). kNotRegistered.
  [[nodiscard]] Result<MutableBytes> FindLocalBytes(const void* address,
                                                    std::uint64_t length_bytes) const;
  /// The same, pinned: for whoever copies from or to it.
  [[nodiscard]] Result<PinnedRange> PinLocal(const void* address,
                                             std::uint64_t length_bytes) const {
    PinnedRange pin = PinRemembered(address, length_bytes);
    return pin.bytes().empty() ? LookUp(address, length_bytes) : std::move(pin);
  }
  /// The same if it is the region that was found last, mostly: else nothing. No error is made.
  [[nodiscard]] PinnedRange PinRemembered(const void* address,
                                          std::uint64_t length_bytes) const noexcept {
    RegionPtr region = last_.Get(reinterpret_cast<std::uint64_t>(address), length_bytes);
    return region ? PinnedRange(std::move(region)) : PinnedRange();
  }
  /// Listed regions with ids above `after`, in order of id, at most `count_max`.
  [[nodiscard]] std::vector<RegionInfo> List(RegionId after, std::size_t count_max) const;
  /// Any `count_max` regions, listed or not.
  [[nodiscard]] std::vector<RegionInfo> All(std::size_t count_max) const;
  /// Changes with every listed registration and unregistration.
  [[nodiscard]] std::uint64_t version() const noexcept {
    return version_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::size_t size() const;
  /// Whether any region is a GPU's. A load.
  [[nodiscard]] bool has_gpu_regions() const noexcept {
    return gpu_regions_.load(std::memory_order_acquire) > 0;
  }

 private:
  using RegionPtr = std::shared_ptr<const internal::Region>;
  Result<RegionInfo> Insert(std::uint64_t base, std::uint64_t length_bytes,
                            const RegisterOptions& options, SharedSegment* segment);
  [[nodiscard]] Result<RegionPtr> Find(RegionId id, RegionKey key) const;
  [[nodiscard]] Result<PinnedRange> LookUp(const void* address, std::uint64_t length_bytes) const;
  [[nodiscard]] const RegionPtr* Around(std::uint64_t begin,
                                        std::uint64_t length_bytes) const;  // under mutex_

  // The region that was found last, so that most look-ups of the next one cost a copy. Whoever
  // finds another one at it does without.
  class Remembered {
   public:
    /// Null: it is another one, or somebody else is at it.
    [[nodiscard]] RegionPtr Get(std::uint64_t begin, std::uint64_t length_bytes) noexcept {
      const std::unique_lock lock(lock_, std::try_to_lock);
      return lock && region_ && Contains(region_->info, begin, length_bytes) ? region_ : nullptr;
    }
    void Set(const RegionPtr& region) noexcept;
    /// What was remembered, if it is `region`.
    [[nodiscard]] RegionPtr Forget(const RegionPtr& region) noexcept;

   private:
    SpinLock lock_;
    RegionPtr region_;  // guarded by lock_
  };

  Random& random_;
  mutable std::shared_mutex mutex_;             // held for a look-up, never during a copy
  std::map<std::uint64_t, RegionPtr> by_base_;  // guarded by mutex_
  std::map<RegionId, RegionPtr> by_id_;         // guarded by mutex_
  std::uint64_t next_id_ = 1;                   // guarded by mutex_
  mutable Remembered last_;                     // set under mutex_
  std::atomic<std::uint64_t> version_{1};
  std::atomic<std::size_t> gpu_regions_ = 0;  // written under mutex_
};

}  // namespace mooncake
