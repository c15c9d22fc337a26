// The answer of one undivided computation: what every divided one is compared with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/synthetic_model.h"

namespace mooncake {

inline constexpr std::uint32_t kReferenceBlockTokens =
    512;  ///< Work is remembered at multiples of this.

/// Computes answers without a KV cache: rows are made from chains when they are read. Prompts that
/// share a beginning share its work, up to the last full block of kReferenceBlockTokens. One thread
/// at a time.
class Reference {
 public:
  /// Remembers `checkpoints_max` block ends (at least 1), least recently used ones forgotten first;
  /// each costs 8 bytes a layer and about 100 more.
  explicit Reference(SyntheticModel model, std::size_t checkpoints_max = 65536);
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;

  /// The `max_tokens` tokens that follow `prompt`, which is not empty. What was computed before
  /// changes how long it takes, never the answer. Needs 8 bytes a token meanwhile. max_context is
  /// the caller's business.
  [[nodiscard]] std::vector<Token> Generate(std::span<const Token> prompt,
                                            std::uint32_t max_tokens);

  [[nodiscard]] const SyntheticModel& model() const noexcept { return model_; }
  /// Prompt tokens of all calls so far whose rows were not computed again.
  [[nodiscard]] std::uint64_t reused_tokens() const noexcept { return reused_tokens_; }
  [[nodiscard]] std::size_t checkpoints() const noexcept { return checkpoints_.size(); }

 private:
  struct Checkpoint {
    Chain chain;  ///< At the block's end; it tells the whole sequence, and so the position too.
    SequenceDigest digest;
  };
  struct Progress {
    SequenceDigest digest;
    std::size_t absorbed = 0;  ///< Tokens.
  };

  [[nodiscard]] Progress Resume(std::span<const Chain> chains);
  void AbsorbUpTo(std::span<const Chain> chains, Progress& progress);
  void AbsorbRows(std::span<const Chain> chains, SequenceDigest& digest);
  void Remember(Chain chain, const SequenceDigest& digest);

  SyntheticModel model_;
  std::size_t checkpoints_max_;
  std::uint64_t reused_tokens_ = 0;
  std::vector<std::byte> rows_;        // scratch: as many rows as AbsorbRows() makes at once
  std::list<Checkpoint> checkpoints_;  // most recently used first
  std::unordered_map<Chain, std::list<Checkpoint>::iterator> by_chain_;
};

}  // namespace mooncake
