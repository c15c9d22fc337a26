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

struct DataBody {
  std::vector<WireRegion> regions;
  std::vector<WireRange> ranges;
  std::uint32_t payload_crc32c = 0;  ///< Of a kWrite's payload; 0 in a kRead.
  std::uint64_t total_bytes = 0;     ///< Sum of the ranges' lengths; computed, not sent.
};

[[nodiscard]] std::string Encode(const DataBody& body);
/// A peer's bytes. kBadFrame: lengths that do not fit, more regions or ranges than allowed, a range
/// of a region that is not listed, more than kDataPayloadBytesMax in all.
[[nodiscard]] Result<DataBody> DecodeDataBody(Bytes bytes);

}  // namespace mooncake
