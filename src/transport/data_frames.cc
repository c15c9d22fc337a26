#include "transport/data_frames.h"

#include <fmt/format.h>

#include <cstring>

namespace mooncake {
namespace {

struct Prefix {
  std::uint32_t region_count;
  std::uint32_t range_count;
  std::uint32_t payload_crc32c;
  std::uint32_t reserved;
};
static_assert(sizeof(Prefix) == 16);

}  // namespace

std::string Encode(const DataBody& body) {
  std::string bytes;
  Encode(body, bytes);
  return bytes;
}

void Encode(const DataBody& body, std::string& bytes) {
  const Prefix prefix{static_cast<std::uint32_t>(body.regions.size()),
                      static_cast<std::uint32_t>(body.ranges.size()), body.payload_crc32c, 0};
  const std::size_t regions_bytes = body.regions.size() * sizeof(WireRegion);
  const std::size_t ranges_bytes = body.ranges.size() * sizeof(WireRange);
  bytes.resize(sizeof prefix + regions_bytes + ranges_bytes);
  std::memcpy(bytes.data(), &prefix, sizeof prefix);
  if (regions_bytes > 0)
    std::memcpy(bytes.data() + sizeof prefix, body.regions.data(), regions_bytes);
  if (ranges_bytes > 0)
    std::memcpy(bytes.data() + sizeof prefix + regions_bytes, body.ranges.data(), ranges_bytes);
}

Result<DataBody> DecodeDataBody(Bytes bytes) {
  Prefix prefix{};
  if (bytes.size() < sizeof prefix)
    return Fail(ErrorId::kBadFrame, "a gather list of fewer than 16 bytes");
  std::memcpy(&prefix, bytes.data(), sizeof prefix);
  if (prefix.region_count > kWireRegionsMax || prefix.range_count > kWireRangesMax) {
    return Fail(ErrorId::kBadFrame, fmt::format("a gather list of {} regions and {} ranges",
                                                prefix.region_count, prefix.range_count));
  }
  const std::size_t regions_bytes = prefix.region_count * sizeof(WireRegion);
  const std::size_t ranges_bytes = prefix.range_count * sizeof(WireRange);
  if (bytes.size() != sizeof prefix + regions_bytes + ranges_bytes) {
    return Fail(ErrorId::kBadFrame,
                fmt::format("a gather list of {} bytes that claims {} regions and {} ranges",
                            bytes.size(), prefix.region_count, prefix.range_count));
  }
  DataBody body;
  body.payload_crc32c = prefix.payload_crc32c;
  body.regions.resize(prefix.region_count);
  body.ranges.resize(prefix.range_count);
  if (regions_bytes > 0)
    std::memcpy(body.regions.data(), bytes.data() + sizeof prefix, regions_bytes);
  if (ranges_bytes > 0)
    std::memcpy(body.ranges.data(), bytes.data() + sizeof prefix + regions_bytes, ranges_bytes);
  for (const WireRange& range : body.ranges) {
    if (range.region_index >= prefix.region_count)
      return Fail(ErrorId::kBadFrame, "a range of a region that is not listed");
    body.total_bytes += range.length_bytes;
  }
  if (body.total_bytes > kDataPayloadBytesMax) {
    return Fail(ErrorId::kBadFrame, fmt::format("a gather list over {} bytes", body.total_bytes));
  }
  return body;
}

Result<ServedRanges> ServeRanges(const RegionTable& regions, const DataBody& body, Access wanted,
                                 Reach reach) {
  ServedRanges served;
  served.pins.reserve(body.regions.size());
  for (const WireRegion& region : body.regions) {
    MC_TRY(PinnedRange pin, regions.Pin(RegionId{region.id}, RegionKey{region.key}, wanted, reach));
    served.pins.push_back(std::move(pin));
  }
  served.ranges.reserve(body.ranges.size());
  for (const WireRange& range : body.ranges) {
    const MutableBytes whole = served.pins[range.region_index].bytes();
    if (range.offset > whole.size() || range.length_bytes > whole.size() - range.offset) {
      return Fail(ErrorId::kOutOfRegion,
                  fmt::format("{} bytes at offset {} of a region of {} bytes", range.length_bytes,
                              range.offset, whole.size()));
    }
    served.ranges.push_back(whole.subspan(range.offset, range.length_bytes));
  }
  return served;
}

}  // namespace mooncake
