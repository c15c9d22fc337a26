#include "instance/kv_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"

namespace mooncake {

Result<KvMemory> KvMemory::Allocate(Engine& engine, const ScaledShape& shape,
                                    std::uint64_t budget_bytes) {
  const std::uint64_t bytes_per_page = shape.page_bytes() * shape.layers;
  constexpr std::uint64_t kPagesMax = UINT32_MAX / 2;
  const std::uint64_t pages = std::min(budget_bytes / bytes_per_page, kPagesMax);
  if (pages == 0) {
    return Fail(ErrorId::kKvFull,
                fmt::format("one page of {} takes {}, kv_memory is {}", shape.name,
                            FormatBytes(bytes_per_page), FormatBytes(budget_bytes)));
  }
  MC_TRY(RegionInfo region,
         engine.Allocate("mooncake-kv", pages * bytes_per_page, {.listed = false}));
  return KvMemory(shape, std::move(region), static_cast<std::uint32_t>(pages));
}

}  // namespace mooncake
