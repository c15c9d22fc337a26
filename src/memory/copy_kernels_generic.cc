#include <cstring>

#include "memory/copy_kernels.h"
#include "memory/crc32c_math.h"

namespace mooncake::internal {
namespace {

constexpr auto kByteTables = CrcByteTables();

}  // namespace

void CopyMemcpy(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  std::memcpy(to, from, length);
}

void CopyRepMovsb(std::byte* to, const std::byte* from, std::size_t length) noexcept {
#if defined(__x86_64__)
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
#else
  std::memcpy(to, from, length);
#endif
}

std::uint32_t CrcTable(const std::byte* from, std::size_t length, std::uint32_t state) noexcept {
  for (; length >= 8; from += 8, length -= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, from, 8);
    word ^= state;
    state = 0;
    for (std::size_t k = 0; k < 8; ++k) state ^= kByteTables[7 - k][word >> (8 * k) & 0xFF];
  }
  for (; length > 0; ++from, --length) {
    state = (state >> 8) ^ kByteTables[0][(state ^ static_cast<std::uint32_t>(*from)) & 0xFF];
  }
  return state;
}

}  // namespace mooncake::internal
