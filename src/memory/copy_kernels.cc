#include "memory/copy_kernels.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace mooncake::internal {
namespace {

// Copies a block, then sums its source while that is still in the nearest cache.
template <CopyFunction kCopy>
std::uint32_t CopyThenCrc(std::byte* to, const std::byte* from, std::size_t length,
                          std::uint32_t state) noexcept {
  constexpr std::size_t kBlockBytes = kInterleavedPages * kPageBytes;
  while (length > 0) {
    const std::size_t block = std::min(length, kBlockBytes);
    kCopy(to, from, block);
    state = CrcState(from, block, state);
    to += block;
    from += block;
    length -= block;
  }
  return state;
}

#if defined(__x86_64__)
// `ebx_bit`: of the extended features, a constant of cpuid.h where it has a name.
bool HasFeature(unsigned ebx_bit) {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & ebx_bit) != 0;
}
bool HasErms() { return HasFeature(1U << 9); }
bool HasSse42() { return __builtin_cpu_supports("sse4.2") != 0; }
bool HasAvx2() { return __builtin_cpu_supports("avx2") != 0; }
bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0;
}
bool HasFolding() { return HasAvx512() && HasSse42() && __builtin_cpu_supports("vpclmulqdq") != 0; }

constexpr std::size_t kFlushedBytes = 64;  // a line of the caches

// Lines leave side by side, where clflush waits for one after the other: 30 times as long.
[[gnu::target("clflushopt")]] void FlushSideBySide(const std::byte* bytes, std::size_t length) {
  for (std::size_t at = 0; at < length; at += kFlushedBytes)
    _mm_clflushopt(const_cast<std::byte*>(bytes + at));  // changes nothing
}
void FlushInTurn(const std::byte* bytes, std::size_t length) {
  for (std::size_t at = 0; at < length; at += kFlushedBytes) _mm_clflush(bytes + at);
}
#endif

std::vector<CopyKernel> FindCopyKernels() {
  std::vector<CopyKernel> kernels = {{"memcpy", CopyMemcpy, false}};
#if defined(__x86_64__)
  if (HasErms()) kernels.push_back({"rep movsb", CopyRepMovsb, false});
  if (HasAvx2()) {
    kernels.push_back({"avx2", CopyAvx2, false});
    kernels.push_back({"avx2 stream", CopyAvx2Stream, true});
    kernels.push_back({"avx2 pages", CopyAvx2Pages, true});
  }
  if (HasAvx512()) {
    kernels.push_back({"avx512", CopyAvx512, false});
    kernels.push_back({"avx512 stream", CopyAvx512Stream, true});
    kernels.push_back({"avx512 pages", CopyAvx512Pages, true});
  }
#endif
  return kernels;
}

std::vector<CopyCrcKernel> FindCopyCrcKernels() {
  std::vector<CopyCrcKernel> kernels = {{"memcpy, crc", CopyThenCrc<CopyMemcpy>, false}};
#if defined(__x86_64__)
  if (HasErms()) kernels.push_back({"rep movsb, crc", CopyThenCrc<CopyRepMovsb>, false});
  if (HasSse42()) kernels.push_back({"sse4.2 fused", CopyCrcSse42, false});
  if (HasAvx2()) {
    kernels.push_back({"avx2, crc", CopyThenCrc<CopyAvx2>, false});
    kernels.push_back({"avx2 stream, crc", CopyThenCrc<CopyAvx2Stream>, true});
    kernels.push_back({"avx2 pages, crc", CopyThenCrc<CopyAvx2Pages>, true});
  }
  if (HasAvx512()) {
    kernels.push_back({"avx512, crc", CopyThenCrc<CopyAvx512>, false});
    kernels.push_back({"avx512 stream, crc", CopyThenCrc<CopyAvx512Stream>, true});
    kernels.push_back({"avx512 pages, crc", CopyThenCrc<CopyAvx512Pages>, true});
  }
  if (HasFolding()) {
    kernels.push_back({"avx512 fused", CopyCrcAvx512, false});
    kernels.push_back({"avx512 stream fused", CopyCrcAvx512Stream, true});
  }
#endif
  return kernels;
}

std::vector<CrcKernel> FindCrcKernels() {
  std::vector<CrcKernel> kernels;
#if defined(__x86_64__)
  if (HasFolding()) kernels.push_back({"avx512 folding", CrcAvx512});
  if (HasSse42()) kernels.push_back({"sse4.2", CrcSse42});
#endif
  kernels.push_back({"table", CrcTable});
  return kernels;
}

}  // namespace

void FlushFromCaches([[maybe_unused]] const std::byte* bytes,
                     [[maybe_unused]] std::size_t length) noexcept {
#if defined(__x86_64__)
  static const auto flush = HasFeature(bit_CLFLUSHOPT) ? FlushSideBySide : FlushInTurn;
  flush(bytes, length);
  _mm_mfence();
#endif
}

std::span<const CopyKernel> CopyKernels() {
  static const std::vector<CopyKernel> kernels = FindCopyKernels();
  return kernels;
}
std::span<const CopyCrcKernel> CopyCrcKernels() {
  static const std::vector<CopyCrcKernel> kernels = FindCopyCrcKernels();
  return kernels;
}
std::span<const CrcKernel> CrcKernels() {
  static const std::vector<CrcKernel> kernels = FindCrcKernels();
  return kernels;
}

std::uint32_t CrcState(const std::byte* from, std::size_t length, std::uint32_t state) noexcept {
  static const CrcFunction best = CrcKernels().front().crc;
  return best(from, length, state);
}

}  // namespace mooncake::internal
