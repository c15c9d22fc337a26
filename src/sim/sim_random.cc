#include "sim/sim_random.h"

#include <bit>

namespace mooncake {
namespace {

// One step of SplitMix64.
std::uint64_t Mixed(std::uint64_t word) noexcept {
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ULL;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBULL;
  return word ^ (word >> 31);
}

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

}  // namespace

SimRandom::SimRandom(std::uint64_t seed) {
  for (std::uint64_t& word : state_) {  // SplitMix64, as its authors advise
    seed += kGolden;
    word = Mixed(seed);
  }
}

std::uint64_t SimRandom::Next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

std::uint64_t SimRandom::Skewed(std::uint64_t low, std::uint64_t high) {
  const auto span_bits = static_cast<std::uint64_t>(std::bit_width(high - low));
  const std::uint64_t bits = Between(std::uint64_t{0}, span_bits);
  const std::uint64_t offset = bits >= 64 ? Next() : Below(std::uint64_t{1} << bits);
  return low + std::min(offset, high - low);
}

std::uint64_t StreamSeed(std::uint64_t seed, std::string_view kind, std::uint64_t number) noexcept {
  std::uint64_t mixed = Mixed(seed + kGolden);
  for (const char c : kind) mixed = Mixed(mixed + static_cast<unsigned char>(c) + kGolden);
  return Mixed(mixed + number * kGolden);
}

}  // namespace mooncake
