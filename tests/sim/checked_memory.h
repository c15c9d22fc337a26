// Memory with an opinion: knows for each byte which values it may have now, and who still has a
// right to change it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/world.h"
#include "sim/sim_world.h"

namespace mooncake {

class CheckedMemory {
 public:
  /// Fills `memory`, which outlives this, with drawn bytes.
  CheckedMemory(MutableBytes memory, SimRandom& random);

  [[nodiscard]] MutableBytes memory() const noexcept { return memory_; }
  [[nodiscard]] bool IsFree(std::uint64_t offset, std::uint64_t length) const;
  /// A batch reads this range: it stays what it is.
  void Hold(std::uint64_t offset, std::uint64_t length) { Mark(offset, length, State::kHeld); }
  /// A batch writes `bytes` there: each byte is the old or the new one until Settle() or Taint().
  void Expect(std::uint64_t offset, Bytes bytes);
  /// Whether the range is `bytes`; of retired memory: was, when it was retired.
  [[nodiscard]] bool Has(std::uint64_t offset, Bytes bytes) const;
  /// From now on the range is what it was expected to become, and nothing else.
  void Settle(std::uint64_t offset, std::uint64_t length);
  /// The outcome is unknown: old or new, for ever, and nobody uses the range again.
  void Taint(std::uint64_t offset, std::uint64_t length) { Mark(offset, length, State::kTainted); }
  /// Nobody has a right to the range any more: fills it with drawn bytes, which must stay.
  void Scribble(std::uint64_t offset, std::uint64_t length, SimRandom& random);
  void Release(std::uint64_t offset, std::uint64_t length) { Mark(offset, length, State::kFree); }
  /// The region is gone: keeps a copy for Has(), and checks nothing any more.
  void Retire();
  [[nodiscard]] bool is_retired() const noexcept { return final_.has_value(); }

  /// What is wrong in the range, if anything.
  [[nodiscard]] std::optional<std::string> Check(std::uint64_t offset, std::uint64_t length) const;
  [[nodiscard]] std::optional<std::string> CheckAll() const { return Check(0, memory_.size()); }

 private:
  enum class State : std::uint8_t { kFree, kHeld, kIncoming, kTainted };
  void Mark(std::uint64_t offset, std::uint64_t length, State state);
  MutableBytes memory_;
  std::vector<std::byte> expected_;
  std::vector<std::byte> alternative_;
  std::vector<State> states_;
  std::optional<std::vector<std::byte>> final_;
};

}  // namespace mooncake
