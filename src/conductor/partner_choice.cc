#include "conductor/partner_choice.h"

#include <algorithm>
#include <tuple>

namespace mooncake {

std::optional<std::size_t> ChoosePartner(std::span<const Candidate> candidates,
                                         std::uint64_t prompt_tokens) {
  const auto cost = [prompt_tokens](const Candidate& c) {
    const std::uint64_t missing = prompt_tokens - std::min(prompt_tokens, c.tokens_cached);
    return std::tuple(c.tokens_queued + missing, c.queue_length, !c.preferred, c.id);
  };
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    if (candidate.draining || candidate.queue_length >= candidate.queue_max) continue;
    if (!best || cost(candidate) < cost(candidates[*best])) best = i;
  }
  return best;
}

}  // namespace mooncake
