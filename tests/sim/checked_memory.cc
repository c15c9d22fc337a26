#include "checked_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace mooncake {
namespace {

void FillDrawn(MutableBytes bytes, SimRandom& random) {
  while (!bytes.empty()) {
    const std::uint64_t word = random.Next();
    const std::size_t count = std::min(bytes.size(), sizeof word);
    std::memcpy(bytes.data(), &word, count);
    bytes = bytes.subspan(count);
  }
}

}  // namespace

CheckedMemory::CheckedMemory(MutableBytes memory, SimRandom& random)
    : memory_(memory),
      expected_(memory.size()),
      alternative_(memory.size()),
      states_(memory.size(), State::kFree) {
  FillDrawn(expected_, random);
  std::copy(expected_.begin(), expected_.end(), memory_.begin());
}

void CheckedMemory::Mark(std::uint64_t offset, std::uint64_t length, State state) {
  std::fill_n(states_.begin() + static_cast<std::ptrdiff_t>(offset), length, state);
}

bool CheckedMemory::IsFree(std::uint64_t offset, std::uint64_t length) const {
  const auto begin = states_.begin() + static_cast<std::ptrdiff_t>(offset);
  return std::all_of(begin, begin + static_cast<std::ptrdiff_t>(length),
                     [](State state) { return state == State::kFree; });
}

void CheckedMemory::Expect(std::uint64_t offset, Bytes bytes) {
  std::copy(bytes.begin(), bytes.end(), alternative_.begin() + static_cast<std::ptrdiff_t>(offset));
  Mark(offset, bytes.size(), State::kIncoming);
}

bool CheckedMemory::Has(std::uint64_t offset, Bytes bytes) const {
  const Bytes now = final_ ? Bytes(*final_) : Bytes(memory_);
  return std::equal(bytes.begin(), bytes.end(), now.begin() + static_cast<std::ptrdiff_t>(offset));
}

void CheckedMemory::Settle(std::uint64_t offset, std::uint64_t length) {
  std::copy_n(alternative_.begin() + static_cast<std::ptrdiff_t>(offset), length,
              expected_.begin() + static_cast<std::ptrdiff_t>(offset));
  Mark(offset, length, State::kFree);
}

void CheckedMemory::Scribble(std::uint64_t offset, std::uint64_t length, SimRandom& random) {
  FillDrawn(MutableBytes(expected_).subspan(offset, length), random);
  std::copy_n(expected_.begin() + static_cast<std::ptrdiff_t>(offset), length,
              memory_.begin() + static_cast<std::ptrdiff_t>(offset));
  Mark(offset, length, State::kFree);
}

void CheckedMemory::Retire() { final_.emplace(memory_.begin(), memory_.end()); }

std::optional<std::string> CheckedMemory::Check(std::uint64_t offset, std::uint64_t length) const {
  if (final_) return std::nullopt;
  if (std::memcmp(memory_.data() + offset, expected_.data() + offset, length) == 0)
    return std::nullopt;
  for (std::uint64_t i = offset; i < offset + length; ++i) {
    if (memory_[i] == expected_[i]) continue;
    const bool may_be_new = states_[i] == State::kIncoming || states_[i] == State::kTainted;
    if (may_be_new && memory_[i] == alternative_[i]) continue;
    constexpr std::array kNames = {"nobody may change", "a batch only reads", "a batch is writing",
                                   "a batch may have written"};
    return fmt::format("byte {}, which {}, is {:02x} instead of {:02x}", i,
                       kNames[static_cast<std::size_t>(states_[i])],
                       static_cast<unsigned>(memory_[i]), static_cast<unsigned>(expected_[i]));
  }
  return std::nullopt;
}

}  // namespace mooncake
