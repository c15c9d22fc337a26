#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "base/test_loop.h"
#include "base/test_support.h"
#include "directory/p2p/p2p_directory.h"
#include "transport/cma/cma_transport.h"
#include "transport/fake/fake_transport.h"
#include "transport/shm/shm_transport.h"
#include "transport/tcp/tcp_frames.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

// An engine with its port, as one process has it.
class Node {
 public:
  Node(World& world, FakeWire& wire, std::string label, const std::string& transport,
       std::uint16_t port = 0)
      : world_(world) {
    directory_ = MakeP2pDirectory(world);
    port_ = std::make_shared<PortServer>(world, metrics_, PortServerOptions{});
    Identity identity{world.random.DrawInstanceId(), 1, std::move(label), world.network.host(),
                      "test"};
    engine_ = std::make_unique<Engine>(
        world, metrics_, port_, *directory_, identity,
        EngineOptions{.transports = transport == "any" ? std::vector<std::string>{}
                                                       : std::vector{transport}});
    auto mapped = MakeShmTransports(world, identity.id, engine_->regions(), CopyEngine::Plain());
    EXPECT_TRUE(Succeeds(mapped));
    for (auto& one : *mapped) engine_->AddTransport(std::move(one));
    engine_->AddTransport(MakeCmaTransport(world, identity.id));
    // Not part of "any": nothing that people run has it.
    if (transport == "fake")
      engine_->AddTransport(MakeFakeTransport(world, wire, identity.id, engine_->regions(), {}));
    engine_->AddTransport(MakeTcpTransport(
        world, metrics_, engine_->regions(), CopyEngine::Plain(),
        [this] { return engine_->Introduce(); }, TcpOptions{}));
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::LoopbackV4(), port});
    EXPECT_TRUE(Succeeds(listener));
    at_ = (*listener)->bound();
    std::shared_ptr<Listener> shared = std::move(*listener);
    RunOn(world, [&]() -> Task<void> {
      engine_->Start();
      port_->Serve(shared);
      co_return;
    });
  }
  ~Node() { Stop(); }
  void Stop() {
    if (!engine_) return;
    Hang();
    engine_ = nullptr;
  }
  // As a crash looks from outside: the port and every connection are gone.
  void Hang() {
    RunOn(world_, [this]() -> Task<void> {
      port_->Close(Error{ErrorId::kClosed, "the node stops"});
      co_return;
    });
  }
  Engine& engine() { return *engine_; }
  std::string address() const { return ToString(at_); }
  std::uint16_t port() const { return at_.port; }

 private:
  World& world_;
  Metrics metrics_;
  std::unique_ptr<Directory> directory_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
  Endpoint at_;
};

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
TEST(TcpServer, RefusesAFrameWhoseChecksumIsWrong) {
  RealWorld real;
  World& world = real.world();
  FakeWire wire;
  Node node(world, wire, "b", "tcp");
  std::vector<std::byte> memory(8192);
  const Result<RegionInfo> region = node.engine().Register(memory.data(), memory.size());
  ASSERT_TRUE(Succeeds(region));
  RunOn(world, [&]() -> Task<void> {
    const Instant limit = After(world.clock.Now(), 5s);
    Introduction caller{{.id = {9, 9}, .label = "caller"}, "default", {}};
    auto dial = Dial(world, world.control, *ParseEndpoint(node.address()), std::move(caller), "tcp",
                     {}, limit);
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

// The contract of every way to move bytes, over each transport alone and over all of them together:
// "any".
class PathContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::iota(reinterpret_cast<unsigned char*>(source_.data()),
              reinterpret_cast<unsigned char*>(source_.data() + source_.size()), 1);
    ASSERT_TRUE(Succeeds(a_->engine().Register(source_.data(), source_.size())));
    const Result<RegionInfo> target =
        b_->engine().Allocate("target", kBytes);  // mappable: every transport can carry it
    ASSERT_TRUE(Succeeds(target));
    target_ = {reinterpret_cast<std::byte*>(target->base), kBytes};
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
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }
  Status Move(Direction direction, std::vector<Copy> copies, Duration timeout = 10s) {
    return a_->engine().Run(peer_, direction, copies, {.deadline = In(timeout)});
  }

  RealWorld real_;
  World& world_ = real_.world();
  static constexpr std::size_t kBytes = 8 << 20;
  std::vector<std::byte> source_ = std::vector<std::byte>(kBytes);
  std::span<std::byte> target_;
  FakeWire wire_;
  std::unique_ptr<Node> a_ = std::make_unique<Node>(world_, wire_, "a", GetParam());
  std::unique_ptr<Node> b_ = std::make_unique<Node>(world_, wire_, "b", GetParam());
  PeerPtr peer_;
  RegionInfo region_;
};

TEST_P(PathContract, WritesAndReadsOfEverySize) {
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{63}, std::uint64_t{4096},
        std::uint64_t{100'001}, std::uint64_t{5 << 20}}) {
    std::fill(target_.begin(), target_.end(), std::byte{0});
    ASSERT_TRUE(Succeeds(Move(Direction::kWrite, {{source_.data() + 3, region_.id, 5, length}})))
        << length;
    EXPECT_TRUE(std::equal(source_.begin() + 3, source_.begin() + 3 + static_cast<long>(length),
                           target_.begin() + 5))
        << length;
    EXPECT_EQ(target_[5 + length], std::byte{0});
    std::fill(source_.begin(), source_.end(), std::byte{9});
    ASSERT_TRUE(Succeeds(Move(Direction::kRead, {{source_.data(), region_.id, 5, length}})));
    EXPECT_TRUE(std::equal(source_.begin(), source_.begin() + static_cast<long>(length),
                           target_.begin() + 5))
        << length;
    EXPECT_EQ(source_[length], std::byte{9});
    std::iota(reinterpret_cast<unsigned char*>(source_.data()),
              reinterpret_cast<unsigned char*>(source_.data() + source_.size()), 1);
  }
}

TEST_P(PathContract, ABatchOfAHundredThousandRanges) {
  std::vector<Copy> copies;
  for (std::uint64_t i = 0; i < 65536; ++i)
    copies.push_back({source_.data() + i * 128, region_.id, (65535 - i) * 128, 128});
  ASSERT_TRUE(Succeeds(Move(Direction::kWrite, copies)));
  for (std::uint64_t i = 0; i < 65536; ++i) {
    ASSERT_TRUE(std::equal(source_.begin() + static_cast<long>(i * 128),
                           source_.begin() + static_cast<long>(i * 128 + 128),
                           target_.begin() + static_cast<long>((65535 - i) * 128)));
  }
  std::vector<std::byte> before = source_;
  std::fill(source_.begin(), source_.end(), std::byte{0});
  ASSERT_TRUE(Succeeds(Move(Direction::kRead, copies)));
  EXPECT_EQ(source_, before);
}

TEST_P(PathContract, WrongRangesAreRefusedAndChangeNothing) {
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_.data(), region_.id, target_.size() - 1, 2}}),
                ErrorId::kOutOfRegion));
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), RegionId{77}, 0, 2}}),
                        ErrorId::kRegionUnknown));
  std::byte unregistered[8] = {};
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{unregistered, region_.id, 0, 2}}),
                        ErrorId::kNotRegistered));
  EXPECT_TRUE(
      FailsWith(Move(Direction::kWrite, {{source_.data() + source_.size() - 1, region_.id, 0, 2}}),
                ErrorId::kNotRegistered));
  EXPECT_EQ(std::count(target_.begin(), target_.end(), std::byte{0}),
            static_cast<long>(target_.size()));
}

