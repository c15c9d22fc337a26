// The synthetic model: a real model's shape, KV bytes that depend on every token before them, and a
// next token that is a hash over the KV bytes read. One wrong byte anywhere changes the answer, so
// an answer equal to that of one undivided computation (reference.h) proves that the cache arrived
// unharmed.
//
//   tokens --Advance--> one chain per token --FillRows--> KV rows --Absorb--> digest --NextToken-->
//   token --+
//      ^ |
//      +-----------------------------------------------------------------------------------------------------+
//
// Values in, values out: nothing here locks, and a const object may be used from any thread. The
// bits are the same on every machine and pinned by golden tests: change them, and instances of two
// versions disagree about answers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/mixing.h"
#include "model/model_shape.h"

namespace mooncake {

using Token = std::uint32_t;

/// What the model remembers of a sequence up to and including one token: equal chains mean equal
/// tokens before, of the same model. Good as a cache key; no protection against somebody who looks
/// for collisions.
enum class Chain : std::uint64_t {};

/// The chain after `token` at `position` (counted from 0, below 2^32).
[[nodiscard]] constexpr Chain Advance(Chain before, Token token, std::uint64_t position) noexcept {
  return Chain{
      Mix(static_cast<std::uint64_t>(before) + Mix((std::uint64_t{token} << 32) + position))};
}

/// The chains at the ends of the full pages of `chains` (of a sequence, from position 0): keys for
/// kv/prefix_cache.h.
[[nodiscard]] std::vector<Chain> PageEndChains(std::span<const Chain> chains,
                                               std::uint32_t page_tokens);

/// One 64-bit digest per layer over the KV bytes read, row by row in the order of the tokens.
class SequenceDigest {
 public:
  explicit SequenceDigest(const ScaledShape& shape);
  /// Adds the next `count` rows of `layer`, one after another at `rows` (any alignment). However
  /// the rows of a layer are split into calls, the digest is the same; layers are independent of
  /// each other.
  void Absorb(std::uint32_t layer, const std::byte* rows, std::uint32_t count) noexcept;
  /// One digest per layer.
  [[nodiscard]] std::span<const std::uint64_t> layers() const noexcept { return layers_; }
  [[nodiscard]] std::uint32_t row_bytes() const noexcept { return row_bytes_; }

  bool operator==(const SequenceDigest&) const = default;

 private:
  std::uint32_t row_bytes_;
  std::vector<std::uint64_t> layers_;
};

inline constexpr std::size_t kAttentionPositions = 8;  ///< Earlier tokens read again at each step.

/// One step of attention, for callers that want to fetch rows on their own terms; others use
/// NextToken().
class AttentionStep {
 public:
  /// The step that makes the token at `position`, which is the number of tokens absorbed in every
  /// layer of `digest` and at least 1.
  AttentionStep(const SequenceDigest& digest, std::uint64_t position) noexcept;
  /// The positions whose rows, in all layers, are read again; below `position`, and some may be
  /// equal.
  [[nodiscard]] std::span<const std::uint64_t, kAttentionPositions> positions() const noexcept {
    return positions_;
  }
  /// The rows of the first position, layer by layer from 0, then those of the second, and so on.
  void Absorb(const std::byte* row) noexcept;
  /// Once all rows are absorbed: the next token, below `vocabulary`.
  [[nodiscard]] Token Finish(std::uint32_t vocabulary) const noexcept;

 private:
  std::uint32_t row_bytes_;
  std::uint64_t hash_;
  std::array<std::uint64_t, kAttentionPositions> positions_;
};

class SyntheticModel {
 public:
  explicit SyntheticModel(ScaledShape shape);

  [[nodiscard]] const ScaledShape& shape() const noexcept { return shape_; }
  /// The chain before the first token. It differs between names and between shapes, except for
  /// page_tokens: caches may be exchanged between instances whose pages differ, never between those
  /// whose rows differ.
  [[nodiscard]] Chain initial_chain() const noexcept { return initial_chain_; }

  /// One chain per token of a sequence from position 0.
  [[nodiscard]] std::vector<Chain> Chains(std::span<const Token> tokens) const;
  /// Appends the chains of `tokens` to those of the sequence before them.
  void AppendChains(std::span<const Token> tokens, std::vector<Chain>& chains) const;

  /// Writes the KV rows of `layer` of the tokens with these chains, one after another:
  /// chains.size() * row_bytes bytes at `out` (any alignment).
  void FillRows(std::uint32_t layer, std::span<const Chain> chains, std::byte* out) const noexcept;
  /// FillRows() of one row.
  void FillRow(std::uint32_t layer, Chain chain, std::byte* out) const noexcept;

  /// The token at `position`, the number of tokens absorbed in every layer of `digest` and at
  /// least 1. `read_row(position, layer)` gives the row of an earlier token as const std::byte*,
  /// valid until the next call: kAttentionPositions times all layers, in an order that does not
  /// depend on the rows. Read the memory that holds the cache there, not a copy: a page that
  /// changed since it was absorbed is found out by this.
  template <class ReadRow>
  [[nodiscard]] Token NextToken(const SequenceDigest& digest, std::uint64_t position,
                                ReadRow&& read_row) const {
    AttentionStep step(digest, position);
    for (const std::uint64_t earlier : step.positions()) {
      for (std::uint32_t layer = 0; layer < shape_.layers; ++layer)
        step.Absorb(read_row(earlier, layer));
    }
    return step.Finish(shape_.vocabulary);
  }

 private:
  ScaledShape shape_;
  Chain initial_chain_;
};

}  // namespace mooncake
