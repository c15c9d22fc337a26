// Which partner serves a request: a decision over what the candidates have said of themselves.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/ids.h"

namespace mooncake {

struct Candidate {
  InstanceId id;
  std::uint64_t tokens_cached = 0;  ///< Of this prompt.
  std::uint64_t tokens_queued = 0;  ///< Of requests before it.
  std::uint32_t queue_length = 0;
  std::uint32_t queue_max = 0;
  bool draining = false;
  bool preferred = false;  ///< Wins where the rest is equal.
};

/// The index of the candidate that is expected to be done first: least tokens to compute before the
/// prompt is ready. Those that drain or are full are left out. nullopt: none is left.
[[nodiscard]] std::optional<std::size_t> ChoosePartner(std::span<const Candidate> candidates,
                                                       std::uint64_t prompt_tokens);

}  // namespace mooncake
