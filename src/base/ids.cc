#include "base/ids.h"

#include <fmt/format.h>

#include <charconv>

namespace mooncake {

std::string ToString(const InstanceId& id) {
  return fmt::format("{:016x}{:016x}", id.high, id.low);
}

std::string ShortId(const InstanceId& id) { return fmt::format("{:04x}", id.high >> 48); }

std::optional<InstanceId> ParseInstanceId(std::string_view text) {
  constexpr std::size_t kDigits = 32;
  if (text.size() != kDigits) return std::nullopt;
  InstanceId id;
  const auto parse = [](std::string_view half, std::uint64_t& value) {
    const auto [end, error] = std::from_chars(half.data(), half.data() + half.size(), value, 16);
    return error == std::errc{} && end == half.data() + half.size();
  };
  if (!parse(text.substr(0, 16), id.high) || !parse(text.substr(16), id.low)) return std::nullopt;
  return id;
}

}  // namespace mooncake
