#include "transport/rdma/request_cutter.h"

#include <gtest/gtest.h>

#include "base/await.h"
#include "base/real_world.h"
#include "base/test_support.h"
#include "transport/rdma/fake_verbs.h"

namespace mooncake::rdma {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kChunkBytes = 8192;
constexpr std::uint64_t kRemoteBase = 0x10000;
constexpr RegionId kRemote{5};
constexpr RequestLimits kLimits{0, 0, 4, 1 << 20};

// Three chunks here and three there.
class RequestCutter : public testing::Test {
 protected:
  void SetUp() override {
    Result<std::shared_ptr<RdmaDevice>> device = RdmaDevice::Open(*verbs_, "fake0", 0, {});
    ASSERT_TRUE(Succeeds(device));
    memory_ = std::make_shared<RdmaMemory>(real_.world(), metrics_, std::vector{*device},
                                           DeviceMemory::None(), RdmaOptions{});
    regions_ = std::make_unique<PathRegions>(memory_);
    RegionInfo info;
    info.id = RegionId{1};
    info.base = reinterpret_cast<std::uint64_t>(local_.data());
    info.length_bytes = local_.size();
    memory_->Offer(info);
    const RegisteredRegionPtr offered = memory_->Find(info.id);
    ASSERT_TRUE(Becomes([&offered] { return offered->is_settled(); }, 5s));
    RemoteRegion remote{kRemoteBase, 3 * kChunkBytes, kChunkBytes, {{70, 71, 72}}};
    regions_->AddRemote(kRemote, std::make_shared<RemoteRegion>(std::move(remote)));
  }
  void TearDown() override {
    memory_->Close();
    regions_ = nullptr;
    memory_ = nullptr;
    real_.Stop();
  }
  // All requests of the slices, until one cannot be made.
  std::vector<Request> Cut(const std::vector<Slice>& slices,
                           const RequestLimits& limits = kLimits) {
    Transfer transfer;
    transfer.slices = slices;
    Range rest;
    for (const Slice& slice : slices) rest.length_bytes += slice.length_bytes;
    RegionCursor cursor;
    std::vector<Request> requests;
    while (rest.length_bytes > 0) {
      Request request;
      if (!CutRequest(*regions_, transfer, limits, cursor, rest, request)) break;
      requests.push_back(request);
    }
    return requests;
  }
  Slice At(std::uint64_t local, std::uint64_t remote, std::uint64_t length) {
    return {local_.data() + local, kRemote, remote, length};
  }

