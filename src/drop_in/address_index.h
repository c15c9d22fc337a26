// Raw addresses of a peer, turned into regions and offsets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/region_table.h"

namespace mooncake::drop_in {

/// The regions of one peer at one moment, by address. Immutable, so: any thread.
class AddressIndex {
 public:
  struct Entry {
    std::uint64_t base = 0;
    std::uint64_t length_bytes = 0;
    RegionId region{};
  };

  AddressIndex() = default;
  /// Where two overlap, the later one (by id) is the truth: the other one is a registration that
  /// has ended and whose end has not been heard of yet.
  explicit AddressIndex(std::vector<RegionInfo> regions);

  /// The region that holds [address, address + length_bytes), or null. `hint` is an index of the
  /// caller's, 0 at first: where the last search ended is where the next one is likely to end.
  [[nodiscard]] const Entry* Find(std::uint64_t address, std::uint64_t length_bytes,
                                  std::size_t& hint) const noexcept {
    for (std::size_t i = hint; i < entries_.size() && i < hint + 2; ++i) {
      if (!Holds(entries_[i], address, length_bytes)) continue;
      hint = i;
      return &entries_[i];
    }
    return Search(address, length_bytes, hint);
  }
  /// Of the region with the lowest id that the peer has not allocated itself, or, if there is none,
  /// of the lowest. 0: there is none at all.
  [[nodiscard]] std::uint64_t first_base() const noexcept { return first_base_; }

 private:
  static bool Holds(const Entry& entry, std::uint64_t address,
                    std::uint64_t length_bytes) noexcept {
    const std::uint64_t offset = address - entry.base;  // huge where the address lies below
    return offset < entry.length_bytes && length_bytes <= entry.length_bytes - offset;
  }
  [[nodiscard]] const Entry* Search(std::uint64_t address, std::uint64_t length_bytes,
                                    std::size_t& hint) const noexcept;

  std::vector<Entry> entries_;  // ascending, without overlap
  std::uint64_t first_base_ = 0;
};

}  // namespace mooncake::drop_in
