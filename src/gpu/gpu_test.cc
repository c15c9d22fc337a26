#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <numeric>

#include "base/log.h"
#include "base/process_memory.h"
#include "base/test_support.h"
#include "gpu/cuda_memory.h"
#include "gpu/fake_cuda_driver.h"
#include "gpu/real_cuda_driver.h"

namespace mooncake::gpu {
namespace {

constexpr std::size_t kBytes = 64 << 10;

std::shared_ptr<DeviceMemory> MemoryOf(const std::shared_ptr<FakeCudaDriver>& driver) {
  return MakeCudaMemory([driver] { return Result<std::shared_ptr<CudaDriver>>(driver); });
}

// A process with a GPU whose memory is known.
class OneGpu : public testing::Test {
 protected:
  void SetUp() override {
    std::iota(reinterpret_cast<unsigned char*>(host_.data()),
              reinterpret_cast<unsigned char*>(host_.data() + host_.size()), 1);
    ASSERT_EQ(*memory_->Locate(gpu_, kBytes), "cuda:1");
  }
  std::span<std::byte> Seen() { return driver_->View(gpu_); }

  const std::shared_ptr<FakeCudaDriver> driver_ = FakeCudaDriver::Make({.devices = 2});
  const std::shared_ptr<DeviceMemory> memory_ = MemoryOf(driver_);
  std::byte* const gpu_ = driver_->AllocateMemory(1, kBytes);
  std::vector<std::byte> host_ = std::vector<std::byte>(kBytes);
};

TEST(RealCudaDriver, IsNotLookedForInAProcessThatHasNotLoadedIt) {
  const Result<std::shared_ptr<CudaDriver>> found = FindLoadedCudaDriver();
  ASSERT_TRUE(FailsWith(found, ErrorId::kMemoryKind));
  EXPECT_NE(found.error().context.find("libcuda"), std::string::npos);
  const std::shared_ptr<DeviceMemory> memory = MakeCudaMemory(FindLoadedCudaDriver);
  EXPECT_EQ(*memory->Locate(&found, 8), "");
  EXPECT_FALSE(memory->in_use());
  EXPECT_EQ(memory->Absence(), found.error().context);
  EXPECT_TRUE(TakeWarnings().empty());
}

TEST(DeviceMemory, WithoutAGpuAllMemoryIsTheHosts) {
  const std::shared_ptr<DeviceMemory> none = DeviceMemory::None();
  int value = 0;
  EXPECT_EQ(*none->Locate(&value, sizeof value), "");
  EXPECT_FALSE(none->Absence().empty());
  EXPECT_TRUE(FailsWith(none->MakeQueue("cuda:0"), ErrorId::kMemoryKind));
  EXPECT_EQ((*none->MakeStaging(100))->bytes().size(), 100U);
}

TEST_F(OneGpu, TheProcessorMayNotTouchIt) {
  std::byte byte{};
  const iovec here{&byte, 1};
  const iovec there{gpu_, 1};
  EXPECT_FALSE(ReadProcessMemory(::getpid(), {&here, 1}, {&there, 1}));
}

TEST_F(OneGpu, AddressesAreToldApart) {
  EXPECT_EQ(*memory_->Locate(host_.data(), host_.size()), "");
  EXPECT_EQ(*memory_->Locate(gpu_ + 100, 10), "cuda:1");
  EXPECT_EQ(*memory_->Locate(driver_->AllocateMemory(0, 10, FakeKind::kMapped), 10), "cuda:0");
  EXPECT_EQ(*memory_->Locate(driver_->AllocateMemory(0, 10, FakeKind::kManaged), 10), "");
  EXPECT_EQ(*memory_->Locate(driver_->AllocateMemory(0, 10, FakeKind::kPinned), 10), "");
  EXPECT_TRUE(FailsWith(memory_->Locate(gpu_, kBytes + 4096 * 1000), ErrorId::kBadRange));
}

TEST(CudaMemory, NothingIsAskedOfADriverThatTheApplicationHasNotInitialised) {
  const auto driver = FakeCudaDriver::Make({.initialized = false});
  const std::shared_ptr<DeviceMemory> memory = MemoryOf(driver);
  int value = 0;
  EXPECT_EQ(*memory->Locate(&value, sizeof value), "");
  EXPECT_FALSE(memory->in_use());
  EXPECT_EQ(driver->live_handle_count(), 0);
}

TEST_F(OneGpu, CopiesBothWaysAndWithin) {
  std::byte* const other = driver_->AllocateMemory(0, kBytes);
  std::vector<std::byte> back(kBytes);
  const auto queue = *memory_->MakeQueue("cuda:1");
  ASSERT_TRUE(Succeeds(queue->ToGpu(gpu_, host_.data(), kBytes)));
  ASSERT_TRUE(Succeeds(queue->WithinGpus(other, gpu_, kBytes)));
  ASSERT_TRUE(Succeeds(queue->ToHost(back.data(), other, kBytes)));
  EXPECT_FALSE(*queue->IsDone());
  ASSERT_TRUE(Succeeds(queue->Finish()));
  EXPECT_TRUE(*queue->IsDone());
  EXPECT_EQ(back, host_);
}

TEST_F(OneGpu, PlacesOfEitherKindAreCopied) {
  std::byte* const other = driver_->AllocateMemory(0, kBytes);
  std::vector<std::byte> back(kBytes);
  const std::vector<Place> places = {
      {host_.data(), false}, {gpu_, true}, {other, true}, {back.data(), false}};
  for (std::size_t i = 1; i < places.size(); ++i) {
    const auto queue = *memory_->MakeQueue("cuda:1");
    ASSERT_TRUE(Succeeds(queue->Add(places[i], places[i - 1], kBytes)));
    ASSERT_TRUE(Succeeds(queue->Finish()));
  }
  EXPECT_EQ(back, host_);
  std::fill(back.begin(), back.end(), std::byte{0});
  ASSERT_TRUE(Succeeds((*memory_->MakeQueue(""))->Add(places[3], places[0], kBytes)));
  EXPECT_EQ(back, host_);
}

TEST_F(OneGpu, MemoryThatWasFreedIsRefusedInWords) {
  const auto queue = *memory_->MakeQueue("cuda:1");
  driver_->FreeMemory(gpu_);
  const Status copied = queue->ToHost(host_.data(), gpu_, 10);
  ASSERT_TRUE(FailsWith(copied, ErrorId::kBadRange));
  EXPECT_NE(copied.error().context.find("freed"), std::string::npos);
}

TEST_F(OneGpu, AnotherProcessOpensWhatIsExported) {
  const auto other = FakeCudaDriver::Make();
  const std::shared_ptr<DeviceMemory> there = MemoryOf(other);
  EXPECT_TRUE(FailsWith(there->Import("x"), ErrorId::kMemoryKind)) << "it uses no GPU";
  ASSERT_EQ(*there->Locate(other->AllocateMemory(0, 10), 10), "cuda:0");
  const auto pieces = *memory_->Export(gpu_ + 100, 1000);
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_EQ(pieces[0].offset, 100U);
  EXPECT_EQ(pieces[0].length_bytes, 1000U);
  {
    const auto opened = *there->Import(pieces[0].handle);
    EXPECT_EQ(opened->bytes().size(), kBytes);
    EXPECT_NE(opened->bytes().data(), gpu_);
    const auto queue = *there->MakeQueue("cuda:0");
    ASSERT_TRUE(Succeeds(queue->ToGpu(opened->bytes().data() + 100, host_.data(), 1000)));
    ASSERT_TRUE(Succeeds(queue->Finish()));
  }
  EXPECT_EQ(std::memcmp(Seen().data() + 100, host_.data(), 1000), 0);
  EXPECT_EQ(other->live_handles()["import"], 0);
  EXPECT_TRUE(FailsWith(there->Import(std::string(64, 'x')), ErrorId::kMemoryKind));
}

TEST_F(OneGpu, AForkedProcessWritesIntoWhatItOpens) {
  const std::string handle = memory_->Export(gpu_, kBytes)->front().handle;
  const pid_t child = ::fork();
  if (child == 0) {
    const auto other = FakeCudaDriver::Make();
    const auto there = MemoryOf(other);
    static_cast<void>(there->Locate(other->AllocateMemory(0, 1), 1));
    const auto opened = there->Import(handle);
    const auto queue = there->MakeQueue("");
    const bool copied = opened && queue &&
                        (*queue)->ToGpu((*opened)->bytes().data(), host_.data(), kBytes) &&
                        (*queue)->Finish();
    ::_exit(copied ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(std::memcmp(Seen().data(), host_.data(), kBytes), 0);
}

TEST_F(OneGpu, MemoryThatWasMappedPieceByPieceIsNotExported) {
  std::byte* const mapped = driver_->AllocateMemory(1, kBytes, FakeKind::kMapped);
  ASSERT_EQ(*memory_->Locate(mapped, kBytes), "cuda:1");
  EXPECT_TRUE(FailsWith(memory_->Export(mapped, kBytes), ErrorId::kMemoryKind));
}

TEST_F(OneGpu, ADeviceReachesItThroughADmabuf) {
  std::memcpy(Seen().data(), host_.data(), kBytes);
  const Result<Dmabuf> dmabuf = memory_->ExportDmabuf(gpu_ + 100, 8192);
  ASSERT_TRUE(Succeeds(dmabuf));
  EXPECT_EQ(dmabuf->offset, 100U);
  std::byte byte{};
  ASSERT_EQ(::pread(dmabuf->descriptor.get(), &byte, 1, 100), 1);
  EXPECT_EQ(byte, host_[100]);
  const auto old = FakeCudaDriver::Make({.dmabuf = false});
  const auto memory = MemoryOf(old);
  std::byte* const at = old->AllocateMemory(0, 10);
  ASSERT_EQ(*memory->Locate(at, 10), "cuda:0");
  EXPECT_TRUE(FailsWith(memory->ExportDmabuf(at, 10), ErrorId::kMemoryKind));
}

// Everything that is asked of the driver, once.
Status UseAll(FakeCudaDriver& driver, DeviceMemory& memory, std::byte* gpu) {
  std::vector<std::byte> host(100);
  MC_TRY_STATUS(memory.Locate(gpu, 100));
  MC_TRY(const auto staging, memory.MakeStaging(100));
  MC_TRY(const auto buffer, memory.Allocate(100));
  MC_TRY(const auto queue, memory.MakeQueue("cuda:0"));
  MC_TRY_STATUS(queue->ToGpu(gpu, host.data(), 100));
  MC_TRY_STATUS(queue->WithinGpus(buffer->bytes().data(), gpu, 100));
  MC_TRY_STATUS(queue->ToHost(staging->bytes().data(), gpu, 100));
  MC_TRY_STATUS(queue->IsDone());
  MC_TRY_STATUS(queue->Finish());
  MC_TRY(const auto pieces, memory.Export(gpu, 100));
  MC_TRY(const auto opened, memory.Import(pieces.front().handle));
  MC_TRY_STATUS(memory.ExportDmabuf(gpu, 100));
  return driver.live_handle_count() == 5 ? Status() : Fail(ErrorId::kInternal, "handles");
}

TEST(CudaMemory, WhicheverCallFailsNoHandleIsLeft) {
  for (const std::string& call : FakeCudaDriver::Calls()) {
    SCOPED_TRACE(call);
    for (int nth = 1;; ++nth) {
      SCOPED_TRACE(nth);
      const auto driver = FakeCudaDriver::Make();
      std::byte* const gpu = driver->AllocateMemory(0, 100);
      driver->FailCall(call, nth);
      const Status used = UseAll(*driver, *MemoryOf(driver), gpu);
      EXPECT_EQ(driver->live_handle_count(), 0);
      if (!driver->HasFailed()) {
        EXPECT_TRUE(Succeeds(used));
        ASSERT_GT(nth, 1) << "it is called by nobody";
        break;
      }
      const bool may_be = call == "PointerSetAttribute" || nth > 1;  // also while it is released
      const bool one_of = !used && (used.error().id == ErrorId::kGpuCall ||
                                    used.error().id == ErrorId::kMemoryKind);
      EXPECT_TRUE(one_of || (may_be && used)) << (used ? "" : used.error().Text());
    }
  }
}

}  // namespace
}  // namespace mooncake::gpu
