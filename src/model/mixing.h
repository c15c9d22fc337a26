// Mixing of 64-bit words: what chains, KV rows, tokens of a trace and generated traces are made of.
// The results are pinned by golden tests, since two processes must agree on every bit of them.
#pragma once

#include <cstdint>

namespace mooncake {

inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;  ///< 2^64 / golden ratio, odd.

/// The finaliser of SplitMix64: a bijection in which every input bit changes every output bit half
/// of the time.
[[nodiscard]] constexpr std::uint64_t Mix(std::uint64_t word) noexcept {
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL;
  return word ^ (word >> 31);
}

/// Adds `word` to a digest: the order counts, and for a given digest two different words never give
/// the same.
[[nodiscard]] constexpr std::uint64_t Fold(std::uint64_t digest, std::uint64_t word) noexcept {
  const std::uint64_t product = (digest ^ word) * 0xD6E8FEB86659FD93ULL;
  return product ^ (product >> 32);
}

/// `word`, uniform in 64 bits, brought into [0, bound) by its high bits; bound > 0.
[[nodiscard]] constexpr std::uint64_t ReduceTo(std::uint64_t word, std::uint64_t bound) noexcept {
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(word) * bound) >> 64);
}

}  // namespace mooncake