TEST_P(PathContract, ARegionKeyIsNeeded) {
  if (GetParam() == "cma")
    GTEST_SKIP() << "the kernel asks for the right to debug the process, not for a key";
  const auto other = b_->engine().Allocate("other", 4096, {.listed = false});
  ASSERT_TRUE(Succeeds(other));
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), other->id, 0, 2}}),
                        ErrorId::kRegionUnknown));
  RegionInfo forged = *other;
  forged.key = RegionKey{static_cast<std::uint64_t>(forged.key) ^ 1};
  peer_->AddRegion(forged);
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), other->id, 0, 2}}),
                        ErrorId::kBadRegionKey));
  ASSERT_TRUE(Succeeds(b_->engine().Unregister(other->id)));
}

TEST_P(PathContract, ARegionThatIsRegisteredAfterTheHandShakeIsFound) {
  const auto later = b_->engine().Allocate("later", 4096);
  ASSERT_TRUE(Succeeds(later));
  EXPECT_TRUE(Succeeds(Move(Direction::kWrite, {{source_.data(), later->id, 1, 100}})));
  EXPECT_EQ(std::memcmp(source_.data(), reinterpret_cast<std::byte*>(later->base) + 1, 100), 0);
}

TEST_P(PathContract, ABatchIsWaitedForPolledAwaitedAndCalledBack) {
  const auto submit = [this] {
    return a_->engine().Submit(peer_, Direction::kWrite, {{source_.data(), region_.id, 0, 1 << 20}},
                               {.deadline = In(5s)});
  };
  EXPECT_TRUE(Succeeds(submit()->Wait()));
  const std::shared_ptr<Batch> polled = submit();
  while (!polled->Poll()) std::this_thread::yield();
  EXPECT_TRUE(Succeeds(*polled->Poll()));
  if (GetParam() != "any") {
    EXPECT_EQ(polled->transport(), GetParam());
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

TEST_P(PathContract, MemoryIsNotGivenBackWhileABatchUsesIt) {
  const Result<RegionInfo> source = a_->engine().regions()->FindBase(source_.data());
  ASSERT_TRUE(Succeeds(source));
  const std::vector<Copy> copies(100, {source_.data(), region_.id, 0, 4 << 20});
  for (int i = 0; i < 5; ++i) {
    const auto batch = a_->engine().Submit(peer_, Direction::kWrite, copies, {.deadline = In(20s)});
    if (i == 4) {
      ASSERT_TRUE(Succeeds(a_->engine().Unregister(source->id)));
      EXPECT_TRUE(batch->Poll().has_value());
    }
    EXPECT_TRUE(Succeeds(batch->Wait()));
  }
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), region_.id, 0, 1}}),
                        ErrorId::kNotRegistered));
}

