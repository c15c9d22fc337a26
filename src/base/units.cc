#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>

namespace mooncake {
namespace {

struct Quantity {
  double number;
  std::string suffix;  // lower case, without spaces
};

Result<Quantity> Split(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())))
    text.remove_suffix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())))
    text.remove_prefix(1);
  Quantity quantity{};
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), quantity.number);
  if (error != std::errc{} || !std::isfinite(quantity.number) || quantity.number < 0) {
    return Fail(ErrorId::kBadOptionValue, fmt::format("\"{}\" is not a number with a unit", text));
  }
  for (const char c : text.substr(static_cast<std::size_t>(end - text.data()))) {
    if (!std::isspace(static_cast<unsigned char>(c))) {
      quantity.suffix += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return quantity;
}

struct Scale {
  std::string_view suffix;
  double factor;
};

constexpr double kKi = 1024.0;
constexpr std::array kByteScales = {
    Scale{"", 1},
    Scale{"b", 1},
    Scale{"k", kKi},
    Scale{"kb", kKi},
    Scale{"kib", kKi},
    Scale{"m", kKi* kKi},
    Scale{"mb", kKi* kKi},
    Scale{"mib", kKi* kKi},
    Scale{"g", kKi* kKi* kKi},
    Scale{"gb", kKi* kKi* kKi},
    Scale{"gib", kKi* kKi* kKi},
    Scale{"t", kKi* kKi* kKi* kKi},
    Scale{"tb", kKi* kKi* kKi* kKi},
    Scale{"tib", kKi* kKi* kKi* kKi},
};
constexpr std::array kTimeScales = {Scale{"", 1e9},     Scale{"ns", 1},    Scale{"us", 1e3},
                                    Scale{"ms", 1e6},   Scale{"s", 1e9},   Scale{"m", 60e9},
                                    Scale{"min", 60e9}, Scale{"h", 3600e9}};

template <std::size_t N>
Result<double> Apply(std::string_view text, const std::array<Scale, N>& scales,
                     std::string_view example) {
  MC_TRY(const Quantity quantity, Split(text));
  for (const Scale& scale : scales) {
    if (scale.suffix == quantity.suffix) return quantity.number * scale.factor;
  }
  return Fail(ErrorId::kBadOptionValue,
              fmt::format("\"{}\" has the unknown unit \"{}\" (for example {})", text,
                          quantity.suffix, example));
}

}  // namespace

Result<std::uint64_t> ParseBytes(std::string_view text) {
  MC_TRY(const double bytes, Apply(text, kByteScales, "512MiB"));
  constexpr double kBytesMax = 9.0e18;
  if (bytes > kBytesMax)
    return Fail(ErrorId::kBadOptionValue, fmt::format("\"{}\" is too large", text));
  return static_cast<std::uint64_t>(std::llround(bytes));
}

std::string FormatBytes(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= kKi && unit + 1 < kNames.size()) {
    value /= kKi;
    ++unit;
  }
  if (value == std::floor(value)) return fmt::format("{:.0f} {}", value, kNames[unit]);
  return fmt::format("{:.1f} {}", value, kNames[unit]);
}

Result<std::chrono::nanoseconds> ParseDuration(std::string_view text) {
  MC_TRY(const double nanoseconds, Apply(text, kTimeScales, "250ms"));
  constexpr double kNanosecondsMax = 9.0e18;
  if (nanoseconds > kNanosecondsMax) {
    return Fail(ErrorId::kBadOptionValue, fmt::format("\"{}\" is too long", text));
  }
  return std::chrono::nanoseconds(std::llround(nanoseconds));
}

std::string FormatDuration(std::chrono::nanoseconds duration) {
  const auto count = static_cast<double>(duration.count());
  if (count >= 1e9) return fmt::format("{:.3g} s", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.3g} ms", count / 1e6);
  if (count >= 1e3) return fmt::format("{:.3g} us", count / 1e3);
  return fmt::format("{} ns", duration.count());
}

}  // namespace mooncake
