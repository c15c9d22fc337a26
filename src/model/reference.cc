#include "model/reference.h"

#include <algorithm>

#include "base/assert.h"

namespace mooncake {
namespace {

constexpr std::size_t kScratchBytes = 16 << 10;  // half of a first-level cache

std::size_t ScratchRows(const ScaledShape& shape) {
  return std::clamp<std::size_t>(kScratchBytes / shape.row_bytes, 1, kReferenceBlockTokens);
}

}  // namespace

Reference::Reference(SyntheticModel model, std::size_t checkpoints_max)
    : model_(std::move(model)),
      checkpoints_max_(std::max<std::size_t>(checkpoints_max, 1)),
      rows_(ScratchRows(model_.shape()) * model_.shape().row_bytes) {}

std::vector<Token> Reference::Generate(std::span<const Token> prompt, std::uint32_t max_tokens) {
  MC_ASSERT(!prompt.empty());
  std::vector<Chain> chains;
  chains.reserve(prompt.size() + max_tokens);
  model_.AppendChains(prompt, chains);
  Progress progress = Resume(chains);
  reused_tokens_ += progress.absorbed;
  std::vector<Token> answer;
  answer.reserve(max_tokens);
  const auto read_row = [&](std::uint64_t position, std::uint32_t layer) -> const std::byte* {
    model_.FillRow(layer, chains[position], rows_.data());
    return rows_.data();
  };
  while (answer.size() < max_tokens) {
    AbsorbUpTo(chains, progress);
    answer.push_back(model_.NextToken(progress.digest, chains.size(), read_row));
    model_.AppendChains({&answer.back(), 1}, chains);
  }
  return answer;
}

// Longest first: a later block of a prompt may be remembered where an earlier one was forgotten.
Reference::Progress Reference::Resume(std::span<const Chain> chains) {
  for (std::size_t block = chains.size() / kReferenceBlockTokens; block > 0; --block) {
    const std::size_t tokens = block * kReferenceBlockTokens;
    const auto found = by_chain_.find(chains[tokens - 1]);
    if (found == by_chain_.end()) continue;
    checkpoints_.splice(checkpoints_.begin(), checkpoints_, found->second);
    return {found->second->digest, tokens};
  }
  return {SequenceDigest(model_.shape()), 0};
}

void Reference::AbsorbUpTo(std::span<const Chain> chains, Progress& progress) {
  while (progress.absorbed < chains.size()) {
    const std::size_t block_end =
        (progress.absorbed / kReferenceBlockTokens + 1) * kReferenceBlockTokens;
    const std::size_t end = std::min(block_end, chains.size());
    AbsorbRows(chains.subspan(progress.absorbed, end - progress.absorbed), progress.digest);
    progress.absorbed = end;
    if (end == block_end) Remember(chains[end - 1], progress.digest);
  }
}

void Reference::AbsorbRows(std::span<const Chain> chains, SequenceDigest& digest) {
  const std::size_t rows_max = rows_.size() / model_.shape().row_bytes;
  for (std::uint32_t layer = 0; layer < model_.shape().layers; ++layer) {
    for (std::size_t first = 0; first < chains.size(); first += rows_max) {
      const std::span<const Chain> some =
          chains.subspan(first, std::min(rows_max, chains.size() - first));
      model_.FillRows(layer, some, rows_.data());
      digest.Absorb(layer, rows_.data(), static_cast<std::uint32_t>(some.size()));
    }
  }
}

void Reference::Remember(Chain chain, const SequenceDigest& digest) {
  if (by_chain_.contains(chain)) return;  // computed again because a later block was forgotten
  if (checkpoints_.size() == checkpoints_max_) {
    by_chain_.erase(checkpoints_.back().chain);
    checkpoints_.pop_back();
  }
  checkpoints_.push_front({chain, digest});
  by_chain_[chain] = checkpoints_.begin();
}

}  // namespace mooncake
