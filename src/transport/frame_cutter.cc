#include "transport/frame_cutter.h"

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

// Lists ranges of at most `payload_bytes_max` in all, and shows each, with where it lies here.
template <class Show>
Status ListRanges(const Transfer& transfer, const PeerRegions& regions,
                  std::uint64_t payload_bytes_max, FrameCursor& cursor, DataBody& list,
                  std::uint64_t& payload_bytes, Show&& show) {
  list.regions.clear();
  list.ranges.clear();
  list.payload_crc32c = 0;
  payload_bytes = 0;
  const RegionInfo* region = nullptr;
  cursor.SkipEmpty(transfer);
  while (!cursor.AtEnd(transfer) && payload_bytes < payload_bytes_max &&
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
        std::min(slice.length_bytes - cursor.offset, payload_bytes_max - payload_bytes);
    list.ranges.push_back({slice.offset + cursor.offset, static_cast<std::uint32_t>(length),
                           static_cast<std::uint32_t>(list.regions.size() - 1)});
    show(slice.local + cursor.offset, length);
    payload_bytes += length;
    cursor.offset += length;
    cursor.SkipEmpty(transfer);
  }
  return {};
}

FrameHeader HeaderOf(Direction direction, std::uint64_t payload_bytes) {
  const bool write = direction == Direction::kWrite;
  FrameHeader header;
  header.kind = write ? FrameKind::kWrite : FrameKind::kRead;
  header.payload_bytes = write ? static_cast<std::uint32_t>(payload_bytes) : 0;
  return header;
}

}  // namespace

void Seal(OutgoingFrame& frame, std::uint32_t crc32c) {
  frame.list_.payload_crc32c = crc32c;
  Encode(frame.list_, frame.body);
  frame.header.body_bytes = static_cast<std::uint32_t>(frame.body.size());
}

Status CutRanges(const Transfer& transfer, const PeerRegions& regions,
                 std::uint64_t payload_bytes_max, FrameCursor& cursor, OutgoingFrame& frame) {
  frame.payload.clear();
  frame.local.clear();
  MC_TRY_STATUS(ListRanges(
      transfer, regions, payload_bytes_max, cursor, frame.list_, frame.payload_bytes,
      [&](std::byte* local, std::uint64_t length) { frame.local.emplace_back(local, length); }));
  frame.header = HeaderOf(transfer.direction, frame.payload_bytes);
  return {};
}

Status CutFrame(const Transfer& transfer, const PeerRegions& regions, const CopyEngine& copy,
                std::uint64_t payload_bytes_max, FrameCursor& cursor, OutgoingFrame& frame) {
  if (transfer.direction == Direction::kRead) {
    MC_TRY_STATUS(CutRanges(transfer, regions, payload_bytes_max, cursor, frame));
    Seal(frame, 0);
    return {};
  }
  frame.payload.clear();
  frame.local.clear();
  frame.gathered_.resize(
      std::max(frame.gathered_.size(), std::min(payload_bytes_max, transfer.total_bytes)));
  std::uint32_t crc32c = 0;
  std::size_t gathered = 0;  // of it, bytes so far,
  std::size_t summed = 0;    // and how many of them the checksum contains
  // Short pieces are summed together: a call for each would cost more than its bytes.
  const auto sum_gathered = [&] {
    crc32c = copy.Crc32c(frame.gathered_.data() + summed, gathered - summed, crc32c);
    summed = gathered;
  };
  const auto take = [&](std::byte* local, std::uint64_t length) {
    if (length >= kDirectBytesMin) {
      sum_gathered();
      crc32c = copy.Crc32c(local, length, crc32c);
      frame.payload.emplace_back(local, length);
      return;
    }
    std::byte* const to = frame.gathered_.data() + gathered;
    if (cursor.slice + kPrefetchAhead < transfer.slices.size())
      __builtin_prefetch(transfer.slices[cursor.slice + kPrefetchAhead].local);
    if (length < kSumTogetherBytesMax) {
      std::memcpy(to, local, length);
    } else {
      sum_gathered();
      crc32c = copy.CopyCrc32c(to, local, length, crc32c);
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
  };
  MC_TRY_STATUS(ListRanges(transfer, regions, payload_bytes_max, cursor, frame.list_,
                           frame.payload_bytes, take));
  sum_gathered();
  frame.header = HeaderOf(transfer.direction, frame.payload_bytes);
  Seal(frame, crc32c);
  return {};
}

}  // namespace mooncake
