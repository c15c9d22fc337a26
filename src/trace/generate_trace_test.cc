#include "trace/generate_trace.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/test_support.h"
#include "trace/inspect_trace.h"

namespace mooncake {
namespace {

TEST(GenerateTrace, IsReadByItsOwnParser) {
  const Trace trace = GenerateTrace({.requests = 300}).value();
  const Result<Trace> read = ParseTrace(FormatTrace(trace), "generated");
  ASSERT_TRUE(Succeeds(read));
  EXPECT_EQ(*read, trace);
}

TEST(GenerateTrace, MeetsWhatWasAskedFor) {
  for (const std::uint32_t conversations : {4000u, 500u}) {
    const TraceStatistics statistics = InspectTrace(GenerateTrace({.requests = 4000,
                                                                   .requests_per_second = 8,
                                                                   .conversations = conversations,
                                                                   .system_blocks = 1,
                                                                   .mean_input_tokens = 3000,
                                                                   .mean_output_tokens = 200})
                                                        .value());
    EXPECT_EQ(statistics.requests, 4000u);
    EXPECT_NEAR(statistics.input.mean, 3000, 150);
    EXPECT_NEAR(statistics.output.mean, 200, 10);
    EXPECT_NEAR(statistics.requests_per_second(), 8, 0.4);
  }
}

TEST(GenerateTrace, TurnsContinueEachOther) {
  TraceOptions options{.requests = 2000, .conversations = 250, .system_blocks = 0};
  EXPECT_GT(InspectTrace(GenerateTrace(options).value()).prefix_hit_ratio(), 0.6);
  options.conversations = 2000;
  EXPECT_EQ(InspectTrace(GenerateTrace(options).value()).prefix_hit_ratio(), 0.0);
  options.system_blocks = 4;
  EXPECT_NEAR(InspectTrace(GenerateTrace(options).value()).prefix_hit_ratio(), 0.5, 0.05);
}

TEST(GenerateTrace, OneConversationOnlyGrows) {
  const Trace trace =
      GenerateTrace({.requests = 10, .conversations = 1, .system_blocks = 2}).value();
  for (std::size_t turn = 1; turn < trace.size(); ++turn) {
    const TraceRequest &before = trace[turn - 1], &now = trace[turn];
    EXPECT_GT(now.input_tokens, before.input_tokens + before.output_tokens);
    const std::size_t full = before.input_tokens / kTraceBlockTokens;
    EXPECT_TRUE(std::equal(before.hash_ids.begin(),
                           before.hash_ids.begin() + static_cast<long>(full),
                           now.hash_ids.begin()));
    if (full < before.hash_ids.size()) {
      EXPECT_NE(before.hash_ids[full], now.hash_ids[full])
          << "a partial block was continued under its old id";
    }
  }
}

TEST(GenerateTrace, TheSeedDecides) {
  EXPECT_EQ(GenerateTrace({.seed = 4}).value(), GenerateTrace({.seed = 4}).value());
  EXPECT_NE(GenerateTrace({.seed = 4}).value(), GenerateTrace({.seed = 5}).value());
}

TEST(GenerateTrace, RefusesWhatCannotBe) {
  for (const TraceOptions& options :
       {TraceOptions{.requests = 0}, TraceOptions{.conversations = 0},
        TraceOptions{.conversations = 1001}, TraceOptions{.requests_per_second = 0},
        TraceOptions{.requests_per_second = std::nan("")},
        TraceOptions{.requests_per_second = std::numeric_limits<double>::infinity()},
        TraceOptions{.mean_input_tokens = 0}, TraceOptions{.mean_output_tokens = 0},
        TraceOptions{.system_blocks = 8, .mean_input_tokens = 4096},
        TraceOptions{.conversations = 1, .mean_input_tokens = 4096},
        TraceOptions{.system_blocks = 0xFFFFFFFF}}) {
    EXPECT_TRUE(FailsWith(GenerateTrace(options), ErrorId::kBadOptionValue));
  }
}

}  // namespace
}  // namespace mooncake
