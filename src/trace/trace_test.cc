#include "trace/trace.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kTwoLines =
    "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [0, 1]}\n"
    "{\"timestamp\": 7, \"input_length\": 1024, \"output_length\": 0, \"hash_ids\": [0, 2]}\n";

TEST(ParseTrace, ReadsTheOpenFormat) {
  const Result<Trace> trace = ParseTrace(kTwoLines, "two.jsonl");
  ASSERT_TRUE(Succeeds(trace));
  EXPECT_THAT(*trace,
              ElementsAre(TraceRequest{0, 600, 5, {0, 1}}, TraceRequest{7, 1024, 0, {0, 2}}));
  EXPECT_EQ(FormatTrace(*trace), kTwoLines);
}

TEST(ParseTrace, ReadsNoMoreThanItIsAskedFor) {
  EXPECT_EQ(ParseTrace(fmt::format("{}garbage", kTwoLines), "t", 2).value().size(), 2u);
  EXPECT_EQ(ParseTrace(kTwoLines, "t", 1).value().size(), 1u);
}

TEST(ParseTrace, SkipsEmptyLinesAndForeignFieldsAndTakesAnyLineEnd) {
  const Result<Trace> trace = ParseTrace(
      "\r\n{\"type\": \"chat\", \"hash_ids\": [9], \"output_length\": 1, \"input_length\": 1, "
      "\"timestamp\": 3}\r\n\n"
      "{\"timestamp\": 3, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": "
      "[18446744073709551615]}",
      "t");
  ASSERT_TRUE(Succeeds(trace));
  EXPECT_EQ(trace->size(), 2u);
  EXPECT_EQ(trace->back().hash_ids.front(), 18446744073709551615u);
}

TEST(ParseTrace, NamesTheLineAndTheFieldThatIsWrong) {
  struct Case {
    const char* line;
    const char* complaint;
  };
  const Case cases[] = {
      {R"({"input_length": 1, "output_length": 1, "hash_ids": [1]})", "timestamp is missing"},
      {R"({"timestamp": 9, "output_length": 1, "hash_ids": [1]})", "input_length is missing"},
      {R"({"timestamp": 9, "input_length": 1, "hash_ids": [1]})", "output_length is missing"},
      {R"({"timestamp": 9, "input_length": 1, "output_length": 1})", "hash_ids is missing"},
      {R"({"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": [1]})",
       "timestamp is negative"},
      {R"({"timestamp": 9.5, "input_length": 1, "output_length": 1, "hash_ids": [1]})",
       "timestamp is not a whole"},
      {R"({"timestamp": 9, "input_length": "1", "output_length": 1, "hash_ids": [1]})",
       "input_length is not a whole"},
      {R"({"timestamp": 9, "input_length": 1, "output_length": -4, "hash_ids": [1]})",
       "output_length is negative"},
      {R"({"timestamp": 9, "input_length": 16777217, "output_length": 4, "hash_ids": [1]})",
       "more than 16777216"},
      {R"({"timestamp": 9, "input_length": 0, "output_length": 4, "hash_ids": []})",
       "input_length is 0"},
      {R"({"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": 1})",
       "hash_ids is not a list"},
      {R"({"timestamp": 9, "input_length": 513, "output_length": 1, "hash_ids": [1, -2]})",
       "hash_ids[1] is negative"},
      {R"({"timestamp": 9, "input_length": 513, "output_length": 1, "hash_ids": [1, null]})",
       "hash_ids[1] is not a"},
      {R"({"timestamp": 9, "input_length": 513, "output_length": 1, "hash_ids": [1]})",
       "hash_ids has 1 ids, but"},
      {R"({"timestamp": 9, "input_length": 512, "output_length": 1, "hash_ids": [1, 2]})",
       "hash_ids has 2 ids, but"},
      {R"({"timestamp": 6, "input_length": 1, "output_length": 1, "hash_ids": [1]})",
       "backwards, from 7 to 6"},
      {R"([1])", "not a JSON object"},
      {R"({"timestamp": 9,)", "not JSON"},
      {R"({"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": [1]} x)", "not JSON"},
  };
  for (const Case& c : cases) {
    const Result<Trace> trace = ParseTrace(fmt::format("{}{}\n", kTwoLines, c.line), "bad.jsonl");
    ASSERT_TRUE(FailsWith(trace, ErrorId::kBadTrace)) << c.line;
    EXPECT_THAT(trace.error().context, HasSubstr("bad.jsonl line 3: ")) << c.line;
    EXPECT_THAT(trace.error().context, HasSubstr(c.complaint)) << c.line;
  }
}

TEST(ParseTrace, RefusesLinesThatAreTooLongAndTracesWithoutRequests) {
  const std::string spaces(kTraceLineBytesMax, ' ');
  const Result<Trace> trace = ParseTrace(spaces + "{}", "long.jsonl");
  EXPECT_TRUE(FailsWith(trace, ErrorId::kBadTrace));
  EXPECT_THAT(trace.error().context, HasSubstr("long.jsonl line 1: 1048578 bytes"));
  EXPECT_TRUE(FailsWith(ParseTrace("", "empty"), ErrorId::kBadTrace));
  EXPECT_TRUE(FailsWith(ParseTrace("\n\n", "empty"), ErrorId::kBadTrace));
}

TEST(TokensOf,
     GoldenValues) {  // change them, and a replay sends other prompts than its reference computes
  const std::vector<Token> tokens = TokensOf({0, 515, 1, {7, 8}}, 128256);
  ASSERT_EQ(tokens.size(), 515u);
  EXPECT_THAT(std::vector(tokens.begin(), tokens.begin() + 3), ElementsAre(58471, 92537, 83328));
  EXPECT_THAT(std::vector(tokens.end() - 3, tokens.end()), ElementsAre(108849, 34198, 67970));
}

TEST(TokensOf, ABlockIsMadeFromItsIdAlone) {
  const std::vector<Token> one = TokensOf({0, 1536, 1, {1, 2, 3}}, 1024);
  const std::vector<Token> other = TokensOf({5, 1612, 9, {4, 2, 1, 3}}, 1024);
  const auto block = [](const std::vector<Token>& tokens, long index, long length) {
    const auto begin = tokens.begin() + index * kTraceBlockTokens;
    return std::vector<Token>(begin, begin + length);
  };
  EXPECT_NE(block(one, 0, 512), block(other, 0, 512));
  EXPECT_EQ(block(one, 1, 512), block(other, 1, 512));
  EXPECT_EQ(block(one, 0, 512), block(other, 2, 512)) << "wherever it stands";
  EXPECT_EQ(block(one, 2, 76), block(other, 3, 76));
  for (const Token token : one) EXPECT_LT(token, 1024u);
}

}  // namespace
}  // namespace mooncake
