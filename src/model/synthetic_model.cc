#include "model/synthetic_model.h"

#include <bit>
#include <cstring>

#define XXH_INLINE_ALL  // a row of 8 bytes must not pay for a call
#include <xxhash.h>

#include "base/assert.h"

namespace mooncake {
namespace {

static_assert(std::endian::native == std::endian::little, "KV bytes are words in memory order");

std::uint64_t RowHash(const std::byte* row, std::uint32_t row_bytes) noexcept {
  return XXH3_64bits(row, row_bytes);
}

std::uint64_t LayerSalt(std::uint32_t layer) noexcept { return Mix((layer + 1) * kGolden); }

// The seed is mixed already, so one multiplication a word is enough. Each word is a bijection of
// the seed: rows of two chains differ in every one of their words.
void ExpandRow(std::uint64_t seed, std::uint32_t row_bytes, std::byte* out) noexcept {
  for (std::uint32_t offset = 0; offset < row_bytes; offset += sizeof(std::uint64_t)) {
    std::uint64_t word = (seed ^ (seed >> 32)) * 0xD6E8FEB86659FD93ULL;
    word ^= word >> 29;
    std::memcpy(out + offset, &word, sizeof word);
    seed += kGolden;
  }
}

std::uint64_t SeedOf(const ScaledShape& shape) noexcept {
  std::uint64_t seed = XXH3_64bits(shape.name.data(), shape.name.size());
  for (const std::uint64_t field : {shape.layers, shape.row_bytes, shape.vocabulary})
    seed = Fold(seed, Mix(field));
  return Mix(seed);
}

}  // namespace

std::vector<Chain> PageEndChains(std::span<const Chain> chains, std::uint32_t page_tokens) {
  MC_ASSERT(page_tokens > 0);
  std::vector<Chain> ends(chains.size() / page_tokens);
  for (std::size_t page = 0; page < ends.size(); ++page)
    ends[page] = chains[(page + 1) * page_tokens - 1];
  return ends;
}

SequenceDigest::SequenceDigest(const ScaledShape& shape)
    : row_bytes_(shape.row_bytes), layers_(shape.layers) {
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) layers_[layer] = LayerSalt(layer);
}

void SequenceDigest::Absorb(std::uint32_t layer, const std::byte* rows,
                            std::uint32_t count) noexcept {
  MC_ASSERT(layer < layers_.size());
  std::uint64_t digest = layers_[layer];
  for (const std::byte* row = rows; row != rows + std::size_t{count} * row_bytes_;
       row += row_bytes_) {
    digest = Fold(digest, RowHash(row, row_bytes_));
  }
  layers_[layer] = digest;
}

AttentionStep::AttentionStep(const SequenceDigest& digest, std::uint64_t position) noexcept
    : row_bytes_(digest.row_bytes()), hash_(Mix(position)) {
  MC_ASSERT(position > 0);
  for (const std::uint64_t layer : digest.layers()) hash_ = Fold(hash_, layer);
  hash_ = Mix(hash_);
  for (std::size_t i = 0; i < positions_.size(); ++i)
    positions_[i] = ReduceTo(Mix(hash_ + i * kGolden), position);
}

void AttentionStep::Absorb(const std::byte* row) noexcept {
  hash_ = Fold(hash_, RowHash(row, row_bytes_));
}

Token AttentionStep::Finish(std::uint32_t vocabulary) const noexcept {
  return static_cast<Token>(ReduceTo(Mix(hash_), vocabulary));
}

SyntheticModel::SyntheticModel(ScaledShape shape)
    : shape_(std::move(shape)), initial_chain_{SeedOf(shape_)} {
  MC_ASSERT(shape_.layers > 0);
  MC_ASSERT(shape_.vocabulary > 0);
  MC_ASSERT(shape_.row_bytes > 0 && shape_.row_bytes % kRowUnitBytes == 0);
}

std::vector<Chain> SyntheticModel::Chains(std::span<const Token> tokens) const {
  std::vector<Chain> chains;
  chains.reserve(tokens.size());
  AppendChains(tokens, chains);
  return chains;
}

void SyntheticModel::AppendChains(std::span<const Token> tokens, std::vector<Chain>& chains) const {
  Chain chain = chains.empty() ? initial_chain_ : chains.back();
  for (const Token token : tokens) {
    chain = Advance(chain, token, chains.size());
    chains.push_back(chain);
  }
}

void SyntheticModel::FillRows(std::uint32_t layer, std::span<const Chain> chains,
                              std::byte* out) const noexcept {
  const std::uint64_t salt = LayerSalt(layer);
  for (const Chain chain : chains) {
    ExpandRow(Mix(static_cast<std::uint64_t>(chain) ^ salt), shape_.row_bytes, out);
    out += shape_.row_bytes;
  }
}

void SyntheticModel::FillRow(std::uint32_t layer, Chain chain, std::byte* out) const noexcept {
  FillRows(layer, {&chain, 1}, out);
}

}  // namespace mooncake
