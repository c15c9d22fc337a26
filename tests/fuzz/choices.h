// Decisions of a fuzzer that drives an interface rather than a decoder: each takes what it needs of
// the input.
#pragma once

#include <cstring>

#include "fuzzer.h"

namespace mooncake {

class FuzzChoices {
 public:
  explicit FuzzChoices(Bytes input) : left_(input) {}
  [[nodiscard]] bool exhausted() const noexcept { return left_.empty(); }
  /// Below `bound`, which is above 0; 0 once the input is exhausted.
  std::uint64_t Below(std::uint64_t bound) {
    std::uint64_t value = 0;
    const std::size_t wanted = bound <= 1 ? 0 : bound <= 0x100 ? 1 : bound <= 0x10000 ? 2 : 8;
    const std::size_t taken = std::min(wanted, left_.size());
    if (taken > 0) std::memcpy(&value, left_.data(), taken);
    left_ = left_.subspan(taken);
    return value % bound;
  }

 private:
  Bytes left_;
};

}  // namespace mooncake
