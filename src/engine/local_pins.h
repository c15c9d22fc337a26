// Registered memory of this engine that is copied from or to, held for as long as it is.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "memory/region_table.h"
#include "transport/transport.h"

namespace mooncake {

/// Nobody gets this memory back from RegionTable::Unregister() while this lives. One thread at a
/// time.
class LocalPins {
 public:
  /// `regions` outlives it.
  explicit LocalPins(const RegionTable& regions) : regions_(regions) {}

  /// Whether the bytes lie in registered memory, as a sender may use it (any access) and as a
  /// receiver must. kNotRegistered.
  [[nodiscard]] [[gnu::always_inline]] Status Hold(const std::byte* place,
                                                   std::uint64_t length_bytes) {
    if (length_bytes == 0 || Holds(around_, place, length_bytes)) return {};
    if (first_.bytes().empty()) {
      first_ = regions_.PinRemembered(place, length_bytes);
      if (!first_.bytes().empty()) return Held(first_);
    }
    return HoldAnother(place, length_bytes);
  }
  // Inlined: most transfers are of one slice, in the region that was found last.
  [[nodiscard]] [[gnu::always_inline]] Status Hold(std::span<const Slice> slices) {
    for (const Slice& slice : slices) {
      if (!Holds(around_, slice.local, slice.length_bytes))
        MC_TRY_STATUS(Hold(slice.local, slice.length_bytes));
    }
    return {};
  }
  /// Whether any of it is memory of a GPU.
  [[nodiscard]] bool on_gpu() const noexcept { return on_gpu_; }

 private:
  static bool Holds(MutableBytes bytes, const std::byte* place,
                    std::uint64_t length_bytes) noexcept {
    const std::uint64_t offset =
        reinterpret_cast<std::uint64_t>(place) - reinterpret_cast<std::uint64_t>(bytes.data());
    return offset <= bytes.size() && length_bytes <= bytes.size() - offset;
  }

  Status HoldAnother(const std::byte* place, std::uint64_t length_bytes) {
    if (first_.bytes().empty()) {
      MC_TRY(first_, regions_.PinLocal(place, length_bytes));
      return Held(first_);
    }
    if (Holds(first_.bytes(), place, length_bytes)) return Held(first_);
    const auto after = std::upper_bound(
        others_.begin(), others_.end(), place,
        [](const std::byte* begin, const PinnedRange& pin) { return begin < pin.bytes().data(); });
    if (after != others_.begin() && Holds(std::prev(after)->bytes(), place, length_bytes))
      return Held(*std::prev(after));
    MC_TRY(PinnedRange pin, regions_.PinLocal(place, length_bytes));
    return Held(*others_.insert(after, std::move(pin)));
  }

  [[gnu::always_inline]] Status Held(const PinnedRange& pin) {
    around_ = pin.bytes();
    on_gpu_ = on_gpu_ || (regions_.has_gpu_regions() && pin.on_gpu());
    return {};
  }

  const RegionTable& regions_;
  MutableBytes around_;              // of the last hit
  PinnedRange first_;                // most transfers need no other
  std::vector<PinnedRange> others_;  // ascending; regions do not overlap
  bool on_gpu_ = false;
};

}  // namespace mooncake
