#include <cstring>

#include "memory/copy_kernels.h"
#include "memory/crc32c_math.h"

#if defined(__x86_64__)
// GCC 12 takes the undefined operand of its own unmasked AVX-512 intrinsics for a use of it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#define MC_TARGET __attribute__((target("avx512f,avx512bw")))
#define MC_TARGET_CRC __attribute__((target("avx512f,avx512bw,pclmul,vpclmulqdq,sse4.2")))

namespace mooncake::internal {
namespace {

MC_TARGET inline __m512i Load(const std::byte* from) { return _mm512_loadu_si512(from); }
MC_TARGET inline void Store(std::byte* to, __m512i value) { _mm512_storeu_si512(to, value); }
MC_TARGET inline void Stream(std::byte* to, __m512i value) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), value);
}

std::size_t HeadBytes(const std::byte* to, std::size_t length) {
  const std::size_t head = (64 - (reinterpret_cast<std::uintptr_t>(to) & 63)) & 63;
  return head < length ? head : length;
}

MC_TARGET inline void StreamLines(std::byte* to, const std::byte* from, std::size_t length) {
  std::size_t at = 0;
  for (; length - at >= 64; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + at + 512), _MM_HINT_NTA);
    Stream(to + at, Load(from + at));
  }
  std::memcpy(to + at, from + at, length - at);
}

// CRC by folding: four registers hold 256 bytes whose CRC equals that of everything read so far; a
// carry-less multiplication moves each 256 bytes further on. At the end those 256 bytes go through
// the crc32 instruction.
constexpr std::size_t kFoldBytes = 256;
constexpr std::uint64_t kFoldLow = static_cast<std::uint64_t>(CrcPower(8 * kFoldBytes + 32)) << 1;
constexpr std::uint64_t kFoldHigh = static_cast<std::uint64_t>(CrcPower(8 * kFoldBytes - 32)) << 1;
constexpr std::size_t kFoldFrom = 1024;  // below this the end costs more than the folding saves

enum class Sink { kNone, kCached, kStreamed };

template <Sink kSink>
MC_TARGET_CRC inline void Put([[maybe_unused]] std::byte* to, [[maybe_unused]] std::size_t offset,
                              [[maybe_unused]] __m512i value) {
  // Without a sink `to` is null: no offset may be added to it.
  if constexpr (kSink == Sink::kCached) _mm512_storeu_si512(to + offset, value);
  if constexpr (kSink == Sink::kStreamed)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + offset), value);
}

MC_TARGET_CRC inline __m512i Fold(__m512i sum, __m512i constants, __m512i next) {
  const __m512i low = _mm512_clmulepi64_epi128(sum, constants, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(sum, constants, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, 0x96);  // the exclusive or of all three
}

// A multiple of kFoldBytes, at least one.
template <Sink kSink>
MC_TARGET_CRC std::uint32_t FoldAll(std::byte* to, const std::byte* from, std::size_t length,
                                    std::uint32_t state) {
  const __m512i constants = _mm512_broadcast_i32x4(
      _mm_set_epi64x(static_cast<long long>(kFoldHigh), static_cast<long long>(kFoldLow)));
  __m512i sums[4];
  for (std::size_t i = 0; i < 4; ++i) {
    sums[i] = _mm512_loadu_si512(from + 64 * i);
    Put<kSink>(to, 64 * i, sums[i]);
  }
  sums[0] =
      _mm512_xor_si512(sums[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
  for (std::size_t at = kFoldBytes; at < length; at += kFoldBytes) {
    for (std::size_t i = 0; i < 4; ++i) {
      const __m512i next = _mm512_loadu_si512(from + at + 64 * i);
      if constexpr (kSink == Sink::kStreamed) {
        _mm_prefetch(reinterpret_cast<const char*>(from + at + 64 * i + 512), _MM_HINT_NTA);
      }
      Put<kSink>(to, at + 64 * i, next);
      sums[i] = Fold(sums[i], constants, next);
    }
  }
  alignas(64) std::uint64_t words[kFoldBytes / 8];
  for (std::size_t i = 0; i < 4; ++i) _mm512_store_si512(words + 8 * i, sums[i]);
  std::uint64_t result = 0;
  for (const std::uint64_t word : words) result = _mm_crc32_u64(result, word);
  return static_cast<std::uint32_t>(result);
}

template <Sink kSink>
MC_TARGET_CRC std::uint32_t CopyFolding(std::byte* to, const std::byte* from, std::size_t length,
                                        std::uint32_t state) {
  if (length < kFoldFrom) {
    if constexpr (kSink != Sink::kNone) std::memcpy(to, from, length);
    return CrcSse42(from, length, state);
  }
  std::size_t at = 0;
  if constexpr (kSink == Sink::kStreamed) {
    at = HeadBytes(to, length);
    std::memcpy(to, from, at);
    state = CrcSse42(from, at, state);
  }
  const std::size_t folded = (length - at) / kFoldBytes * kFoldBytes;
  state = FoldAll<kSink>(to + at, from + at, folded, state);
  at += folded;
  if constexpr (kSink != Sink::kNone) std::memcpy(to + at, from + at, length - at);
  if constexpr (kSink == Sink::kStreamed) _mm_sfence();
  return CrcSse42(from + at, length - at, state);
}

}  // namespace

MC_TARGET void CopyAvx512(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  std::size_t at = 0;
  for (; length - at >= 256; at += 256) {
    const __m512i a = Load(from + at);
    const __m512i b = Load(from + at + 64);
    const __m512i c = Load(from + at + 128);
    const __m512i d = Load(from + at + 192);
    Store(to + at, a);
    Store(to + at + 64, b);
    Store(to + at + 128, c);
    Store(to + at + 192, d);
  }
  std::memcpy(to + at, from + at, length - at);
}

MC_TARGET void CopyAvx512Stream(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  const std::size_t head = HeadBytes(to, length);
  std::memcpy(to, from, head);
  StreamLines(to + head, from + head, length - head);
  _mm_sfence();
}

MC_TARGET void CopyAvx512Pages(std::byte* to, const std::byte* from, std::size_t length) noexcept {
  constexpr std::size_t kGroup = kInterleavedPages * kPageBytes;
  std::size_t at = HeadBytes(to, length);
  std::memcpy(to, from, at);
  for (; length - at >= kGroup; at += kGroup) {
    for (std::size_t line = 0; line < kPageBytes; line += 64) {
      for (std::size_t page = 0; page < kGroup; page += kPageBytes) {
        const std::size_t here = at + page + line;
        Stream(to + here, Load(from + here));
      }
    }
  }
  StreamLines(to + at, from + at, length - at);
  _mm_sfence();
}

std::uint32_t CrcAvx512(const std::byte* from, std::size_t length, std::uint32_t state) noexcept {
  return CopyFolding<Sink::kNone>(nullptr, from, length, state);
}
std::uint32_t CopyCrcAvx512(std::byte* to, const std::byte* from, std::size_t length,
                            std::uint32_t state) noexcept {
  return CopyFolding<Sink::kCached>(to, from, length, state);
}
std::uint32_t CopyCrcAvx512Stream(std::byte* to, const std::byte* from, std::size_t length,
                                  std::uint32_t state) noexcept {
  return CopyFolding<Sink::kStreamed>(to, from, length, state);
}

}  // namespace mooncake::internal
#endif
