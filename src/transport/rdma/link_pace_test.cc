#include "transport/rdma/link_pace.h"

#include <gtest/gtest.h>

namespace mooncake::rdma {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMi = 1 << 20;
constexpr std::uint64_t kPieceMax = 8 * kMi;

TEST(LinkPace, FitsPiecesToTheLink) {
  EXPECT_EQ(LinkPace(50, kPieceMax).piece_bytes(), kMi);            // 400 Gb/s
  EXPECT_EQ(LinkPace(0.1, kPieceMax).piece_bytes(), 384U << 10);    // 4 ms at 100 MB/s, rounded
  EXPECT_EQ(LinkPace(0.0001, kPieceMax).piece_bytes(), 64U << 10);  // never shorter
  EXPECT_EQ(LinkPace(50, 4096).piece_bytes(), 4096U);               // but where it is asked for
}

TEST(LinkPace, PostsAMillisecondAhead) {
  EXPECT_EQ(LinkPace(50, kPieceMax).window_bytes(), 50'000'000U);
  EXPECT_EQ(LinkPace(2, kPieceMax).window_bytes(), 16 * kMi);
  EXPECT_EQ(LinkPace(0.05, kPieceMax).window_bytes(), 4 * kMi);
}

TEST(LinkPace, MakesLongChainsOfAShareThatIsLarge) {
  const LinkPace fast(50, kPieceMax);
  EXPECT_EQ(fast.ChainBytesFor(100 * kMi, 0, kNever - Instant{}), 16 * kMi);
  EXPECT_EQ(fast.ChainBytesFor(3 * kMi + 5, 0, 1h), 3 * kMi);
  EXPECT_EQ(fast.ChainBytesFor(5, 0, 1h), kMi);
  const LinkPace slow(0.01, kPieceMax);
  EXPECT_EQ(slow.ChainBytesFor(100 * kMi, 0, 1h), 39 * 64U << 10);  // 256 ms, rounded
}

TEST(LinkPace, MakesChainsLongThatEndInTimeOnly) {
  const LinkPace pace(0.1, kPieceMax);
  EXPECT_EQ(pace.ChainBytesFor(100 * kMi, 0, 16ms), 24 * 64U << 10);
  EXPECT_EQ(pace.ChainBytesFor(100 * kMi, kMi, 24ms), 20 * 64U << 10);
  EXPECT_EQ(pace.ChainBytesFor(100 * kMi, 4 * kMi, 32ms), 384U << 10);
  EXPECT_EQ(pace.ChainBytesFor(100 * kMi, 0, -1ms), 384U << 10);
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

TEST(LinkPace, SeesWhereTheThreadThatPostsDoesTheWork) {
  LinkPace pace(0.1, kPieceMax);
  EXPECT_FALSE(pace.is_carried_by_poster());
  pace.NotePosting(kMi, 10ms);  // as long as the link takes; but it may have been interrupted
  EXPECT_FALSE(pace.is_carried_by_poster());
  pace.NotePosting(64 << 10, 10ms);  // too short to say anything
  EXPECT_FALSE(pace.is_carried_by_poster());
  for (int i = 0; i < 4; ++i) pace.NotePosting(kMi, 5ms);
  EXPECT_TRUE(pace.is_carried_by_poster());
  for (int i = 0; i < 4; ++i) pace.NotePosting(kMi, 10us);
  EXPECT_FALSE(pace.is_carried_by_poster());
}

}  // namespace
}  // namespace mooncake::rdma
