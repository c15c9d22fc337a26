#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "engine/test_node.h"
#include "gpu/cuda_memory.h"
#include "gpu/fake_cuda_driver.h"
#include "transport/data_frames.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

// Whose processors all have something to do, beside which a thread that runs only when nobody else
// does hardly runs at all.
class BusyMachine {
 public:
  BusyMachine() {
    for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i) {
      threads_.emplace_back([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
    }
  }
  ~BusyMachine() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

TEST(EngineMemory, IsGivenBackSoonThoughNobodyHasPopulatedItYet) {
  RealWorld real;
  FakeWire wire;
  Node node(real.world(), wire, "a", "any");
  const BusyMachine busy;
  const Result<RegionInfo> region = node.engine().Allocate("large", 512 << 20);
  ASSERT_TRUE(Succeeds(region));
  const Result<RegionInfo> another = node.engine().Allocate("another", 512 << 20);
  ASSERT_TRUE(Succeeds(another));
  const Instant begin = real.world().clock.Now();
  EXPECT_TRUE(Succeeds(node.engine().Unregister(region->id)));
  node.Stop();
  // Typically tenths of a second; as long as it takes to populate all of it would be minutes.
  EXPECT_LT(real.world().clock.Now() - begin, 20s);
}

// Bytes that changed on their way are refused, whoever sends them, and the connection goes on.
class FrameServer : public testing::TestWithParam<std::string> {};

TEST_P(FrameServer, RefusesAFrameWhoseChecksumIsWrong) {
  RealWorld real;
  World& world = real.world();
  FakeWire wire;
  Node node(world, wire, "b", GetParam());
  std::vector<std::byte> memory(8192);
  const Result<RegionInfo> region = node.engine().Register(memory.data(), memory.size());
  ASSERT_TRUE(Succeeds(region));
  RunOn(world, [&]() -> Task<void> {
    const Instant limit = After(world.clock.Now(), 5s);
    Introduction caller{{.id = {9, 9}, .label = "caller"}, "default", {}};
    auto dial = Dial(world, world.control, *ParseEndpoint(node.address()), std::move(caller),
                     GetParam(), {}, limit);
    Result<Handshake> handshake = co_await std::move(dial);
    EXPECT_TRUE(Succeeds(handshake));
    if (!handshake) co_return;
    BufferedReader& reader = *handshake->reader;
    for (const std::size_t length :
         {std::size_t{100}, std::size_t{4096}}) {  // both ways to receive
      const std::vector<std::byte> payload(length, std::byte{7});
      DataBody list;
      list.regions = {
          {static_cast<std::uint64_t>(region->id), static_cast<std::uint64_t>(region->key)}};
      list.ranges = {{0, static_cast<std::uint32_t>(length), 0}};
      const std::uint32_t right = CopyEngine::Plain().Crc32c(payload.data(), payload.size(), 0);
      for (const bool corrupt : {true, false}) {
        list.payload_crc32c = corrupt ? right + 1 : right;
        const std::string body = Encode(list);
        FrameHeader header;
        header.kind = FrameKind::kWrite;
        header.id = 1;
        auto write = WriteFrame(reader.stream(), header, AsBytes(body), payload);
        EXPECT_TRUE(Succeeds(co_await std::move(write)));
        auto read = reader.ReadFrame();
        const Result<Frame> answer = co_await std::move(read);
        EXPECT_TRUE(Succeeds(answer));
        if (!answer) co_return;
        EXPECT_EQ(answer->header.kind, corrupt ? FrameKind::kDataFailure : FrameKind::kAck);
      }
    }
  });
  EXPECT_EQ(memory[4095], std::byte{7});
}

INSTANTIATE_TEST_SUITE_P(Each, FrameServer, testing::Values("tcp", "cuda"),
                         [](const auto& info) { return info.param; });

std::shared_ptr<DeviceMemory> MemoryOf(const std::shared_ptr<gpu::FakeCudaDriver>& driver) {
  return gpu::MakeCudaMemory([driver] { return Result<std::shared_ptr<gpu::CudaDriver>>(driver); });
}

// The contract of every way to move bytes, over each transport alone and over all of them together:
// "any".
class PathContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (OnGpus()) {
      source_at_ = a_gpu_->AllocateMemory(0, kBytes);
      source_ = a_gpu_->View(source_at_);
    }
    Count(source_);
    ASSERT_TRUE(Succeeds(a_->engine().Register(source_at_, source_.size())));
    ASSERT_TRUE(Succeeds(MakeTarget()));
    Result<PeerPtr> peer = a_->engine().ConnectNow(b_->address(), In(5s));
    ASSERT_TRUE(Succeeds(peer));
    peer_ = *peer;
    ASSERT_EQ(peer_->ListedRegions().size(), 1U);
    region_ = peer_->ListedRegions()[0];
  }
  void TearDown() override {
    a_->Stop();
    b_->Stop();
    real_.Stop();
  }
  // Over "cuda" the memory of both sides is a GPU's, but for what is registered later.
  static bool OnGpus() { return GetParam().starts_with("cuda"); }
  static std::string Transports() { return OnGpus() ? "cuda" : GetParam(); }
  std::unique_ptr<Node> MakeNode(const std::string& label,
                                 const std::shared_ptr<gpu::FakeCudaDriver>& gpus,
                                 std::uint16_t port = 0) {
    return std::make_unique<Node>(world_, wire_, label, Transports(), port, AnyRdma(),
                                  MemoryOf(gpus));
  }
  Status MakeTarget() {
    if (OnGpus()) {
      std::byte* const target = b_gpu_->AllocateMemory(0, kBytes);
      target_ = b_gpu_->View(target);
      MC_TRY_STATUS(b_->engine().Register(target, kBytes));
      return {};
    }
    // Mappable: every transport can carry it.
    MC_TRY(const RegionInfo target, b_->engine().Allocate("target", kBytes));
    target_ = {reinterpret_cast<std::byte*>(target.base), kBytes};
    return {};
  }
  static void Count(std::span<std::byte> bytes) {
    auto* const begin = reinterpret_cast<unsigned char*>(bytes.data());
    std::iota(begin, begin + bytes.size(), 1);
  }
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }
  Status Move(Direction direction, std::vector<Copy> copies, Duration timeout = 10s) {
    return a_->engine().Run(peer_, direction, copies, {.deadline = In(timeout)});
  }

  RealWorld real_;
  World& world_ = real_.world();
  static constexpr std::size_t kBytes = 8 << 20;
  const gpu::FakeGpus gpus_{.ipc = GetParam() == "cuda"};
  const std::shared_ptr<gpu::FakeCudaDriver> a_gpu_ = gpu::FakeCudaDriver::Make(gpus_);
  const std::shared_ptr<gpu::FakeCudaDriver> b_gpu_ = gpu::FakeCudaDriver::Make(gpus_);
  // The addresses that transfers name, and the same memory as the test may touch it.
  std::vector<std::byte> host_ = std::vector<std::byte>(kBytes);
  std::byte* source_at_ = host_.data();
  std::span<std::byte> source_ = host_;
  std::span<std::byte> target_;
  FakeWire wire_;
  std::unique_ptr<Node> a_ = MakeNode("a", a_gpu_);
  std::unique_ptr<Node> b_ = MakeNode("b", b_gpu_);
  PeerPtr peer_;
  RegionInfo region_;
};

