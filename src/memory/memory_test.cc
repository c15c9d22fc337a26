#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/real_world.h"
#include "base/test_support.h"
#include "memory/region_table.h"
#include "memory/shared_segment.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

class Regions : public testing::Test {
 protected:
  RealWorld real_;
  World& world_ = real_.world();
  RegionTable table_{world_.random};
  std::vector<std::byte> memory_ = std::vector<std::byte>(4096);
};

TEST_F(Regions, ResolveChecksKeyBoundsAndAccess) {
  const Result<RegionInfo> info = table_.Register(memory_.data(), 1000, {.access = Access::kRead});
  ASSERT_TRUE(Succeeds(info));
  const auto resolve = [&](RegionKey key, std::uint64_t offset, std::uint64_t length,
                           Access access) {
    return table_.Resolve(info->id, key, offset, length, access);
  };
  const Result<PinnedRange> whole = resolve(info->key, 0, 1000, Access::kRead);
  ASSERT_TRUE(Succeeds(whole));
  EXPECT_EQ(whole->bytes().data(), memory_.data());
  EXPECT_TRUE(Succeeds(resolve(info->key, 1000, 0, Access::kRead)));
  const RegionKey wrong{static_cast<std::uint64_t>(info->key) + 1};
  EXPECT_TRUE(FailsWith(resolve(wrong, 0, 1, Access::kRead), ErrorId::kBadRegionKey));
  EXPECT_TRUE(FailsWith(resolve(info->key, 0, 1, Access::kWrite), ErrorId::kBadRegionKey));
  EXPECT_TRUE(FailsWith(resolve(info->key, 1, 1000, Access::kRead), ErrorId::kOutOfRegion));
  EXPECT_TRUE(FailsWith(resolve(info->key, 1, UINT64_MAX, Access::kRead), ErrorId::kOutOfRegion));
  EXPECT_TRUE(FailsWith(resolve(info->key, UINT64_MAX, 2, Access::kRead), ErrorId::kOutOfRegion));
  EXPECT_TRUE(FailsWith(table_.Resolve(RegionId{99}, info->key, 0, 1, Access::kRead),
                        ErrorId::kRegionUnknown));
}

TEST_F(Regions, OverlapsAreRefusedAndChangeNothing) {
  const auto info = table_.Register(memory_.data() + 100, 100, {});
  ASSERT_TRUE(Succeeds(info));
  EXPECT_TRUE(FailsWith(table_.Register(memory_.data() + 100, 100, {}), ErrorId::kRegionExists));
  EXPECT_TRUE(FailsWith(table_.Register(memory_.data() + 199, 10, {}), ErrorId::kRegionExists));
  EXPECT_TRUE(FailsWith(table_.Register(memory_.data(), 101, {}), ErrorId::kRegionExists));
  EXPECT_TRUE(FailsWith(table_.Register(memory_.data(), 4096, {}), ErrorId::kRegionExists));
  EXPECT_TRUE(FailsWith(table_.Register(memory_.data(), 0, {}), ErrorId::kBadRange));
  EXPECT_TRUE(FailsWith(table_.Register(nullptr, 10, {}), ErrorId::kBadRange));
  EXPECT_TRUE(FailsWith(table_.Register(memory_.data(), UINT64_MAX, {}), ErrorId::kBadRange));
  EXPECT_TRUE(Succeeds(table_.Register(memory_.data(), 100, {})));
  EXPECT_TRUE(Succeeds(table_.Register(memory_.data() + 200, 100, {})));
  EXPECT_EQ(table_.size(), 3U);
  EXPECT_TRUE(FailsWith(table_.FindLocal(memory_.data() + 50, 100), ErrorId::kNotRegistered));
  EXPECT_EQ(table_.FindLocal(memory_.data() + 150, 50)->id, info->id);
}

TEST_F(Regions, UnregisteringTellsWhenNobodyCopiesAnyMore) {
  const auto info = table_.Register(memory_.data(), 100, {});
  ASSERT_TRUE(Succeeds(info));
  std::optional<PinnedRange> pin = *table_.Resolve(info->id, info->key, 0, 10, Access::kWrite);
  int unused = 0;
  ASSERT_TRUE(Succeeds(table_.Unregister(info->id, [&unused] { ++unused; })));
  EXPECT_EQ(unused, 0);
  EXPECT_TRUE(FailsWith(table_.Resolve(info->id, info->key, 0, 10, Access::kWrite),
                        ErrorId::kRegionUnknown));
  pin.reset();
  EXPECT_EQ(unused, 1);
  EXPECT_TRUE(
      FailsWith(table_.Unregister(info->id, [&unused] { ++unused; }), ErrorId::kRegionUnknown));
  EXPECT_EQ(unused, 1);
  const auto again = table_.Register(memory_.data(), 100, {});
  ASSERT_TRUE(Succeeds(again));
  EXPECT_NE(again->key, info->key);
  ASSERT_TRUE(Succeeds(table_.Unregister(again->id, [&unused] { ++unused; })));
  EXPECT_EQ(unused, 2);
}

