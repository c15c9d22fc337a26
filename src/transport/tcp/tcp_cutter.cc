#include "transport/tcp/tcp_cutter.h"

#include <fmt/format.h>

#include <cstring>

#include "transport/transfer_check.h"

namespace mooncake {
namespace {

// Slices longer than this go from where they lie into the socket; shorter ones are gathered in a
// buffer first, because a system call with many short pieces costs more than copying them.
constexpr std::size_t kDirectBytesMin = 2 << 10;
constexpr std::size_t kSumTogetherBytesMax = 1
                                             << 10;  // longer ones are summed while they are copied
constexpr std::size_t kPrefetchAhead = 8;

Status CheckSlice(const Slice& slice, const RegionInfo& region) {
  if (slice.offset <= region.length_bytes &&
      slice.length_bytes <= region.length_bytes - slice.offset)
    return {};
  return Fail(ErrorId::kOutOfRegion,
              fmt::format("{} bytes at offset {} of a region of {} bytes", slice.length_bytes,
                          slice.offset, region.length_bytes));
}

Result<const RegionInfo*> FindRegion(const PeerRegions& regions, RegionId id, Access needed) {
  const RegionInfo* const region = regions.Find(id);
  const auto number = static_cast<std::uint64_t>(id);
  if (region == nullptr)
    return Fail(ErrorId::kRegionUnknown, fmt::format("the peer has told of no region {}", number));
  if (!Allows(region->access, needed)) {
    return Fail(ErrorId::kBadRegionKey,
                fmt::format("region {} does not allow this access", number));
  }
  return region;
}

}  // namespace

Status CutFrame(const Transfer& transfer, const PeerRegions& regions, const CopyEngine& copy,
                std::uint64_t payload_bytes_max, TcpCursor& cursor, OutgoingFrame& frame) {
  const bool write = transfer.direction == Direction::kWrite;
  DataBody& list = frame.list_;
  list.regions.clear();
  list.ranges.clear();
  list.payload_crc32c = 0;
  frame.payload.clear();
  frame.local.clear();
  frame.payload_bytes = 0;
  if (write)
    frame.gathered_.resize(
        std::max(frame.gathered_.size(), std::min(payload_bytes_max, transfer.total_bytes)));
  std::size_t gathered = 0;  // of it, bytes so far,
  std::size_t summed = 0;    // and how many of them the checksum contains
  // Short pieces are summed together: a call for each would cost more than its bytes.
  const auto sum_gathered = [&] {
    list.payload_crc32c =
        copy.Crc32c(frame.gathered_.data() + summed, gathered - summed, list.payload_crc32c);
    summed = gathered;
  };
  const RegionInfo* region = nullptr;
  cursor.SkipEmpty(transfer);
  while (!cursor.AtEnd(transfer) && frame.payload_bytes < payload_bytes_max &&
         list.ranges.size() < kWireRangesMax) {
    const Slice& slice = transfer.slices[cursor.slice];
    if (region == nullptr || region->id != slice.region) {
      if (list.regions.size() == kWireRegionsMax) break;
      MC_TRY(region, FindRegion(regions, slice.region, WantedAccess(transfer.direction)));
      list.regions.push_back(
          {static_cast<std::uint64_t>(region->id), static_cast<std::uint64_t>(region->key)});
    }
    MC_TRY_STATUS(CheckSlice(slice, *region));
    const std::uint64_t length =
        std::min(slice.length_bytes - cursor.offset, payload_bytes_max - frame.payload_bytes);
    std::byte* const local = slice.local + cursor.offset;
    list.ranges.push_back({slice.offset + cursor.offset, static_cast<std::uint32_t>(length),
                           static_cast<std::uint32_t>(list.regions.size() - 1)});
    if (!write) {
      frame.local.emplace_back(local, length);
    } else if (length >= kDirectBytesMin) {
      sum_gathered();
      list.payload_crc32c = copy.Crc32c(local, length, list.payload_crc32c);
      frame.payload.emplace_back(local, length);
    } else {
      std::byte* const to = frame.gathered_.data() + gathered;
      if (cursor.slice + kPrefetchAhead < transfer.slices.size()) {
        __builtin_prefetch(transfer.slices[cursor.slice + kPrefetchAhead].local);
      }
      if (length < kSumTogetherBytesMax) {
        std::memcpy(to, local, length);
      } else {
        sum_gathered();
        list.payload_crc32c = copy.CopyCrc32c(to, local, length, list.payload_crc32c);
        summed += length;
      }
      const bool joins =
          !frame.payload.empty() && frame.payload.back().data() + frame.payload.back().size() == to;
      if (joins) {
        frame.payload.back() =
            Bytes(frame.payload.back().data(), frame.payload.back().size() + length);
      } else {
        frame.payload.emplace_back(to, length);
      }
      gathered += length;
    }
    frame.payload_bytes += length;
    cursor.offset += length;
    cursor.SkipEmpty(transfer);
  }
  sum_gathered();
  frame.header = {};
  frame.header.kind = write ? FrameKind::kWrite : FrameKind::kRead;
  Encode(list, frame.body);
  frame.header.body_bytes = static_cast<std::uint32_t>(frame.body.size());
  frame.header.payload_bytes = write ? static_cast<std::uint32_t>(frame.payload_bytes) : 0;
  return {};
}

}  // namespace mooncake