TEST_P(PathContract, WritesAndReadsOfEverySize) {
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{63}, std::uint64_t{4096},
        std::uint64_t{100'001}, std::uint64_t{5 << 20}}) {
    std::fill(target_.begin(), target_.end(), std::byte{0});
    ASSERT_TRUE(Succeeds(Move(Direction::kWrite, {{source_at_ + 3, region_.id, 5, length}})))
        << length;
    EXPECT_TRUE(std::equal(source_.begin() + 3, source_.begin() + 3 + static_cast<long>(length),
                           target_.begin() + 5))
        << length;
    EXPECT_EQ(target_[5 + length], std::byte{0});
    std::fill(source_.begin(), source_.end(), std::byte{9});
    ASSERT_TRUE(Succeeds(Move(Direction::kRead, {{source_at_, region_.id, 5, length}})));
    EXPECT_TRUE(std::equal(source_.begin(), source_.begin() + static_cast<long>(length),
                           target_.begin() + 5))
        << length;
    EXPECT_EQ(source_[length], std::byte{9});
    Count(source_);
  }
}

TEST_P(PathContract, ABatchOfAHundredThousandRanges) {
  std::vector<Copy> copies;
  for (std::uint64_t i = 0; i < 65536; ++i)
    copies.push_back({source_at_ + i * 128, region_.id, (65535 - i) * 128, 128});
  ASSERT_TRUE(Succeeds(Move(Direction::kWrite, copies)));
  for (std::uint64_t i = 0; i < 65536; ++i) {
    ASSERT_TRUE(std::equal(source_.begin() + static_cast<long>(i * 128),
                           source_.begin() + static_cast<long>(i * 128 + 128),
                           target_.begin() + static_cast<long>((65535 - i) * 128)));
  }
  const std::vector<std::byte> before(source_.begin(), source_.end());
  std::fill(source_.begin(), source_.end(), std::byte{0});
  ASSERT_TRUE(Succeeds(Move(Direction::kRead, copies)));
  EXPECT_TRUE(std::equal(source_.begin(), source_.end(), before.begin()));
}

