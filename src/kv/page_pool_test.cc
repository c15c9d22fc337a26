#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace mooncake {
namespace {

TEST(PagePool, HandsOutEveryPageOnce) {
  PagePool pool(5);
  std::set<PageNumber> taken;
  while (const std::optional<PageNumber> page = pool.Take()) {
    EXPECT_LT(IndexOf(*page), 5u);
    EXPECT_TRUE(taken.insert(*page).second);
  }
  EXPECT_EQ(taken.size(), 5u);
  EXPECT_EQ(pool.free_pages(), 0u);
  EXPECT_EQ(pool.referenced_pages(), 5u);
}

TEST(PagePool, APageWithoutReferencesStaysTakenUntilItIsFreed) {
  PagePool pool(1);
  const PageNumber page = pool.Take().value();
  pool.AddReference(page);
  EXPECT_EQ(pool.DropReference(page), 1u);
  EXPECT_EQ(pool.DropReference(page), 0u);
  EXPECT_EQ(pool.referenced_pages(), 0u);
  EXPECT_EQ(pool.Take(), std::nullopt);
  pool.AddReference(page);
  EXPECT_EQ(pool.referenced_pages(), 1u);
  pool.DropReference(page);
  pool.Free(page);
  EXPECT_EQ(pool.Take(), page);
}

TEST(PagePoolDeathTest, FindsOurBugs) {
  PagePool pool(2);
  const PageNumber page = pool.Take().value();
  EXPECT_DEATH(pool.Free(page), "references");
  pool.DropReference(page);
  EXPECT_DEATH(pool.DropReference(page), "references");
  pool.Free(page);
  EXPECT_DEATH(pool.Free(page), "kFree");
  EXPECT_DEATH(pool.AddReference(PageNumber{2}), "size");
}

}  // namespace
}  // namespace mooncake
