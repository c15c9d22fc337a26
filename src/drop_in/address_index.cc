#include "drop_in/address_index.h"

#include <algorithm>
#include <map>

namespace mooncake::drop_in {

AddressIndex::AddressIndex(std::vector<RegionInfo> regions) {
  std::sort(regions.begin(), regions.end(),
            [](const RegionInfo& a, const RegionInfo& b) { return a.id > b.id; });
  std::map<std::uint64_t, Entry> by_base;
  std::uint64_t first_allocated = 0;
  for (const RegionInfo& region : regions) {
    const std::uint64_t length = std::min(region.length_bytes, UINT64_MAX - region.base);
    if (length == 0) continue;  // a peer's words are data
    const auto next = by_base.lower_bound(region.base);
    if (next != by_base.end() && next->first - region.base < length) continue;
    if (next != by_base.begin()) {
      const Entry& before = std::prev(next)->second;
      if (region.base - before.base < before.length_bytes) continue;
    }
    by_base[region.base] = {region.base, length, region.id};
    (region.mappable ? first_allocated : first_base_) = region.base;  // the lowest id comes last
  }
  if (first_base_ == 0) first_base_ = first_allocated;
  entries_.reserve(by_base.size());
  for (const auto& [base, entry] : by_base) entries_.push_back(entry);
}

const AddressIndex::Entry* AddressIndex::Search(std::uint64_t address, std::uint64_t length_bytes,
                                                std::size_t& hint) const noexcept {
  const auto after =
      std::upper_bound(entries_.begin(), entries_.end(), address,
                       [](std::uint64_t a, const Entry& entry) { return a < entry.base; });
  if (after == entries_.begin()) return nullptr;
  const Entry& entry = *std::prev(after);
  if (!Holds(entry, address, length_bytes)) return nullptr;
  hint = static_cast<std::size_t>(&entry - entries_.data());
  return &entry;
}

}  // namespace mooncake::drop_in
