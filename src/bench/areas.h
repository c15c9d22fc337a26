// The memory that a benchmark copies from and to, and how its content is made and judged.
#pragma once

#include <memory>
#include <string>

#include "base/world.h"

namespace mooncake {

/// Page-aligned memory as an application allocates it, every page touched.
class BenchArea {
 public:
  explicit BenchArea(std::uint64_t length_bytes);
  [[nodiscard]] MutableBytes bytes() const noexcept { return {bytes_.get(), length_bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const noexcept;
  };
  std::unique_ptr<std::byte, Free> bytes_;
  std::uint64_t length_bytes_;
};

/// The same bytes in every process: each word tells where it belongs. None of the words is 0.
/// `bytes` is whole words.
void FillWithPattern(MutableBytes bytes) noexcept;
[[nodiscard]] std::uint64_t Digest(Bytes bytes) noexcept;

}  // namespace mooncake
