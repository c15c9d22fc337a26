// Identity: ids are types, so that one never fits where another goes.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mooncake {

/// 128 random bits drawn at start: who a process is. A label is what a person calls it, and may
/// repeat.
struct InstanceId {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  auto operator<=>(const InstanceId&) const = default;
  [[nodiscard]] bool empty() const noexcept { return high == 0 && low == 0; }
};

/// 32 lower-case hexadecimal digits.
[[nodiscard]] std::string ToString(const InstanceId& id);
/// The first four digits: enough for a person to tell two apart in a message.
[[nodiscard]] std::string ShortId(const InstanceId& id);
[[nodiscard]] std::optional<InstanceId> ParseInstanceId(std::string_view text);

enum class RegionId : std::uint64_t {};   ///< Counts up within one instance; never reused by it.
enum class RegionKey : std::uint64_t {};  ///< Random; whoever shows it may access the region.

struct InstanceIdHash {
  std::size_t operator()(const InstanceId& id) const noexcept {
    return static_cast<std::size_t>(id.high ^ (id.low * 0x9E3779B97F4A7C15ULL));
  }
};

}  // namespace mooncake
