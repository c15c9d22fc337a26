// The gather list as it travels: which ranges of which regions, in the order of the bytes that
// follow. Used by every transport that sends the list to its peer (ring, tcp). docs/wire.md section
// "Gather list".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/region_table.h"
#include "transport/transport.h"

namespace mooncake {

/// A region that a list refers to, with the key that proves the right to it. 16 bytes,
/// little-endian.
struct WireRegion {
  std::uint64_t id;
  std::uint64_t key;
};
/// One range. 16 bytes, little-endian.
struct WireRange {
  std::uint64_t offset;
  std::uint32_t length_bytes;
  std::uint32_t region_index;
};
static_assert(sizeof(WireRegion) == 16 && sizeof(WireRange) == 16);

inline constexpr std::uint32_t kWireRegionsMax = 4096;  ///< Regions of one list.
inline constexpr std::uint32_t kWireRangesMax =
    16384;  ///< Ranges of one list; larger batches are several.
inline constexpr std::uint32_t kWireRangeBytesMax =
    1 << 30;  ///< Longer slices become several ranges.

}  // namespace mooncake
