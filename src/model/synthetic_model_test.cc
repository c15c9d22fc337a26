#include "model/synthetic_model.h"

#include <gmock/gmock.h>

#include <cstring>
#include <numeric>
#include <set>

#include "base/test_support.h"

namespace mooncake {
namespace {

using Bytes = std::vector<std::byte>;

SyntheticModel TinyModel(double scale = 1.0) {
  return SyntheticModel(Scale(FindModel("tiny").value(), scale, 16).value());
}

std::vector<Token> CountingTokens(std::size_t count) {
  std::vector<Token> tokens(count);
  std::iota(tokens.begin(), tokens.end(), Token{7});
  return tokens;
}

// The KV cache of a sequence in the plainest layout: layer after layer, row after row.
struct Cache {
  Cache(const SyntheticModel& model, std::span<const Chain> chains)
      : row_bytes(model.shape().row_bytes), tokens(chains.size()) {
    rows.resize(model.shape().layers * tokens * row_bytes);
    for (std::uint32_t layer = 0; layer < model.shape().layers; ++layer)
      model.FillRows(layer, chains, Row(layer, 0));
  }
  std::byte* Row(std::uint32_t layer, std::size_t position) {
    return rows.data() + (layer * tokens + position) * row_bytes;
  }
  std::size_t row_bytes;
  std::size_t tokens;
  Bytes rows;
};

SequenceDigest DigestOf(const SyntheticModel& model, Cache& cache, std::size_t rows_per_call) {
  SequenceDigest digest(model.shape());
  for (std::size_t first = 0; first < cache.tokens; first += rows_per_call) {
    const auto count = static_cast<std::uint32_t>(std::min(rows_per_call, cache.tokens - first));
    for (std::uint32_t layer = 0; layer < model.shape().layers; ++layer) {
      digest.Absorb(layer, cache.Row(layer, first), count);
    }
  }
  return digest;
}

Token Answer(const SyntheticModel& model, const SequenceDigest& digest, Cache& cache) {
  return model.NextToken(digest, cache.tokens,
                         [&](std::uint64_t position, std::uint32_t layer) -> const std::byte* {
                           return cache.Row(layer, position);
                         });
}

TEST(SyntheticModel, GoldenValues) {  // change them, and instances of two versions disagree
  const SyntheticModel model = TinyModel();
  const std::vector<Token> tokens = CountingTokens(40);
  const std::vector<Chain> chains = model.Chains(tokens);
  Cache cache(model, chains);
  const auto word = [](const std::byte* at) {
    std::uint64_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  const SequenceDigest digest = DigestOf(model, cache, 16);
  EXPECT_EQ(static_cast<std::uint64_t>(model.initial_chain()), 0xD0994236E20EC10FULL);
  EXPECT_EQ(static_cast<std::uint64_t>(chains.back()), 0xEF90033105F9F59EULL);
  EXPECT_EQ(word(cache.Row(0, 0)), 0x0424E924864D4F12ULL);
  EXPECT_EQ(word(cache.Row(3, 39) + 120), 0x31DAAE77F353C1CAULL);
  EXPECT_EQ(digest.layers().front(), 0xABA529D1E5F82EDEULL);
  EXPECT_EQ(digest.layers().back(), 0x8D53EB19F229CFFCULL);
  EXPECT_EQ(Answer(model, digest, cache), 57u);
}

TEST(SyntheticModel, ChainsContinueWhereTheyStopped) {
  const SyntheticModel model = TinyModel();
  const std::vector<Token> tokens = CountingTokens(100);
  const std::vector<Chain> whole = model.Chains(tokens);
  std::vector<Chain> pieces = model.Chains(std::span(tokens).first(37));
  model.AppendChains(std::span(tokens).subspan(37), pieces);
  EXPECT_EQ(whole, pieces);
  EXPECT_THAT(PageEndChains(whole, 32), testing::ElementsAre(whole[31], whole[63], whole[95]));
  EXPECT_THAT(PageEndChains(std::span(whole).first(31), 32), testing::IsEmpty());
}

TEST(SyntheticModel, AChainDependsOnEveryTokenBeforeIt) {
  const SyntheticModel model = TinyModel();
  const std::vector<Token> tokens = CountingTokens(64);
  std::set<Chain> ends{model.Chains(tokens).back()};
  for (std::size_t changed = 0; changed < tokens.size(); ++changed) {
    std::vector<Token> other = tokens;
    other[changed] ^= 1;
    EXPECT_TRUE(ends.insert(model.Chains(other).back()).second) << changed;
  }
  std::vector<Token> swapped = tokens;
  std::swap(swapped[3], swapped[4]);
  EXPECT_TRUE(ends.insert(model.Chains(swapped).back()).second);
}

TEST(SyntheticModel, ModelsOfOtherRowsHaveOtherChainsWhateverTheirPages) {
  const ModelShape tiny = FindModel("tiny").value();
  const auto initial = [](const ModelShape& model, double scale, std::uint32_t page_tokens) {
    return SyntheticModel(Scale(model, scale, page_tokens).value()).initial_chain();
  };
  EXPECT_EQ(initial(tiny, 1, 16), initial(tiny, 1, 64));
  EXPECT_NE(initial(tiny, 1, 16), initial(tiny, 0.5, 16));
  EXPECT_NE(initial(tiny, 1, 16), initial(FindModel("llama-3-8b").value(), 1, 16));
  EXPECT_NE(initial(FindModel("mistral-7b").value(), 1, 16),
            initial(FindModel("mixtral-8x7b").value(), 1, 16));
}

TEST(SyntheticModel, EveryWordOfARowDependsOnChainAndLayer) {
  const SyntheticModel model = TinyModel();
  const std::vector<Chain> chains = model.Chains(CountingTokens(64));
  Cache cache(model, chains);
  std::set<std::uint64_t> words;
  for (std::size_t at = 0; at < cache.rows.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word;
    std::memcpy(&word, cache.rows.data() + at, sizeof word);
    words.insert(word);
  }
  EXPECT_EQ(words.size(), cache.rows.size() / sizeof(std::uint64_t));
}

TEST(SyntheticModel, OneRowIsTheSameAsAmongMany) {
  const SyntheticModel model = TinyModel(0.07);  // rows of 8 bytes
  ASSERT_EQ(model.shape().row_bytes, 8u);
  const std::vector<Chain> chains = model.Chains(CountingTokens(20));
  Cache cache(model, chains);
  Bytes row(8);
  model.FillRow(2, chains[11], row.data());
  EXPECT_EQ(std::memcmp(row.data(), cache.Row(2, 11), 8), 0);
}

TEST(SequenceDigest, IsTheSameHoweverTheRowsAreSplit) {
  for (const double scale : {1.0, 0.07}) {
    const SyntheticModel model = TinyModel(scale);
    Cache cache(model, model.Chains(CountingTokens(50)));
    const SequenceDigest whole = DigestOf(model, cache, 50);
    for (std::size_t rows = 1; rows < 50; ++rows)
      EXPECT_EQ(DigestOf(model, cache, rows), whole) << rows;
  }
}

TEST(SequenceDigest, TellsTheOrderOfRows) {
  const SyntheticModel model = TinyModel();
  Cache cache(model, model.Chains(CountingTokens(50)));
  const SequenceDigest before = DigestOf(model, cache, 50);
  std::swap_ranges(cache.Row(1, 20), cache.Row(1, 21), cache.Row(1, 40));
  EXPECT_NE(DigestOf(model, cache, 50), before);
}

TEST(NextToken, OneWrongByteAnywhereChangesTheAnswer) {
  ModelShape shape = FindModel("tiny").value();
  shape.vocabulary = 0xFFFFFFFF;  // so large that two answers are not equal by chance
  const SyntheticModel model(Scale(shape, 0.2, 16).value());
  Cache cache(model, model.Chains(CountingTokens(20)));
  const SequenceDigest digest = DigestOf(model, cache, 20);
  const Token right = Answer(model, digest, cache);
  for (std::byte& byte : cache.rows) {
    byte ^= std::byte{0x10};
    EXPECT_NE(Answer(model, DigestOf(model, cache, 20), cache), right);
    byte ^= std::byte{0x10};
  }
}

TEST(NextToken, APageThatChangesAfterItWasReadIsFoundByAttention) {
  ModelShape shape = FindModel("tiny").value();
  shape.vocabulary = 0xFFFFFFFF;
  const SyntheticModel model(Scale(shape, 1, 16).value());
  Cache cache(model, model.Chains(CountingTokens(60)));
  const SequenceDigest digest = DigestOf(model, cache, 60);
  const Token right = Answer(model, digest, cache);
  const AttentionStep step(digest, 60);
  for (std::size_t position = 0; position < 60; ++position) {
    std::byte& byte = *(cache.Row(3, position) + 77);
    byte ^= std::byte{1};
    const bool attended = std::ranges::count(step.positions(), position) > 0;
    EXPECT_EQ(Answer(model, digest, cache) != right, attended) << position;
    byte ^= std::byte{1};
  }
}

TEST(NextToken, StaysBelowTheVocabularyAndPositionsBelowTheSequence) {
  const SyntheticModel model = TinyModel(0.07);
  std::set<Token> seen;
  for (std::size_t count = 1; count < 200; ++count) {
    Cache cache(model, model.Chains(CountingTokens(count)));
    const SequenceDigest digest = DigestOf(model, cache, count);
    const AttentionStep step(digest, count);
    for (const std::uint64_t position : step.positions()) EXPECT_LT(position, count);
    const Token token = Answer(model, digest, cache);
    EXPECT_LT(token, model.shape().vocabulary);
    seen.insert(token);
  }
  EXPECT_GT(seen.size(), 150u) << "tokens hardly vary";
}

}  // namespace
}  // namespace mooncake
