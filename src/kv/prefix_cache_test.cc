#include "kv/prefix_cache.h"

#include <gmock/gmock.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Pages = std::vector<PageNumber>;

// One chain per letter, each dependent on those before.
std::vector<Chain> Chains(std::string_view letters) {
  std::vector<Chain> chains;
  Chain chain{0};
  for (const char letter : letters) {
    chain = Advance(chain, static_cast<Token>(letter), chains.size());
    chains.push_back(chain);
  }
  return chains;
}

// Computes and caches a sequence whose pages are the letters, then lets go of it.
void Use(PrefixCache& cache, std::string_view letters) {
  const std::vector<Chain> chains = Chains(letters);
  Pages pages = cache.Match(chains);
  const std::size_t matched = pages.size();
  const Pages added = cache.Allocate(chains.size() - matched).value();
  pages.insert(pages.end(), added.begin(), added.end());
  cache.Insert(chains, pages, matched);
  cache.Release(pages);
}

std::size_t Cached(const PrefixCache& cache, std::string_view letters) {
  return cache.MatchLength(Chains(letters));
}

TEST(PrefixCache, MatchesTheLongestBeginning) {
  PrefixCache cache(8);
  Use(cache, "abcd");
  const Pages pages = cache.Match(Chains("abxy"));
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_THAT(cache.Match(Chains("bcd")), IsEmpty());
  EXPECT_EQ(cache.statistics().hit_pages, 2u);
  EXPECT_EQ(cache.statistics().missed_pages, 4u + 2 + 3);
  EXPECT_EQ(cache.statistics().pinned_pages, 2u);
  EXPECT_EQ(cache.statistics().evictable_pages, 2u);
}

TEST(PrefixCache, TheSameChainAtAnotherPlaceIsNoMatch) {
  PrefixCache cache(4);
  const std::vector<Chain> chains = Chains("ab");
  const Pages pages = cache.Allocate(2).value();
  cache.Insert(chains, pages);
  EXPECT_EQ(cache.MatchLength(std::span(chains).subspan(1)), 0u);
  EXPECT_EQ(cache.MatchLength(chains), 2u);
}

TEST(PrefixCache, PrivatePagesAreFreeAtOnceAndCachedOnesStay) {
  PrefixCache cache(4);
  const Pages pages = cache.Allocate(3).value();
  cache.Insert(Chains("a"), std::span(pages).first(1));
  cache.Release(pages);
  EXPECT_EQ(cache.statistics().free_pages, 3u);
  EXPECT_EQ(cache.statistics().cached_pages, 1u);
  EXPECT_EQ(cache.statistics().pinned_pages, 0u);
}

TEST(PrefixCache, EvictsLeastRecentlyUsedAndLeavesBeforeTheirParents) {
  PrefixCache cache(6);
  Use(cache, "abc");
  Use(cache, "xyz");
  Use(cache, "ab");  // c is now the oldest, then z, y, x
  const Pages one = cache.Allocate(1).value();
  EXPECT_EQ(Cached(cache, "abc"), 2u);
  EXPECT_EQ(Cached(cache, "xyz"), 3u);
  const Pages two = cache.Allocate(2).value();
  EXPECT_EQ(Cached(cache, "abc"), 2u);
  EXPECT_EQ(Cached(cache, "xyz"), 1u);
  EXPECT_EQ(cache.statistics().evicted_pages, 3u);
}

TEST(PrefixCache, ToUseAPageIsToUseThoseBeforeIt) {
  PrefixCache cache(5);
  Use(cache, "ab");
  Use(cache, "x");
  Use(cache, "abc");  // younger than x: all of a, b, c
  (void)cache.Allocate(2).value();
  EXPECT_EQ(Cached(cache, "x"), 0u);
  EXPECT_EQ(Cached(cache, "abc"), 3u);
}

TEST(PrefixCache, NeverEvictsPinnedPagesAndSaysWhatIsMissing) {
  PrefixCache cache(5);
  Use(cache, "abc");
  const Pages pinned = cache.Match(Chains("ab"));
  const Result<Pages> refused = cache.Allocate(4);
  EXPECT_TRUE(FailsWith(refused, ErrorId::kKvFull));
  EXPECT_THAT(refused.error().context,
              HasSubstr("4 pages needed, 3 free or evictable of 5, 2 pinned"));
  EXPECT_EQ(Cached(cache, "abc"), 3u) << "nothing is evicted in vain";
  EXPECT_TRUE(Succeeds(cache.Allocate(3)));
  EXPECT_EQ(Cached(cache, "abc"), 2u);
}

TEST(PrefixCache, ASecondPageOfTheSameContentStaysPrivate) {
  PrefixCache cache(4);
  const Pages first = cache.Allocate(1).value();
  const Pages second = cache.Allocate(1).value();
  cache.Insert(Chains("a"), first);
  cache.Insert(Chains("a"), second);
  cache.Release(second);
  EXPECT_EQ(cache.statistics().free_pages, 3u);
  EXPECT_EQ(cache.Match(Chains("a")), first);
}

TEST(PrefixCache, ACachedParentIsKeptByAChildOfAnotherOwner) {
  PrefixCache cache(4);
  const Pages own = cache.Allocate(2).value();
  Use(cache, "a");                  // the cache's page for "a" is not ours...
  cache.Insert(Chains("ab"), own);  // ...but our "b" continues it
  EXPECT_EQ(cache.statistics().evictable_pages, 0u);
  EXPECT_TRUE(FailsWith(cache.Allocate(2), ErrorId::kKvFull));
  EXPECT_EQ(Cached(cache, "ab"), 2u);
  cache.Release(own);
  EXPECT_EQ(cache.statistics().evictable_pages, 2u);
  (void)cache.Allocate(3).value();
  EXPECT_EQ(Cached(cache, "ab"), 1u) << "the leaf goes first";
}

TEST(PrefixCache, AGapBeforeThePagesToInsertIsFilledWithOwnPages) {
  PrefixCache cache(4);
  Use(cache, "a");
  const Pages own = cache.Allocate(2).value();
  cache.Insert(Chains("a"), std::span(own).first(1));  // stays private: there is one
  (void)cache.Allocate(2).value();                     // evicts the other
  ASSERT_EQ(Cached(cache, "a"), 0u);
  cache.Insert(Chains("ab"), own, 1);
  EXPECT_THAT(cache.Match(Chains("ab")), ElementsAre(own[0], own[1]));
}

TEST(PrefixCache, AnEmptyCacheAndEmptyRequestsAreFine) {
  PrefixCache cache(0);
  EXPECT_THAT(cache.Match(Chains("ab")), IsEmpty());
  EXPECT_TRUE(Succeeds(cache.Allocate(0)));
  EXPECT_TRUE(FailsWith(cache.Allocate(1), ErrorId::kKvFull));
  cache.Insert({}, {});
  cache.Release({});
}

}  // namespace
}  // namespace mooncake