  RealWorld real_;
  Metrics metrics_;
  std::shared_ptr<FakeVerbs> verbs_ = FakeVerbs::Make({.registration_bytes_max = kChunkBytes});
  std::vector<std::byte> local_ = std::vector<std::byte>(3 * kChunkBytes);
  std::shared_ptr<RdmaMemory> memory_;
  std::unique_ptr<PathRegions> regions_;
};

TEST_F(RequestCutter, JoinsWhatTouchesOnBothSides) {
  const std::vector<Request> cut = Cut({At(0, 100, 50), At(50, 150, 0), At(50, 150, 25)});
  ASSERT_EQ(cut.size(), 1U);
  EXPECT_EQ(cut[0].work.num_sge, 1);
  EXPECT_EQ(cut[0].entries[0].length, 75U);
  EXPECT_EQ(cut[0].work.wr.rdma.remote_addr, kRemoteBase + 100);
  EXPECT_EQ(cut[0].work.wr.rdma.rkey, 70U);
}

TEST_F(RequestCutter, GathersWhatTouchesAtThePeerAlone) {
  const std::vector<Request> cut =
      Cut({At(0, 0, 10), At(100, 10, 10), At(50, 20, 10), At(200, 30, 10), At(300, 40, 10)});
  ASSERT_EQ(cut.size(), 2U);  // four entries fit into one
  EXPECT_EQ(cut[0].work.num_sge, 4);
  EXPECT_EQ(cut[0].piece.range.length_bytes, 40U);
  EXPECT_EQ(cut[1].piece.range.slice, 4U);
  EXPECT_EQ(Cut({At(0, 0, 10), At(100, 11, 10)}).size(), 2U);
}

TEST_F(RequestCutter, EndsAtTheChunksOfEitherSide) {
  // Here a chunk ends after 192 bytes, there after 292.
  const std::vector<Request> cut = Cut({At(8000, 7900, 1000)});
  ASSERT_EQ(cut.size(), 2U);
  EXPECT_EQ(cut[0].work.num_sge, 2);  // one range there, of two registrations here
  EXPECT_EQ(cut[0].entries[0].length, 192U);
  EXPECT_EQ(cut[0].entries[1].length, 100U);
  EXPECT_NE(cut[0].entries[0].lkey, cut[0].entries[1].lkey);
  EXPECT_EQ(cut[0].work.wr.rdma.rkey, 70U);
  EXPECT_EQ(cut[1].work.wr.rdma.rkey, 71U);
  EXPECT_EQ(cut[1].work.wr.rdma.remote_addr, kRemoteBase + kChunkBytes);
  EXPECT_EQ(cut[1].piece.range.length_bytes, 708U);
}

TEST_F(RequestCutter, IsNoLongerThanALimit) {
  RequestLimits limits = kLimits;
  limits.length_bytes_max = 100;
  const std::vector<Request> cut = Cut({At(0, 0, 250)}, limits);
  ASSERT_EQ(cut.size(), 3U);
  EXPECT_EQ(cut[2].piece.range.offset, 200U);
  EXPECT_EQ(cut[2].piece.range.length_bytes, 50U);
}

TEST_F(RequestCutter, CutsAWholeSliceThatIsOneRequestAsItWouldCutItInParts) {
  WholeCutter cutter;
  const auto cut_whole = [this, &cutter](const Slice& slice, Request& request,
                                         RequestLimits limits = kLimits) {
    Transfer transfer;
    transfer.slices = std::span(&slice, 1);
    return cutter.Cut(*regions_, transfer, limits, request);
  };
  Request whole;
  ASSERT_TRUE(cut_whole(At(8300, 8200, 1000), whole));
  const std::vector<Request> parts = Cut({At(8300, 8200, 1000)});
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(whole.work.num_sge, 1);
  EXPECT_EQ(whole.entries[0].addr, parts[0].entries[0].addr);
  EXPECT_EQ(whole.entries[0].length, parts[0].entries[0].length);
  EXPECT_EQ(whole.entries[0].lkey, parts[0].entries[0].lkey);
  EXPECT_EQ(whole.work.wr.rdma.remote_addr, parts[0].work.wr.rdma.remote_addr);
  EXPECT_EQ(whole.work.wr.rdma.rkey, parts[0].work.wr.rdma.rkey);
  EXPECT_EQ(whole.piece.range.length_bytes, 1000U);

  EXPECT_FALSE(cut_whole(At(8000, 0, 193), whole));  // beyond a chunk here,
  EXPECT_FALSE(cut_whole(At(0, 8000, 193), whole));  // or there
  EXPECT_FALSE(cut_whole(At(0, 0, 101), whole, {0, 0, 4, 100}));
  Slice unknown = At(100, 0, 10);
  unknown.region = RegionId{99};
  EXPECT_FALSE(cut_whole(unknown, whole));
}

TEST_F(RequestCutter, CutsAWholeSliceWithTheKeysOfItsRegionAsItIsNow) {
  constexpr RegionId kOther{6};
  const auto offer = [this](RegionId id, std::uint32_t key) {
    RemoteRegion remote{kRemoteBase, kChunkBytes, kChunkBytes, {{key}}};
    regions_->AddRemote(id, std::make_shared<RemoteRegion>(std::move(remote)));
  };
  WholeCutter cutter;
  Slice slice = At(100, 0, 10);
  // 0: it is not cut.
  const auto key_of = [&](RegionId id) {
    slice.region = id;
    Transfer transfer;
    transfer.slices = std::span(&slice, 1);
    Request request;
    return cutter.Cut(*regions_, transfer, kLimits, request) ? request.work.wr.rdma.rkey : 0;
  };
  EXPECT_EQ(key_of(kRemote), 70U);
  offer(kOther, 80);
  EXPECT_EQ(key_of(kOther), 80U);
  EXPECT_EQ(key_of(kRemote), 70U);
  offer(kRemote, 90);
  EXPECT_EQ(key_of(kRemote), 90U);
  regions_->DropRemote(kRemote);
  EXPECT_EQ(key_of(kRemote), 0U);
  EXPECT_EQ(key_of(kOther), 80U);
  Await(real_.world().control, memory_->Withdraw(RegionId{1}));
  EXPECT_EQ(key_of(kOther), 0U);
}

TEST_F(RequestCutter, StopsWhereNothingIsRegistered) {
  Slice unknown = At(100, 0, 10);
  unknown.region = RegionId{99};
  EXPECT_EQ(Cut({At(0, 0, 10), unknown}).size(), 1U);
  EXPECT_TRUE(Cut({unknown}).empty());
}

}  // namespace
}  // namespace mooncake::rdma
