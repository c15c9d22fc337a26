// Buffers out of memory that peers of this host map: small ones share a segment, large ones have
// one of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

#include "base/result.h"
#include "memory/region_table.h"

namespace mooncake::drop_in {

/// Any thread.
class ManagedMemory {
 public:
  /// Where segments come from and go to: Engine::Allocate() and Unregister().
  struct Source {
    std::function<Result<RegionInfo>(std::uint64_t length_bytes)> allocate;
    std::function<Status(RegionId)> release;
  };
  explicit ManagedMemory(Source source) : source_(std::move(source)) {}

  /// Zeroed when the segment is new; a range that was free before holds what was left there.
  /// kBadRange, kMemoryShortage.
  [[nodiscard]] Result<std::uint64_t> Allocate(std::uint64_t length_bytes);
  /// kRegionUnknown: not the begin of a buffer that is in use. A segment without buffers is given
  /// back, but for one that is kept for those to come.
  [[nodiscard]] Status Free(std::uint64_t address);
  [[nodiscard]] bool Owns(std::uint64_t address) const;

  static constexpr std::uint64_t kAlignmentBytes = 64;
  static constexpr std::uint64_t kSharedSegmentBytes = 16 << 20;
  static constexpr std::uint64_t kSharedBufferBytesMax = 2 << 20;  ///< Above: a segment of its own.

 private:
  struct Segment {
    RegionId region{};
    std::uint64_t length_bytes = 0;
    std::map<std::uint64_t, std::uint64_t> used;  // address, length
    std::map<std::uint64_t, std::uint64_t> free;  // address, length; never two that touch
  };
  using Segments = std::map<std::uint64_t, Segment>;  // by base

  static std::uint64_t Take(Segment& segment, std::uint64_t length_bytes);
  static void PutBack(Segment& segment, std::uint64_t address, std::uint64_t length_bytes);
  [[nodiscard]] Segments::iterator Around(std::uint64_t address);

  Source source_;
  mutable std::mutex mutex_;
  Segments segments_;  // guarded by mutex_
};

}  // namespace mooncake::drop_in
