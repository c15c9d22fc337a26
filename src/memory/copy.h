// Copying memory as fast as this machine can. No kernel is best on every processor, so a few
// milliseconds at start fill a table: for each class of sizes, the kernel that won here. `mooncake
// status` prints it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/world.h"
#include "memory/copy_kernels.h"

namespace mooncake {

/// Where many short ranges are copied: so many ranges ahead memory is fetched into the caches.
inline constexpr std::size_t kPrefetchAhead = 8;

/// A value: copy it freely, use it from any thread. Ranges must not overlap.
class CopyEngine {
 public:
  /// Measures (some 60 ms, with 8 MiB that are freed again) and keeps the winners.
  [[nodiscard]] static CopyEngine Measure(Clock& clock);
  /// memcpy for everything and nominal speeds: the same on every machine, for the simulator.
  [[nodiscard]] static CopyEngine Plain();

  void Copy(void* to, const void* from, std::size_t length_bytes) const noexcept {
    if (length_bytes <= kTinyBytes) {
      if (length_bytes > 0) std::memcpy(to, from, length_bytes);
      return;
    }
    choices_[ClassOf(length_bytes)].copy.copy(static_cast<std::byte*>(to),
                                              static_cast<const std::byte*>(from), length_bytes);
  }
  /// One range of many, more in all than a cache near the processor holds: may go around the cache
  /// whatever its length.
  void CopyInBulk(void* to, const void* from, std::size_t length_bytes) const noexcept {
    if (length_bytes <= kTinyBytes) {
      std::memcpy(to, from, length_bytes);
      return;
    }
    choices_[ClassOf(length_bytes)].bulk.copy(static_cast<std::byte*>(to),
                                              static_cast<const std::byte*>(from), length_bytes);
  }
  /// From so many bytes on, ranges are to be copied with CopyInBulk().
  static constexpr std::uint64_t kBulkBytesMin = 1 << 20;
  /// Copies and returns the CRC32C of the bytes, continued from `seed`: 0, or the CRC of what came
  /// before.
  [[nodiscard]] std::uint32_t CopyCrc32c(void* to, const void* from, std::size_t length_bytes,
                                         std::uint32_t seed) const noexcept;
  [[nodiscard]] std::uint32_t Crc32c(const void* from, std::size_t length_bytes,
                                     std::uint32_t seed) const noexcept;

  /// What copies of `length_bytes` reached; also nanoseconds per byte upside down.
  [[nodiscard]] double gigabytes_per_second(std::size_t length_bytes) const noexcept {
    return choices_[ClassOf(length_bytes)].gigabytes_per_second;
  }

  struct Row {
    std::uint64_t size_bytes_max;  ///< UINT64_MAX in the last row.
    std::string_view kernel;
    double gigabytes_per_second;
    std::string_view bulk_kernel;
    std::string_view crc_kernel;
    double crc_gigabytes_per_second;
  };
  /// One row per class of sizes, ascending.
  [[nodiscard]] std::vector<Row> Describe() const;

 private:
  static constexpr std::size_t kTinyBytes = 256;
  static constexpr std::array<std::uint64_t, 5> kClassBytesMax = {kTinyBytes, 4 << 10, 64 << 10,
                                                                  1 << 20, UINT64_MAX};
  struct Choice {
    internal::CopyKernel copy;
    double gigabytes_per_second;
    internal::CopyKernel bulk;
    internal::CopyCrcKernel copy_crc;
    double crc_gigabytes_per_second;
  };
  CopyEngine() = default;
  [[nodiscard]] static std::size_t ClassOf(std::size_t length_bytes) noexcept {
    std::size_t found = 0;
    while (length_bytes > kClassBytesMax[found]) ++found;
    return found;
  }
  std::array<Choice, kClassBytesMax.size()> choices_{};
};

}  // namespace mooncake
