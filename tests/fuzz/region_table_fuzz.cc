// The table of registered memory beside a list that is searched from end to end. No memory is
// touched: addresses are numbers here.
#include <vector>

#include "choices.h"
#include "memory/region_table.h"

namespace mooncake {
namespace {

constexpr std::uint64_t kSpace = 4096;  // addresses in use: small, so that regions meet

class CountingRandom final : public Random {
 public:
  std::uint64_t Next() override { return ++count_ * 0x9E3779B97F4A7C15; }

 private:
  std::uint64_t count_ = 0;
};

struct Oracle {
  std::vector<RegionInfo> regions;

  const RegionInfo* ById(RegionId id) const {
    for (const RegionInfo& region : regions) {
      if (region.id == id) return &region;
    }
    return nullptr;
  }
  bool Overlaps(std::uint64_t base, std::uint64_t length) const {
    for (const RegionInfo& region : regions) {
      if (base < region.base + region.length_bytes && region.base < base + length) return true;
    }
    return false;
  }
  const RegionInfo* Around(std::uint64_t base, std::uint64_t length) const {
    for (const RegionInfo& region : regions) {
      if (base >= region.base && base + length <= region.base + region.length_bytes) return &region;
    }
    return nullptr;
  }
};

// Mostly small; sometimes so large that sums wrap around.
std::uint64_t Size(FuzzChoices& choices) {
  switch (choices.Below(8)) {
    case 0:
      return 0;
    case 1:
      return ~choices.Below(kSpace);
    default:
      return choices.Below(64);
  }
}

void* AsPointer(std::uint64_t address) { return reinterpret_cast<void*>(address); }

void Register(FuzzChoices& choices, RegionTable& table, Oracle& oracle) {
  const std::uint64_t base = choices.Below(kSpace);
  const std::uint64_t length = Size(choices);
  RegisterOptions options;
  options.access = static_cast<Access>(1 + choices.Below(3));
  const Result<RegionInfo> region = table.Register(AsPointer(base), length, options);
  const bool valid = base != 0 && length != 0 && base + length > base;
  if (!valid) {
    MC_FUZZ_CHECK(!region && region.error().id == ErrorId::kBadRange);
  } else if (oracle.Overlaps(base, length)) {
    MC_FUZZ_CHECK(!region && region.error().id == ErrorId::kRegionExists);
  } else {
    MC_FUZZ_CHECK(region && region->base == base && region->length_bytes == length);
    MC_FUZZ_CHECK(oracle.ById(region->id) == nullptr);
    oracle.regions.push_back(*region);
  }
}

void Unregister(FuzzChoices& choices, RegionTable& table, Oracle& oracle) {
  const RegionId id{1 + choices.Below(64)};
  bool unused = false;
  const Status done = table.Unregister(id, [&unused] { unused = true; });
  MC_FUZZ_CHECK(done.has_value() == (oracle.ById(id) != nullptr));
  MC_FUZZ_CHECK(unused == done.has_value());  // nobody has pinned it
  std::erase_if(oracle.regions, [id](const RegionInfo& region) { return region.id == id; });
}

void Look(FuzzChoices& choices, const RegionTable& table, const Oracle& oracle) {
  const std::uint64_t address = choices.Below(kSpace);
  const std::uint64_t length = Size(choices);
  const RegionInfo* const expected =
      address + length < address ? nullptr : oracle.Around(address, length);
  const Result<RegionInfo> found = table.FindLocal(AsPointer(address), length);
  if (length > 0) {
    MC_FUZZ_CHECK(found.has_value() == (expected != nullptr));
    MC_FUZZ_CHECK(!found || found->id == expected->id);
  }

  const RegionId id{1 + choices.Below(64)};
  const RegionInfo* const region = oracle.ById(id);
  const bool wrong_key = choices.Below(4) == 0;
  const auto key = static_cast<RegionKey>(
      (region == nullptr ? 0 : static_cast<std::uint64_t>(region->key)) + (wrong_key ? 1 : 0));
  const auto wanted = static_cast<Access>(1 + choices.Below(3));
  const std::uint64_t offset = choices.Below(2) == 0 ? choices.Below(80) : ~choices.Below(80);
  const Result<PinnedRange> range = table.Resolve(id, key, offset, length, wanted);
  ErrorId error{};
  if (region == nullptr) {
    error = ErrorId::kRegionUnknown;
  } else if (wrong_key || !Allows(region->access, wanted)) {
    error = ErrorId::kBadRegionKey;
  } else if (offset > region->length_bytes || length > region->length_bytes - offset) {
    error = ErrorId::kOutOfRegion;
  }
  MC_FUZZ_CHECK(range.has_value() == (error == ErrorId{}));
  if (!range) {
    MC_FUZZ_CHECK(range.error().id == error);
  } else {
    MC_FUZZ_CHECK(range->bytes().data() == AsPointer(region->base + offset));
    MC_FUZZ_CHECK(range->bytes().size() == length);
  }
}

}  // namespace
}  // namespace mooncake

MOONCAKE_FUZZER(region_table) {
  using namespace mooncake;
  FuzzChoices choices(input);
  CountingRandom random;
  RegionTable table(random);
  Oracle oracle;
  while (!choices.exhausted()) {
    switch (choices.Below(4)) {
      case 0:
        Unregister(choices, table, oracle);
        break;
      case 1:
        Register(choices, table, oracle);
        break;
      default:
        Look(choices, table, oracle);
    }
    MC_FUZZ_CHECK(table.size() == oracle.regions.size());
  }
}
