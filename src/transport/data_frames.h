// The bodies of data frames: a gather list, with the checksum of the bytes it describes.
// docs/wire.md, "Data frames".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "transport/gather_list.h"

namespace mooncake {

inline constexpr std::uint32_t kDataPayloadBytesMax = 2 << 20;
/// Ranges at least this long on average are received straight into place; shorter ones by way of a
/// buffer, many at a time.
inline constexpr std::size_t kReceiveDirectBytesMin = 2 << 10;
/// What readers of data connections read beyond a header: a small frame whole, of a large one
/// little.
inline constexpr std::size_t kDataAheadBytes = 4096;

struct DataBody {
  std::vector<WireRegion> regions;
  std::vector<WireRange> ranges;
  std::uint32_t payload_crc32c = 0;  ///< Of a kWrite's payload; 0 in a kRead.
  std::uint64_t total_bytes = 0;     ///< Sum of the ranges' lengths; computed, not sent.
};

[[nodiscard]] std::string Encode(const DataBody& body);
void Encode(const DataBody& body, std::string& bytes);  ///< Into memory that is used again.
/// A peer's bytes. kBadFrame: lengths that do not fit, more regions or ranges than allowed, a range
/// of a region that is not listed, more than kDataPayloadBytesMax in all.
[[nodiscard]] Result<DataBody> DecodeDataBody(Bytes bytes);

/// A list as memory of this process.
struct ServedRanges {
  std::vector<PinnedRange> pins;     ///< Of its regions, in their order.
  std::vector<MutableBytes> ranges;  ///< In their order.
};
/// For whoever serves `body`: nothing is touched before every range has been checked. Errors:
/// kRegionUnknown, kBadRegionKey, kOutOfRegion, kMemoryKind.
[[nodiscard]] Result<ServedRanges> ServeRanges(const RegionTable& regions, const DataBody& body,
                                               Access wanted, Reach reach);

}  // namespace mooncake
