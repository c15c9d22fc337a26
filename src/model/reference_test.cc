#include "model/reference.h"

#include <gmock/gmock.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

SyntheticModel Tiny(double scale = 0.1) {
  return SyntheticModel(Scale(FindModel("tiny").value(), scale, 16).value());
}

std::vector<Token> Prompt(std::size_t count, Token salt = 0) {
  std::vector<Token> tokens(count);
  for (std::size_t i = 0; i < count; ++i)
    tokens[i] = static_cast<Token>(Mix(i + kGolden * salt) % 1024);
  return tokens;
}

// The computation at its plainest: every row made anew at every step.
std::vector<Token> SlowAnswer(const SyntheticModel& model, std::vector<Token> tokens,
                              std::uint32_t max_tokens) {
  std::vector<std::byte> row(model.shape().row_bytes);
  const std::size_t prompt_tokens = tokens.size();
  while (tokens.size() < prompt_tokens + max_tokens) {
    const std::vector<Chain> chains = model.Chains(tokens);
    SequenceDigest digest(model.shape());
    for (std::uint32_t layer = 0; layer < model.shape().layers; ++layer) {
      for (const Chain chain : chains) {
        model.FillRow(layer, chain, row.data());
        digest.Absorb(layer, row.data(), 1);
      }
    }
    tokens.push_back(
        model.NextToken(digest, tokens.size(), [&](std::uint64_t position, std::uint32_t layer) {
          model.FillRow(layer, chains[position], row.data());
          return row.data();
        }));
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt_tokens), tokens.end()};
}

TEST(Reference, GoldenAnswer) {
  Reference reference(Tiny(1.0));
  EXPECT_THAT(reference.Generate(Prompt(600), 6),
              testing::ElementsAre(813, 558, 186, 384, 510, 590));
}

TEST(Reference, AnswersAsThePlainComputationDoes) {
  for (const double scale : {0.01, 0.1, 1.0}) {
    const SyntheticModel model = Tiny(scale);
    Reference reference(model);
    for (const std::size_t count : {1, 2, 511, 512, 513, 1030}) {
      EXPECT_EQ(reference.Generate(Prompt(count), 5), SlowAnswer(model, Prompt(count), 5)) << count;
    }
  }
}

TEST(Reference, NoTokensAreAnAnswerToo) {
  Reference reference(Tiny());
  EXPECT_THAT(reference.Generate(Prompt(3), 0), testing::IsEmpty());
}

TEST(Reference, RowsLargerThanTheScratchAreServedToo) {
  ModelShape wide = FindModel("tiny").value();
  wide.head_dim = 8192;
  const SyntheticModel model(Scale(wide, 1, 16).value());
  Reference reference(model);
  EXPECT_EQ(reference.Generate(Prompt(3), 2), SlowAnswer(model, Prompt(3), 2));
}

TEST(Reference, SharedBeginningsAreComputedOnce) {
  Reference reference(Tiny());
  const std::vector<Token> prompt = Prompt(1100);
  const std::vector<Token> first = reference.Generate(prompt, 3);
  EXPECT_EQ(reference.reused_tokens(), 0u);
  EXPECT_EQ(reference.Generate(prompt, 3), first);
  EXPECT_EQ(reference.reused_tokens(), 1024u);
  (void)reference.Generate(std::span(prompt).first(700), 1);
  EXPECT_EQ(reference.reused_tokens(), 1024u + 512u);
  (void)reference.Generate(Prompt(1100, 1), 1);
  EXPECT_EQ(reference.reused_tokens(), 1024u + 512u);
}

TEST(Reference, ATurnThatContinuesAnAnswerReusesTheAnswerToo) {
  Reference reference(Tiny());
  std::vector<Token> tokens = Prompt(500);
  const std::vector<Token> answer = reference.Generate(tokens, 600);
  tokens.insert(tokens.end(), answer.begin(), answer.end());
  EXPECT_EQ(reference.Generate(tokens, 2), SlowAnswer(Tiny(), tokens, 2));
  EXPECT_EQ(reference.reused_tokens(), 1024u);
}

TEST(Reference, ForgetsTheLeastRecentlyUsedAndAnswersTheSame) {
  Reference reference(Tiny(), 2);
  const std::vector<Token> a = Prompt(600, 1), b = Prompt(600, 2), c = Prompt(600, 3);
  const std::vector<Token> answer = reference.Generate(a, 2);
  (void)reference.Generate(b, 2);
  (void)reference.Generate(a, 2);  // a is now more recent than b
  (void)reference.Generate(c, 2);
  EXPECT_EQ(reference.checkpoints(), 2u);
  const std::uint64_t reused = reference.reused_tokens();
  EXPECT_EQ(reference.Generate(a, 2), answer);
  EXPECT_EQ(reference.reused_tokens(), reused + 512);
  (void)reference.Generate(b, 2);
  EXPECT_EQ(reference.reused_tokens(), reused + 512) << "b should have been forgotten";
}

}  // namespace
}  // namespace mooncake
