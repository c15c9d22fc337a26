// The kernels that CopyEngine picks from. Each file of kernels is for one instruction set; what
// this processor lacks is left out of the lists at run time, so that one binary runs everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace mooncake::internal {

/// Source and target do not overlap. Every kernel takes every length and alignment.
using CopyFunction = void (*)(std::byte* to, const std::byte* from, std::size_t length) noexcept;
/// `state` is the CRC register, not inverted at either end.
using CopyCrcFunction = std::uint32_t (*)(std::byte* to, const std::byte* from, std::size_t length,
                                          std::uint32_t state) noexcept;
using CrcFunction = std::uint32_t (*)(const std::byte* from, std::size_t length,
                                      std::uint32_t state) noexcept;

struct CopyKernel {
  std::string_view name;
  CopyFunction copy;
  bool streams;  ///< Writes around the cache: only for sizes that would push more out than they
                 ///< bring in.
};
struct CopyCrcKernel {
  std::string_view name;
  CopyCrcFunction copy;
  bool streams;
};
struct CrcKernel {
  std::string_view name;
  CrcFunction crc;
};

/// The next access to `bytes` finds them in memory, where the processor can be told so.
void FlushFromCaches(const std::byte* bytes, std::size_t length) noexcept;
/// What this processor runs, memcpy first.
[[nodiscard]] std::span<const CopyKernel> CopyKernels();
[[nodiscard]] std::span<const CopyCrcKernel> CopyCrcKernels();
/// The fastest first, the table last.
[[nodiscard]] std::span<const CrcKernel> CrcKernels();
/// With the first of CrcKernels().
[[nodiscard]] std::uint32_t CrcState(const std::byte* from, std::size_t length,
                                     std::uint32_t state) noexcept;

// copy_kernels_generic.cc
void CopyMemcpy(std::byte* to, const std::byte* from, std::size_t length) noexcept;
void CopyRepMovsb(std::byte* to, const std::byte* from, std::size_t length) noexcept;
std::uint32_t CrcTable(const std::byte* from, std::size_t length, std::uint32_t state) noexcept;
// copy_kernels_sse42.cc: the crc32 instruction in three lanes, since it answers after three cycles
// and starts every one.
std::uint32_t CrcSse42(const std::byte* from, std::size_t length, std::uint32_t state) noexcept;
std::uint32_t CopyCrcSse42(std::byte* to, const std::byte* from, std::size_t length,
                           std::uint32_t state) noexcept;
// copy_kernels_avx2.cc
void CopyAvx2(std::byte* to, const std::byte* from, std::size_t length) noexcept;
void CopyAvx2Stream(std::byte* to, const std::byte* from, std::size_t length) noexcept;
void CopyAvx2Pages(std::byte* to, const std::byte* from, std::size_t length) noexcept;
// copy_kernels_avx512.cc; the CRC ones need VPCLMULQDQ too.
void CopyAvx512(std::byte* to, const std::byte* from, std::size_t length) noexcept;
void CopyAvx512Stream(std::byte* to, const std::byte* from, std::size_t length) noexcept;
void CopyAvx512Pages(std::byte* to, const std::byte* from, std::size_t length) noexcept;
std::uint32_t CrcAvx512(const std::byte* from, std::size_t length, std::uint32_t state) noexcept;
std::uint32_t CopyCrcAvx512(std::byte* to, const std::byte* from, std::size_t length,
                            std::uint32_t state) noexcept;
std::uint32_t CopyCrcAvx512Stream(std::byte* to, const std::byte* from, std::size_t length,
                                  std::uint32_t state) noexcept;

/// How many 4 KiB pages the interleaved kernels write at once: as many streams as a prefetcher
/// follows.
inline constexpr std::size_t kInterleavedPages = 8;
inline constexpr std::size_t kPageBytes = 4096;

}  // namespace mooncake::internal
