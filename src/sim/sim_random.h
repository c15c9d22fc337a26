// The chance of the simulator: the same everywhere, and as many independent streams of it as there
// are parts that draw.
#pragma once

#include <array>
#include <string_view>

#include "base/world.h"

namespace mooncake {

/// xoshiro256**.
class SimRandom final : public Random {
 public:
  explicit SimRandom(std::uint64_t seed);
  std::uint64_t Next() override;
  /// Uniform in [low, high].
  [[nodiscard]] std::uint64_t Between(std::uint64_t low, std::uint64_t high) {
    return low + Below(high - low + 1);
  }
  [[nodiscard]] Duration Between(Duration low, Duration high) {
    return Duration(static_cast<std::int64_t>(Between(static_cast<std::uint64_t>(low.count()),
                                                      static_cast<std::uint64_t>(high.count()))));
  }
  /// Small values as likely as large ones: the number of digits is what is drawn.
  [[nodiscard]] std::uint64_t Skewed(std::uint64_t low, std::uint64_t high);
  [[nodiscard]] Duration Skewed(Duration low, Duration high) {
    return Duration(static_cast<std::int64_t>(
        Skewed(static_cast<std::uint64_t>(low.count()), static_cast<std::uint64_t>(high.count()))));
  }
  [[nodiscard]] bool Chance(double share) {
    return share > 0 && static_cast<double>(Next() >> 11) * 0x1.0p-53 < share;
  }
  /// Uniform in [0, 2 * mean].
  [[nodiscard]] Duration About(Duration mean) { return Between(Duration(0), mean * 2); }

 private:
  std::array<std::uint64_t, 4> state_{};
};

/// The seed of a stream of its own: of the `number`th "connection" of a run, say. What other
/// streams draw, and how much, changes nothing in it.
[[nodiscard]] std::uint64_t StreamSeed(std::uint64_t seed, std::string_view kind,
                                       std::uint64_t number) noexcept;

}  // namespace mooncake