TEST_P(PathContract, WrongRangesAreRefusedAndChangeNothing) {
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_at_, region_.id, target_.size() - 1, 2}}),
                        ErrorId::kOutOfRegion));
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_at_, RegionId{77}, 0, 2}}),
                        ErrorId::kRegionUnknown));
  std::byte unregistered[8] = {};
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{unregistered, region_.id, 0, 2}}),
                        ErrorId::kNotRegistered));
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_at_ + source_.size() - 1, region_.id, 0, 2}}),
                ErrorId::kNotRegistered));
  EXPECT_EQ(std::count(target_.begin(), target_.end(), std::byte{0}),
            static_cast<long>(target_.size()));
}

TEST_P(PathContract, ARegionKeyIsNeeded) {
  if (GetParam() == "cma")
    GTEST_SKIP() << "the kernel asks for the right to debug the process, not for a key";
  const auto other = b_->engine().Allocate("other", 4096, {.listed = false});
  ASSERT_TRUE(Succeeds(other));
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_at_, other->id, 0, 2}}), ErrorId::kRegionUnknown));
  RegionInfo forged = *other;
  forged.key = RegionKey{static_cast<std::uint64_t>(forged.key) ^ 1};
  peer_->AddRegion(forged);
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_at_, other->id, 0, 2}}), ErrorId::kBadRegionKey));
  ASSERT_TRUE(Succeeds(b_->engine().Unregister(other->id)));
}

TEST_P(PathContract, ARegionThatIsRegisteredAfterTheHandShakeIsFound) {
  const auto later = b_->engine().Allocate("later", 4096);
  ASSERT_TRUE(Succeeds(later));
  EXPECT_TRUE(Succeeds(Move(Direction::kWrite, {{source_at_, later->id, 1, 100}})));
  EXPECT_EQ(std::memcmp(source_.data(), reinterpret_cast<std::byte*>(later->base) + 1, 100), 0);
}

TEST_P(PathContract, ABatchIsWaitedForPolledAwaitedAndCalledBack) {
  const auto submit = [this] {
    return a_->engine().Submit(peer_, Direction::kWrite, {{source_at_, region_.id, 0, 1 << 20}},
                               {.deadline = In(5s)});
  };
  EXPECT_TRUE(Succeeds(submit()->Wait()));
  const std::shared_ptr<Batch> polled = submit();
  while (!polled->Poll()) std::this_thread::yield();
  EXPECT_TRUE(Succeeds(*polled->Poll()));
  if (GetParam() != "any") {
    EXPECT_EQ(polled->transport(), Transports());
  }
  std::promise<void> called;
  submit()->OnDone([&called](const Status& status) {
    EXPECT_TRUE(Succeeds(status));
    called.set_value();
  });
  called.get_future().wait();
  RunOn(world_, [&]() -> Task<void> {
    const auto batch = submit();
    const Status done = co_await batch->Done();
    EXPECT_TRUE(Succeeds(done));
  });
}

TEST_P(PathContract, ABatchOfAReadyPathDoesNotWaitForTheControlLoop) {
  const std::vector<Copy> copies = {{source_at_, region_.id, 5, 1 << 20}};
  ASSERT_TRUE(Succeeds(Move(Direction::kWrite, copies)));  // and it is prepared
  std::promise<void> let_go;
  Post(world_.control, [held = let_go.get_future().share()] { held.wait(); });
  const auto batch = a_->engine().Submit(peer_, Direction::kRead, copies, {.deadline = In(20s)});
  const bool has_ended = Becomes([&batch] { return batch->Poll().has_value(); }, 5s);
  let_go.set_value();
  EXPECT_TRUE(has_ended);
  EXPECT_TRUE(Succeeds(batch->Wait()));
}

