#include "drop_in/managed_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace mooncake::drop_in {

// First fit: the lowest address, so that what is left stays in one piece. 0: no room.
std::uint64_t ManagedMemory::Take(Segment& segment, std::uint64_t length_bytes) {
  for (auto gap = segment.free.begin(); gap != segment.free.end(); ++gap) {
    if (gap->second < length_bytes) continue;
    const auto [address, gap_bytes] = *gap;
    segment.free.erase(gap);
    if (gap_bytes > length_bytes) segment.free[address + length_bytes] = gap_bytes - length_bytes;
    segment.used[address] = length_bytes;
    return address;
  }
  return 0;
}

void ManagedMemory::PutBack(Segment& segment, std::uint64_t address, std::uint64_t length_bytes) {
  auto next = segment.free.lower_bound(address);
  if (next != segment.free.end() && address + length_bytes == next->first) {
    length_bytes += next->second;
    next = segment.free.erase(next);
  }
  if (next != segment.free.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == address) {
      before->second += length_bytes;
      return;
    }
  }
  segment.free[address] = length_bytes;
}

ManagedMemory::Segments::iterator ManagedMemory::Around(std::uint64_t address) {
  const auto after = segments_.upper_bound(address);
  if (after == segments_.begin()) return segments_.end();
  const auto found = std::prev(after);
  return address - found->first < found->second.length_bytes ? found : segments_.end();
}

Result<std::uint64_t> ManagedMemory::Allocate(std::uint64_t length_bytes) {
  if (length_bytes == 0 || length_bytes > UINT64_MAX - kAlignmentBytes)
    return Fail(ErrorId::kBadRange, fmt::format("a managed buffer of {} bytes", length_bytes));
  const std::uint64_t rounded =
      (length_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  const bool shares = rounded <= kSharedBufferBytesMax;
  const std::lock_guard lock(mutex_);
  if (shares) {
    for (auto& [base, segment] : segments_) {
      if (const std::uint64_t address = Take(segment, rounded); address != 0) return address;
    }
  }
  MC_TRY(const RegionInfo info, source_.allocate(shares ? kSharedSegmentBytes : rounded));
  Segment segment{info.id, info.length_bytes, {}, {}};
  // What is left of a large buffer's last page belongs to it.
  segment.free[info.base] = info.length_bytes;
  const std::uint64_t address = Take(segment, shares ? rounded : info.length_bytes);
  segments_.emplace(info.base, std::move(segment));
  return address;
}

Status ManagedMemory::Free(std::uint64_t address) {
  std::optional<RegionId> unused;
  {
    const std::lock_guard lock(mutex_);
    const auto found = Around(address);
    if (found == segments_.end() || !found->second.used.contains(address))
      return Fail(ErrorId::kRegionUnknown,
                  fmt::format("no managed buffer begins at {:#x}", address));
    Segment& segment = found->second;
    const auto buffer = segment.used.find(address);
    PutBack(segment, address, buffer->second);
    segment.used.erase(buffer);
    const bool is_last_shared =
        segment.length_bytes == kSharedSegmentBytes &&
        std::none_of(segments_.begin(), segments_.end(), [&](const auto& other) {
          return &other.second != &segment && !other.second.free.empty();
        });
    if (segment.used.empty() && !is_last_shared) {
      unused = segment.region;
      segments_.erase(found);
    }
  }
  return unused ? source_.release(*unused) : Status{};
}

bool ManagedMemory::Owns(std::uint64_t address) const {
  const std::lock_guard lock(mutex_);
  const auto after = segments_.upper_bound(address);
  if (after == segments_.begin()) return false;
  const auto& [base, segment] = *std::prev(after);
  return address - base < segment.length_bytes;
}

}  // namespace mooncake::drop_in
