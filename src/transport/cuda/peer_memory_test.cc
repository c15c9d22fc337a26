#include "transport/cuda/peer_memory.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/test_support.h"
#include "gpu/cuda_memory.h"
#include "gpu/fake_cuda_driver.h"

namespace mooncake::cuda {
namespace {

using gpu::FakeCudaDriver;

constexpr std::uint64_t kBytes = 8192;

// A process with a GPU in use.
struct Process {
  Process() { EXPECT_EQ(*memory->Locate(at, kBytes), "cuda:0"); }
  const std::shared_ptr<FakeCudaDriver> driver = FakeCudaDriver::Make();
  std::byte* const at = driver->AllocateMemory(0, kBytes);
  const std::shared_ptr<DeviceMemory> memory = gpu::MakeCudaMemory(
      [driver = driver] { return Result<std::shared_ptr<gpu::CudaDriver>>(driver); });
  int imports() const { return driver->live_handles()["import"]; }
};

class Opening : public testing::Test {
 protected:
  pb::CudaExportReply::Region Told(std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces) {
    pb::CudaExportReply::Region told;
    const std::string handle = owner_.memory->Export(owner_.at, kBytes)->front().handle;
    for (const auto& [offset, length] : pieces) {
      pb::CudaPiece& piece = *told.add_pieces();
      piece.set_handle(handle);
      piece.set_offset(offset);
      piece.set_length_bytes(length);
    }
    return told;
  }
  Process owner_;
  Process user_;
};

TEST_F(Opening, PiecesFollowOneAnother) {
  const auto region = OpenedRegion::Open(*user_.memory, Told({{4096, 1000}, {0, 500}}), 1500);
  ASSERT_TRUE(Succeeds(region));
  std::uint64_t contiguous = 0;
  std::byte* const first = (*region)->At(0, contiguous);
  EXPECT_EQ(contiguous, 1000U);
  EXPECT_EQ((*region)->At(999, contiguous), first + 999);
  EXPECT_EQ(contiguous, 1U);
  const std::byte* const second = (*region)->At(1000, contiguous);
  EXPECT_EQ(contiguous, 500U);
  EXPECT_EQ((*region)->At(1499, contiguous), second + 499);
}

// Lengths that a peer says are data.
TEST_F(Opening, WhatIsNotTheRegionIsRefusedAndClosed) {
  using Pieces = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
  for (const Pieces& pieces : {Pieces{{0, 1499}}, Pieces{{0, 1501}}, Pieces{{0, 1000}, {0, 501}},
                               Pieces{{0, 1500}, {0, 0}}, Pieces{{kBytes - 1499, 1500}},
                               Pieces{{UINT64_MAX, 1500}}, Pieces{{0, 0}, {0, 1500}}}) {
    EXPECT_TRUE(
        FailsWith(OpenedRegion::Open(*user_.memory, Told(pieces), 1500), ErrorId::kBadFrame));
    EXPECT_EQ(user_.imports(), 0);
  }
}

TEST_F(Opening, ForgettingWaitsForWhoeverCopies) {
  PeerMemory memory;
  memory.Decide(RegionId{1}, *OpenedRegion::Open(*user_.memory, Told({{0, 10}}), 10));
  memory.Decide(RegionId{2}, nullptr);
  EXPECT_TRUE(memory.IsDecided(RegionId{2}));
  EXPECT_EQ(memory.Find(RegionId{2}), nullptr);
  std::shared_ptr<OpenedRegion> copying = memory.Find(RegionId{1});
  ASSERT_NE(copying, nullptr);
  std::thread forgetting([&] { memory.Forget(RegionId{1}); });
  while (!copying->forgotten) std::this_thread::yield();
  EXPECT_EQ(user_.imports(), 1);
  copying = nullptr;
  forgetting.join();
  EXPECT_EQ(user_.imports(), 0);
  EXPECT_FALSE(memory.IsDecided(RegionId{1}));
}

}  // namespace
}  // namespace mooncake::cuda
