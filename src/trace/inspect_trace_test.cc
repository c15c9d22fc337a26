#include "trace/inspect_trace.h"

#include <gmock/gmock.h>

namespace mooncake {
namespace {

using testing::HasSubstr;

TEST(InspectTrace, CountsTokensAndBlocks) {
  const TraceStatistics statistics =
      InspectTrace({{1000, 600, 10, {0, 1}}, {1500, 1024, 20, {0, 2}}, {3000, 700, 60, {0, 1}}});
  EXPECT_EQ(statistics.requests, 3u);
  EXPECT_EQ(statistics.duration_ms, 2000u);
  EXPECT_DOUBLE_EQ(statistics.requests_per_second(), 1.5);
  EXPECT_EQ(statistics.input.total, 2324u);
  EXPECT_EQ(statistics.input.p50, 700u);
  EXPECT_EQ(statistics.input.p90, 1024u);
  EXPECT_EQ(statistics.output.total, 90u);
  EXPECT_DOUBLE_EQ(statistics.output.mean, 30.0);
  EXPECT_EQ(statistics.output.max, 60u);
  EXPECT_EQ(statistics.distinct_blocks, 3u);
}

TEST(InspectTrace, AHitIsTheLongestLeadingRunThatWasSeen) {
  const TraceStatistics statistics =
      InspectTrace({{0, 1536, 1, {1, 2, 3}},
                    {0, 2048, 1, {1, 2, 9, 3}},  // 1024: 3 does not lead
                    {0, 1024, 1, {2, 1}},        // 1024: blocks seen, in any request
                    {0, 1300, 1, {1, 2, 3}}});   // 1300: the last block in part
  EXPECT_EQ(statistics.prefix_hit_tokens, 1024u + 1024u + 1300u);
  EXPECT_DOUBLE_EQ(statistics.prefix_hit_ratio(), 3348.0 / 5908.0);
}

TEST(InspectTrace, QuantilesAreValuesThatOccur) {
  Trace trace;
  for (std::uint32_t tokens = 1; tokens <= 100; ++tokens)
    trace.push_back({0, 101 - tokens, 3, {0}});
  const LengthDistribution input = InspectTrace(trace).input;
  EXPECT_EQ(input.p50, 50u);
  EXPECT_EQ(input.p90, 90u);
  EXPECT_EQ(input.p99, 99u);
  EXPECT_EQ(input.max, 100u);
}

TEST(InspectTrace, AnEmptyTraceIsAllZero) {
  const TraceStatistics statistics = InspectTrace({});
  EXPECT_EQ(statistics.requests, 0u);
  EXPECT_EQ(statistics.prefix_hit_ratio(), 0.0);
  EXPECT_EQ(statistics.requests_per_second(), 0.0);
}

TEST(StatisticsText, SaysItToPeople) {
  const std::string text =
      StatisticsText(InspectTrace({{0, 512, 10, {0}}, {2000, 1024, 30, {0, 1}}}));
  EXPECT_EQ(text,
            "requests        2 in 2.0 s, 1.00 per second\n"
            "input tokens    1536 in all, mean 768, p50 512, p90 1024, p99 1024, max 1024\n"
            "output tokens   40 in all, mean 20, p50 10, p90 30, p99 30, max 30\n"
            "blocks          2 distinct, of 512 tokens\n"
            "prefix hits     33.33 % of the input tokens, with a cache that never forgets\n");
}

}  // namespace
}  // namespace mooncake
