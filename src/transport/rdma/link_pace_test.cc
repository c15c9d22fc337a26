#include "transport/rdma/link_pace.h"

#include <gtest/gtest.h>

namespace mooncake::rdma {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kPieceMax = 1 << 20;

TEST(LinkPace, FitsPiecesToTheLink) {
  EXPECT_EQ(LinkPace(50, kPieceMax).piece_bytes(), kPieceMax);      // 400 Gb/s
  EXPECT_EQ(LinkPace(0.1, kPieceMax).piece_bytes(), 384U << 10);    // 4 ms at 100 MB/s, rounded
  EXPECT_EQ(LinkPace(0.0001, kPieceMax).piece_bytes(), 64U << 10);  // never shorter
  EXPECT_EQ(LinkPace(50, 4096).piece_bytes(), 4096U);               // but where it is asked for
}

TEST(LinkPace, PostsAMillisecondAhead) {
  EXPECT_EQ(LinkPace(50, kPieceMax).window_bytes(), 50'000'000U);
  EXPECT_EQ(LinkPace(0.1, kPieceMax).window_bytes(), 4U << 20);
}

TEST(LinkPace, LearnsFromLongBurstsOnly) {
  LinkPace pace(10, kPieceMax);
  Instant now{1s};
  pace.Begin(now);
  EXPECT_FALSE(pace.Count(64 << 10));  // says more about latency
  EXPECT_EQ(pace.bytes_per_nanosecond(), 10);
  for (int i = 0; i < 100; ++i) {
    pace.Begin(now);
    now += 1ms;
    ASSERT_TRUE(pace.Count(1 << 20));
    pace.Measure(now);
  }
  EXPECT_NEAR(pace.bytes_per_nanosecond(), 1.05, 0.01);
}

}  // namespace
}  // namespace mooncake::rdma
