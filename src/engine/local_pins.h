// The registered memory that a batch copies from or to, held for as long as it does.
#pragma once

#include <algorithm>
#include <boost/container/small_vector.hpp>
#include <span>

#include "memory/region_table.h"
#include "transport/transport.h"

namespace mooncake {

/// Nobody gets this memory back from RegionTable::Unregister() while this lives. One thread at a
/// time.
class LocalPins {
 public:
  /// Whether every slice lies in registered memory, as a sender may use it (any access) and as a
  /// receiver must. kNotRegistered.
  [[nodiscard]] Status Hold(const RegionTable& regions, std::span<const Slice> slices) {
    MutableBytes around;
    for (const Slice& slice : slices) {
      if (slice.length_bytes == 0 || Holds(around, slice)) continue;
      const auto after = std::upper_bound(pins_.begin(), pins_.end(), slice.local,
                                          [](const std::byte* place, const PinnedRange& pin) {
                                            return place < pin.bytes().data();
                                          });
      if (after != pins_.begin() && Holds(std::prev(after)->bytes(), slice)) {
        around = std::prev(after)->bytes();
        continue;
      }
      MC_TRY(PinnedRange pin, regions.PinLocal(slice.local, slice.length_bytes));
      around = pin.bytes();
      pins_.insert(after, std::move(pin));
    }
    return {};
  }

 private:
  static bool Holds(MutableBytes bytes, const Slice& slice) noexcept {
    const std::uint64_t offset = reinterpret_cast<std::uint64_t>(slice.local) -
                                 reinterpret_cast<std::uint64_t>(bytes.data());
    return offset <= bytes.size() && slice.length_bytes <= bytes.size() - offset;
  }

  boost::container::small_vector<PinnedRange, 4> pins_;  // ascending; regions do not overlap
};

}  // namespace mooncake