TEST_F(Regions, OneThatWasFoundLastIsForgottenWhenItIsUnregistered) {
  const auto info = table_.Register(memory_.data(), 100, {});
  ASSERT_TRUE(Succeeds(info));
  std::optional<PinnedRange> pin = *table_.PinLocal(memory_.data() + 10, 10);
  int unused = 0;
  ASSERT_TRUE(Succeeds(table_.Unregister(info->id, [&unused] { ++unused; })));
  EXPECT_EQ(unused, 0);
  EXPECT_TRUE(FailsWith(table_.PinLocal(memory_.data() + 10, 10), ErrorId::kNotRegistered));
  pin.reset();
  EXPECT_EQ(unused, 1);
  const auto shorter = table_.Register(memory_.data(), 50, {});
  ASSERT_TRUE(Succeeds(shorter));
  EXPECT_EQ(table_.PinLocal(memory_.data() + 10, 10)->bytes().size(), 50U);
  EXPECT_TRUE(FailsWith(table_.PinLocal(memory_.data() + 10, 90), ErrorId::kNotRegistered));
  ASSERT_TRUE(Succeeds(table_.Unregister(shorter->id, [&unused] { ++unused; })));
  EXPECT_EQ(unused, 2);
}

// Memory is given back when nobody holds it, whoever looks it up meanwhile.
TEST_F(Regions, ArePinnedByManyThreadsWhileTheyComeAndGo) {
  constexpr int kTimes = 2000;
  std::atomic<int> registered = 0;  // which registration the memory belongs to; 0: to its owner
  std::atomic<bool> stopped = false;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stopped) {
        const Result<PinnedRange> pin = table_.PinLocal(memory_.data() + 10, 10);
        if (!pin) continue;
        const int now = registered;
        if (now == 0 || registered != now) ++wrong;
      }
    });
  }
  for (int i = 1; i <= kTimes; ++i) {
    registered = i;
    const auto info = table_.Register(memory_.data(), 100, {});
    ASSERT_TRUE(Succeeds(info));
    std::atomic<bool> unused = false;
    ASSERT_TRUE(Succeeds(table_.Unregister(info->id, [&registered, &unused] {
      registered = 0;
      unused = true;
    })));
    while (!unused) std::this_thread::yield();
  }
  stopped = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Regions, ListPagesThroughListedRegionsOnly) {
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(table_.Register(memory_.data() + 10 * i, 10, {.listed = i % 2 == 0}));
  }
  EXPECT_EQ(table_.List(RegionId{0}, 3).size(), 3U);
  EXPECT_EQ(table_.List(RegionId{0}, 100).size(), 5U);
  EXPECT_EQ(table_.List(table_.List(RegionId{0}, 3).back().id, 100).size(), 2U);
}

TEST(SharedSegments, AViewSeesTheOwnersBytesAndAReadOnlyOneCannotWrite) {
  const auto segment = SharedSegment::Create("test", 10000);
  ASSERT_TRUE(Succeeds(segment));
  EXPECT_EQ((*segment)->bytes().size() % 4096, 0U);
  (*segment)->bytes()[5000] = std::byte{42};
  const auto view = MappedView::Map(UniqueFd(::dup((*segment)->fd(true))), 10000, true);
  ASSERT_TRUE(Succeeds(view));
  EXPECT_EQ((*view)->bytes()[5000], std::byte{42});
  (*view)->bytes()[1] = std::byte{7};
  EXPECT_EQ((*segment)->bytes()[1], std::byte{7});
  EXPECT_TRUE(FailsWith(MappedView::Map(UniqueFd(::dup((*segment)->fd(false))), 10000, true),
                        ErrorId::kMapFailed));
  EXPECT_TRUE(Succeeds(MappedView::Map(UniqueFd(::dup((*segment)->fd(false))), 10000, false)));
  (*segment)->Populate();
  EXPECT_EQ((*segment)->bytes()[5000], std::byte{42});
}

TEST(SharedSegments, APeersDescriptorIsChecked) {
  UniqueFd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 8192), 0);
  EXPECT_TRUE(FailsWith(MappedView::Map(std::move(unsealed), 8192, false), ErrorId::kMapFailed));
  const auto segment = SharedSegment::Create("test", 4096);
  ASSERT_TRUE(Succeeds(segment));
  EXPECT_TRUE(FailsWith(MappedView::Map(UniqueFd(::dup((*segment)->fd(true))), 4097, false),
                        ErrorId::kMapFailed));
  EXPECT_TRUE(FailsWith(SharedSegment::Create("test", 1ULL << 60), ErrorId::kMemoryShortage));
}

}  // namespace
}  // namespace mooncake
