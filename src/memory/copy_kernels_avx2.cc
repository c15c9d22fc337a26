#include <cstring>

#include "memory/copy_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define MC_TARGET __attribute__((target("avx2")))

namespace mooncake::internal {
namespace {

MC_TARGET inline __m256i Load(const std::byte* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
MC_TARGET inline void Store(std::byte* to, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
}
MC_TARGET inline void Stream(std::byte* to, __m256i value) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), value);
}

// Copies up to the first cache line of the target; streaming stores must be aligned. Returns the
// bytes copied.
inline std::size_t CopyHead(std::byte* to, const std::byte* from, std::size_t length) {
  const std::size_t head = (64 - (reinterpret_cast<std::uintptr_t>(to) & 63)) & 63;
  if (head >= length) {
    std::memcpy(to, from, length);
    return length;
  }
  std::memcpy(to, from, head);
  return head;
}

// `to` is aligned. Ends with what is shorter than a line.
MC_TARGET inline void StreamLines(std::byte* to, const std::byte* from, std::size_t length) {
  std::size_t at = 0;
  for (; length - at >= 64; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + at + 512), _MM_HINT_NTA);
    const __m256i low = Load(from + at);
    const __m256i high = Load(from + at + 32);
    Stream(to + at, low);
    Stream(to + at + 32, high);
  }
  std::memcpy(to + at, from + at, length - at);
}

}  // namespace

MC_TARGET void CopyAvx2(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  std::size_t at = 0;
  for (; length - at >= 128; at += 128) {
    const __m256i a = Load(from + at);
    const __m256i b = Load(from + at + 32);
    const __m256i c = Load(from + at + 64);
    const __m256i d = Load(from + at + 96);
    Store(to + at, a);
    Store(to + at + 32, b);
    Store(to + at + 64, c);
    Store(to + at + 96, d);
  }
  std::memcpy(to + at, from + at, length - at);
}

MC_TARGET void CopyAvx2Stream(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  const std::size_t head = CopyHead(to, from, length);
  StreamLines(to + head, from + head, length - head);
  _mm_sfence();
}

MC_TARGET void CopyAvx2Pages(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  constexpr std::size_t kGroup = kInterleavedPages * kPageBytes;
  std::size_t at = CopyHead(to, from, length);
  for (; length - at >= kGroup; at += kGroup) {
    for (std::size_t line = 0; line < kPageBytes; line += 64) {
      for (std::size_t page = 0; page < kGroup; page += kPageBytes) {
        const std::size_t here = at + page + line;
        const __m256i low = Load(from + here);
        const __m256i high = Load(from + here + 32);
        Stream(to + here, low);
        Stream(to + here + 32, high);
      }
    }
  }
  StreamLines(to + at, from + at, length - at);
  _mm_sfence();
}

}  // namespace mooncake::internal
#endif
