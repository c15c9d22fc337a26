#include "bench/areas.h"

#include <xxhash.h>

#include <cstring>
#include <new>

namespace mooncake {
namespace {

constexpr std::align_val_t kAlignment{4096};

}  // namespace

void BenchArea::Free::operator()(std::byte* bytes) const noexcept {
  ::operator delete(bytes, kAlignment);
}

BenchArea::BenchArea(std::uint64_t length_bytes)
    : bytes_(static_cast<std::byte*>(::operator new(length_bytes, kAlignment))),
      length_bytes_(length_bytes) {
  std::memset(bytes_.get(), 0, length_bytes);
}

void FillWithPattern(MutableBytes bytes) noexcept {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15;  // odd, so that no two words are equal
  for (std::uint64_t i = 0; i < bytes.size() / sizeof i; ++i) {
    const std::uint64_t word = (i + 1) * kMultiplier;
    std::memcpy(bytes.data() + i * sizeof i, &word, sizeof word);
  }
}

std::uint64_t Digest(Bytes bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace mooncake
