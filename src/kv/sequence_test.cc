#include "kv/sequence.h"

#include <gmock/gmock.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

std::vector<Chain> Chains(std::size_t count) {
  std::vector<Chain> chains(count);
  for (std::size_t i = 0; i < count; ++i) chains[i] = Chain{Mix(i)};
  return chains;
}

TEST(KvSequence, GivesItsPagesBackWhenItDies) {
  PrefixCache cache(4);
  {
    KvSequence sequence(cache);
    ASSERT_TRUE(Succeeds(sequence.GrowTo(3)));
    EXPECT_EQ(cache.statistics().pinned_pages, 3u);
  }
  EXPECT_EQ(cache.statistics().free_pages, 4u);
}

TEST(KvSequence, ASecondOneReusesWhatTheFirstPublished) {
  PrefixCache cache(8);
  KvSequence first(cache);
  ASSERT_TRUE(Succeeds(first.GrowTo(4)));
  first.Publish(Chains(2));
  first.Publish(Chains(3));
  KvSequence second(cache);
  EXPECT_EQ(second.Reuse(Chains(5)), 3u);
  ASSERT_TRUE(Succeeds(second.GrowTo(5)));
  EXPECT_EQ(second.reused_pages(), 3u);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(second.pages()[i], first.pages()[i]);
  EXPECT_NE(second.pages()[3], first.pages()[3]);
  EXPECT_EQ(cache.statistics().pinned_pages, 6u);
}

TEST(KvSequence, AGrowthThatFailsChangesNothing) {
  PrefixCache cache(4);
  KvSequence sequence(cache);
  ASSERT_TRUE(Succeeds(sequence.GrowTo(3)));
  EXPECT_TRUE(FailsWith(sequence.GrowTo(5), ErrorId::kKvFull));
  EXPECT_EQ(sequence.pages().size(), 3u);
  EXPECT_TRUE(Succeeds(sequence.GrowTo(2)));
  EXPECT_EQ(sequence.pages().size(), 3u);
  EXPECT_TRUE(Succeeds(sequence.GrowTo(4)));
}

TEST(KvSequence, PagesMoveAlong) {
  PrefixCache cache(4);
  KvSequence first(cache);
  ASSERT_TRUE(Succeeds(first.GrowTo(2)));
  KvSequence second(std::move(first));
  EXPECT_THAT(first.pages(), testing::IsEmpty());  // NOLINT(bugprone-use-after-move): promised
  EXPECT_EQ(second.pages().size(), 2u);
  KvSequence third(cache);
  ASSERT_TRUE(Succeeds(third.GrowTo(1)));
  third = std::move(second);
  EXPECT_EQ(third.pages().size(), 2u);
  EXPECT_EQ(cache.statistics().pinned_pages, 2u) << "what it had before went back";
  third.Clear();
  EXPECT_EQ(cache.statistics().free_pages, 4u);
}

}  // namespace
}  // namespace mooncake
