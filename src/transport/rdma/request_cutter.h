// Cuts transfers into requests: neighbours that touch on both sides become one range, what touches
// only at the peer one request of several ranges, and what is too long several requests.
#pragma once

#include "transport/rdma/path_regions.h"
#include "transport/rdma/rail.h"

namespace mooncake::rdma {

/// What a request must fit into.
struct RequestLimits {
  std::size_t device = 0;  ///< Rank of the device here,
  std::size_t peer_device = 0;
  int entries_max = 1;
  std::uint64_t length_bytes_max = 0;  ///< At least 1.
};

/// The longest request from the beginning of `rest`, which has bytes; `rest` is then what is left.
/// `cursor` is at that place or before it. False: the first byte is not registered on these
/// devices, and nothing has changed but the cursor.
[[nodiscard]] bool CutRequest(const PathRegions& regions, const Transfer& transfer,
                              const RequestLimits& limits, RegionCursor& cursor, Range& rest,
                              Request& request);

/// Registered bytes under one key on a device.
struct KeyedRange {
  std::uint64_t begin = 0;  ///< Address here; offset in the peer's region.
  std::uint64_t length_bytes = 0;
  std::uint32_t key = 0;
  [[nodiscard]] bool Contains(std::uint64_t at, std::uint64_t bytes) const noexcept {
    return at - begin <= length_bytes && bytes <= LeftFrom(at);
  }
  /// From `at`, which lies in it, to its end.
  [[nodiscard]] std::uint64_t LeftFrom(std::uint64_t at) const noexcept {
    return length_bytes - (at - begin);
  }
};

/// A place of a transfer on the devices of a rail, with all around it that is under the same keys.
struct Located {
  KeyedRange local;
  KeyedRange remote;
  std::uint64_t remote_base = 0;  ///< Where the peer's region begins for its device.
};

/// Cuts transfers of one slice that are one request, at once: most lie where the one before did,
/// and nothing is looked up for them. One thread at a time.
class WholeCutter {
 public:
  /// All of a transfer of one slice, which has bytes. False: it takes more than one request, or is
  /// not known to be registered on these devices.
  [[nodiscard]] bool Cut(const PathRegions& regions, const Transfer& transfer,
                         const RequestLimits& limits, Request& request);

 private:
  [[nodiscard]] bool Covers(std::uint64_t version, const Slice& slice,
                            const RequestLimits& limits) const noexcept;
  /// Remembers where the slice begins; false: that is not known to be registered.
  [[nodiscard]] bool Find(const PathRegions& regions, const Slice& slice,
                          const RequestLimits& limits);

  // Where the last one was, and for whom.
  Located at_;
  RegionId region_{};
  std::size_t device_ = 0;
  std::size_t peer_device_ = 0;
  std::uint64_t version_ = UINT64_MAX;  // of the regions
};

}  // namespace mooncake::rdma
