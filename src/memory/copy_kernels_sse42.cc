#include <cstring>

#include "memory/copy_kernels.h"
#include "memory/crc32c_math.h"

#if defined(__x86_64__)
#include <nmmintrin.h>

#define MC_TARGET __attribute__((target("sse4.2")))

namespace mooncake::internal {
namespace {

MC_TARGET inline std::uint64_t Load(const std::byte* from) {
  std::uint64_t word = 0;
  std::memcpy(&word, from, 8);
  return word;
}

// Three lanes of kLaneBytes side by side, then joined: each lane's state is advanced over the bytes
// of those behind it.
template <std::size_t kLaneBytes, bool kCopy>
MC_TARGET std::uint32_t ThreeLanes(std::byte* to, const std::byte* from, std::uint32_t state) {
  static_assert(kLaneBytes % 8 == 0);
  static constexpr CrcShiftTables kShift = MakeCrcShiftTables(kLaneBytes);
  std::uint64_t a = state;
  std::uint64_t b = 0;
  std::uint64_t c = 0;
  for (std::size_t i = 0; i < kLaneBytes; i += 8) {
    const std::uint64_t first = Load(from + i);
    const std::uint64_t second = Load(from + kLaneBytes + i);
    const std::uint64_t third = Load(from + 2 * kLaneBytes + i);
    a = _mm_crc32_u64(a, first);
    b = _mm_crc32_u64(b, second);
    c = _mm_crc32_u64(c, third);
    if constexpr (kCopy) {
      std::memcpy(to + i, &first, 8);
      std::memcpy(to + kLaneBytes + i, &second, 8);
      std::memcpy(to + 2 * kLaneBytes + i, &third, 8);
    }
  }
  const std::uint32_t joined =
      CrcShift(kShift, static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
  return CrcShift(kShift, joined) ^ static_cast<std::uint32_t>(c);
}

constexpr std::size_t kLongLane = 1360;  // three make a page, less 16 bytes
constexpr std::size_t kShortLane = 128;

template <bool kCopy>
MC_TARGET std::uint32_t Run(std::byte* to, const std::byte* from, std::size_t length,
                            std::uint32_t state) {
  std::size_t at = 0;
  for (; length - at >= 3 * kLongLane; at += 3 * kLongLane)
    state = ThreeLanes<kLongLane, kCopy>(kCopy ? to + at : nullptr, from + at, state);
  for (; length - at >= 3 * kShortLane; at += 3 * kShortLane) {
    state = ThreeLanes<kShortLane, kCopy>(kCopy ? to + at : nullptr, from + at, state);
  }
  if constexpr (kCopy) std::memcpy(to + at, from + at, length - at);
  std::uint64_t wide = state;
  for (; length - at >= 8; at += 8) wide = _mm_crc32_u64(wide, Load(from + at));
  state = static_cast<std::uint32_t>(wide);
  for (; at < length; ++at) state = _mm_crc32_u8(state, static_cast<std::uint8_t>(from[at]));
  return state;
}

}  // namespace

MC_TARGET std::uint32_t CrcSse42(const std::byte* from, std::size_t length,
                                 std::uint32_t state) noexcept {
  return Run<false>(nullptr, from, length, state);
}
MC_TARGET std::uint32_t CopyCrcSse42(std::byte* to, const std::byte* from, std::size_t length,
                                     std::uint32_t state) noexcept {
  return Run<true>(to, from, length, state);
}

}  // namespace mooncake::internal
#endif