TEST_P(PathContract, MemoryIsNotGivenBackWhileABatchUsesIt) {
  const Result<RegionInfo> source = a_->engine().regions()->FindBase(source_at_);
  ASSERT_TRUE(Succeeds(source));
  // As many as take so long on this machine that they are on their way when it is unregistered.
  std::vector<Copy> copies(1, {source_at_, region_.id, 0, 4 << 20});
  for (Duration took{}; took < 30ms && copies.size() < 256;) {
    copies.resize(2 * copies.size(), copies.front());
    const Instant begin = In(0s);
    ASSERT_TRUE(Succeeds(Move(Direction::kWrite, copies)));
    took = In(0s) - begin;
  }
  const auto batch = a_->engine().Submit(peer_, Direction::kWrite, copies, {.deadline = In(20s)});
  ASSERT_TRUE(Succeeds(a_->engine().Unregister(source->id)));
  EXPECT_TRUE(batch->Poll().has_value());
  EXPECT_TRUE(Succeeds(batch->Wait()));
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_at_, region_.id, 0, 1}}),
                        ErrorId::kNotRegistered));
}

TEST_P(PathContract, NotificationsArriveOnceAndAfterTheBytes) {
  for (int i = 0; i < 10; ++i) {
    const auto batch = a_->engine().Submit(
        peer_, Direction::kWrite, {{source_at_, region_.id, 0, 1000}},
        {.deadline = In(5s), .notify = std::pair{std::string("done"), std::to_string(i)}});
    ASSERT_TRUE(Succeeds(batch->Wait()));
  }
  const std::vector<Notification> got = b_->engine().TakeNotifications();
  ASSERT_EQ(got.size(), 10U);
  EXPECT_EQ(got[9].message, "9");
  EXPECT_EQ(got[0].sender, a_->engine().identity().id);
  EXPECT_TRUE(b_->engine().TakeNotifications().empty());
  const Counter& messages = a_->metrics().AddCounter("mooncake_rdma_sent_messages_total", "");
  const std::uint64_t expected = std::string(GetParam()) == "rdma" ? 10 : messages.value();
  EXPECT_EQ(messages.value(), expected);
}

TEST_P(PathContract, ADeadPeerFailsAtOnceAndItsSuccessorIsAnotherPeer) {
  const std::uint16_t port = b_->port();
  b_->Stop();
  const Instant begin = world_.clock.Now();
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_at_, region_.id, 0, 100}}), ErrorId::kPeerGone));
  EXPECT_LT(world_.clock.Now() - begin, 2s);
  const std::unique_ptr<Node> successor = MakeNode("b", b_gpu_, port);
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_at_, region_.id, 0, 100}}), ErrorId::kPeerGone));
  const Result<PeerPtr> again = a_->engine().ConnectNow(b_->address(), In(5s));
  ASSERT_TRUE(Succeeds(again));
  EXPECT_NE((*again)->identity().id, peer_->identity().id);
  a_->Stop();
}

TEST_P(PathContract, AnUnregisteredRegionIsNotTouchedAnyMore) {
  ASSERT_TRUE(Succeeds(b_->engine().Unregister(region_.id)));
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_at_, region_.id, 0, 100}}),
                        ErrorId::kRegionUnknown));
  EXPECT_TRUE(FailsWith(b_->engine().Unregister(region_.id), ErrorId::kRegionUnknown));
}

TEST_P(PathContract, CancelledAndLateBatchesEnd) {
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_at_, region_.id, 0, 100}}, -1s),
                        ErrorId::kDeadline));
  const auto batch = a_->engine().Submit(
      peer_, Direction::kWrite, {{source_at_, region_.id, 0, 8 << 20}}, {.deadline = In(5s)});
  batch->Cancel();
  const Status status = batch->Wait();
  EXPECT_TRUE(status || status.error().id == ErrorId::kCancelled);
}

TEST_P(PathContract, FourThreadsAtOnce) {
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 50; ++i) {
        const std::uint64_t offset = t << 20;
        EXPECT_TRUE(Succeeds(
            Move(Direction::kWrite, {{source_at_ + offset, region_.id, offset, 200'000}})));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(std::equal(source_.begin() + (3 << 20), source_.begin() + (3 << 20) + 200'000,
                         target_.begin() + (3 << 20)));
  const std::vector<PathRow> paths = a_->engine().Paths();
  std::uint64_t transfers = 0;
  for (const PathRow& path : paths) {
    EXPECT_TRUE(path.usable) << path.transport << ": " << path.reason;
    transfers += path.transfers;
  }
  EXPECT_EQ(transfers, 200U);
}

INSTANTIATE_TEST_SUITE_P(Each, PathContract,
                         testing::Values("fake", "shm", "ring", "cma", "tcp", "rdma", "cuda",
                                         "cuda_staged", "any"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mooncake