TEST_P(PathContract, NotificationsArriveOnceAndAfterTheBytes) {
  for (int i = 0; i < 10; ++i) {
    const auto batch = a_->engine().Submit(
        peer_, Direction::kWrite, {{source_.data(), region_.id, 0, 1000}},
        {.deadline = In(5s), .notify = std::pair{std::string("done"), std::to_string(i)}});
    ASSERT_TRUE(Succeeds(batch->Wait()));
  }
  const std::vector<Notification> got = b_->engine().TakeNotifications();
  ASSERT_EQ(got.size(), 10U);
  EXPECT_EQ(got[9].message, "9");
  EXPECT_EQ(got[0].sender, a_->engine().identity().id);
  EXPECT_TRUE(b_->engine().TakeNotifications().empty());
}

TEST_P(PathContract, ADeadPeerFailsAtOnceAndItsSuccessorIsAnotherPeer) {
  const std::uint16_t port = b_->port();
  b_->Stop();
  const Instant begin = world_.clock.Now();
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), region_.id, 0, 100}}),
                        ErrorId::kPeerGone));
  EXPECT_LT(world_.clock.Now() - begin, 2s);
  Node successor(world_, wire_, "b", GetParam(), port);
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), region_.id, 0, 100}}),
                        ErrorId::kPeerGone));
  const Result<PeerPtr> again = a_->engine().ConnectNow(b_->address(), In(5s));
  ASSERT_TRUE(Succeeds(again));
  EXPECT_NE((*again)->identity().id, peer_->identity().id);
  a_->Stop();
}

TEST_P(PathContract, AnUnregisteredRegionIsNotTouchedAnyMore) {
  ASSERT_TRUE(Succeeds(b_->engine().Unregister(region_.id)));
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), region_.id, 0, 100}}),
                        ErrorId::kRegionUnknown));
  EXPECT_TRUE(FailsWith(b_->engine().Unregister(region_.id), ErrorId::kRegionUnknown));
}

TEST_P(PathContract, CancelledAndLateBatchesEnd) {
  EXPECT_TRUE(FailsWith(Move(Direction::kWrite, {{source_.data(), region_.id, 0, 100}}, -1s),
                        ErrorId::kDeadline));
  const auto batch = a_->engine().Submit(
      peer_, Direction::kWrite, {{source_.data(), region_.id, 0, 8 << 20}}, {.deadline = In(5s)});
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
            Move(Direction::kWrite, {{source_.data() + offset, region_.id, offset, 200'000}})));
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
                         testing::Values("fake", "shm", "ring", "cma", "tcp", "any"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mooncake
