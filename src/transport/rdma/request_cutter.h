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

/// All of a transfer of one slice, which has bytes and whose regions `cursor` is in, at once.
/// False: it takes more than one request, or is not registered on these devices.
[[nodiscard]] bool CutWhole(const Transfer& transfer, const RequestLimits& limits,
                            const RegionCursor& cursor, Request& request);

}  // namespace mooncake::rdma
