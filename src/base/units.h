// Numbers with units, as people write them: "512MiB", "4 GB", "250ms", "0.95".
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mooncake {

/// Accepts a plain number of bytes, or one with B, KB, MB, GB, TB (1024-based, as the field uses
/// them), KiB … TiB, any case, with or without a space. Negative, fractional bytes and overflow are
/// errors (kBadOptionValue).
[[nodiscard]] Result<std::uint64_t> ParseBytes(std::string_view text);
/// "1.5 GiB"; exact multiples have no fraction.
[[nodiscard]] std::string FormatBytes(std::uint64_t bytes);

/// Accepts ns, us, ms, s, m, h; a plain number is seconds. kBadOptionValue otherwise.
[[nodiscard]] Result<std::chrono::nanoseconds> ParseDuration(std::string_view text);
/// "250 ms", "1.5 s".
[[nodiscard]] std::string FormatDuration(std::chrono::nanoseconds duration);

}  // namespace mooncake
