// Stories told on purpose that seeds tell only rarely: bytes that a network still holds when their
// batch has ended.
#include <gtest/gtest.h>

#include <numeric>

#include "base/log.h"
#include "base/test_support.h"
#include "directory/p2p/p2p_directory.h"
#include "engine/engine.h"
#include "sim/sim_world.h"
#include "transport/fake/fake_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

// An engine in a simulated process, with tcp and, where that fails, the fake transport.
class SimEngine {
 public:
  SimEngine(SimProcess& process, FakeWire& wire) : process_(process) {
    World& world = process.world();
    directory_ = MakeP2pDirectory(world);
    port_ = std::make_shared<PortServer>(world, metrics_, PortServerOptions{});
    const Identity identity{world.random.DrawInstanceId(), 1, "engine", world.network.host(),
                            "test"};
    engine_ =
        std::make_unique<Engine>(world, metrics_, port_, *directory_, identity, EngineOptions{});
    engine_->AddTransport(MakeTcpTransport(
        world, metrics_, engine_->regions(), CopyEngine::Plain(),
        [this] { return engine_->Introduce(); }, TcpOptions{.lanes = 1}));
    engine_->AddTransport(
        MakeFakeTransport(world, wire, identity.id, engine_->regions(), {.fixed_cost = 1s}));
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::AnyV6(), 0});
    EXPECT_TRUE(Succeeds(listener));
    at_ = {process.host().addresses().front(), (*listener)->bound().port};
    engine_->Start();
    port_->Serve(std::move(*listener));
  }
  void Stop(SimWorld& sim) {
    EXPECT_TRUE(sim.Run(process_, engine_->CloseAsync(), After(sim.Now(), 1min)));
    port_->Close(Error{ErrorId::kClosed, "the test ends"});
    sim.RunFor(1s);
    engine_ = nullptr;
    port_ = nullptr;
    sim.RunFor(1s);
  }
  Engine& engine() { return *engine_; }
  std::string address() const { return ToString(at_); }

 private:
  SimProcess& process_;
  Metrics metrics_;
  std::unique_ptr<Directory> directory_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
  Endpoint at_;
};

class LateBytes : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 1 << 20;

  void SetUp() override {
    SetLogLevel(LogLevel::kWarn);
    sim_.net().Link(process_a_.host(), process_b_.host()).bytes_per_second = 100e3;
    sim_.net().stream_options.segment_bytes_max = 1000;
    std::iota(reinterpret_cast<unsigned char*>(source_.data()),
              reinterpret_cast<unsigned char*>(source_.data() + source_.size()), 1);
    ASSERT_TRUE(Succeeds(a_.engine().Register(source_.data(), source_.size())));
    const Result<RegionInfo> region = b_.engine().Register(target_.data(), target_.size());
    ASSERT_TRUE(Succeeds(region));
    region_ = region->id;
    ASSERT_TRUE(sim_.Run(
        process_a_,
        [](Engine& engine, std::string to, PeerPtr& got) -> Task<void> {
          const Result<PeerPtr> connected = co_await engine.Connect(to, kNever);
          EXPECT_TRUE(Succeeds(connected));
          got = *connected;
        }(a_.engine(), b_.address(), peer_),
        After(sim_.Now(), 1min)));
    sim_.RunFor(1s);
  }
  void TearDown() override {
    peer_ = nullptr;
    a_.Stop(sim_);
    b_.Stop(sim_);
    EXPECT_TRUE(process_a_.left().nothing());
    EXPECT_TRUE(process_b_.left().nothing());
    SetLogLevel(LogLevel::kInfo);
  }
  std::shared_ptr<Batch> Write(std::uint64_t offset, std::uint64_t length, Duration patience) {
    return a_.engine().Submit(peer_, Direction::kWrite,
                              {{source_.data() + offset, region_, offset, length}},
                              {.deadline = After(process_a_.world().clock.Now(), patience)});
  }
  // B uses its memory for something else.
  void UseAgain(std::size_t begin, std::size_t end) {
    std::fill(target_.begin() + static_cast<std::ptrdiff_t>(begin),
              target_.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0xEE});
  }
  std::ptrdiff_t Untouched(std::size_t begin, std::size_t end) const {
    return std::count(target_.begin() + static_cast<std::ptrdiff_t>(begin),
                      target_.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0xEE});
  }

  SimWorld sim_{1};
  SimProcess& process_a_ = sim_.Start(sim_.AddHost());
  SimProcess& process_b_ = sim_.Start(sim_.AddHost());
  FakeWire wire_;
  std::vector<std::byte> source_ = std::vector<std::byte>(kBytes);
  std::vector<std::byte> target_ = std::vector<std::byte>(kBytes);
  SimEngine a_{process_a_, wire_};
  SimEngine b_{process_b_, wire_};
  RegionId region_{};
  PeerPtr peer_;
};

// A small write is behind a large one on a lane of a slow link when the lane is closed. It is done
// again over another path; its first attempt, which the network still holds, must not land after
// that.
TEST_F(LateBytes, OfALostPathNeverLandAfterTheRetryHasSucceeded) {
  std::shared_ptr<Batch> large = Write(0, 100'000, 1min);  // takes the link 1.064 s
  std::shared_ptr<Batch> small = Write(100'000, 100, 1min);
  std::shared_ptr<Batch> hurried = Write(
      200'000, 800'000, 1055ms);  // closes the lane just before: the kernel does not take it all
  ASSERT_TRUE(sim_.RunUntil([&] { return small->Poll().has_value(); }, After(sim_.Now(), 1min)));
  EXPECT_TRUE(Succeeds(*small->Poll()));
  EXPECT_EQ(small->transport(), "fake");
  EXPECT_TRUE(FailsWith(*hurried->Poll(), ErrorId::kDeadline));
  EXPECT_TRUE(
      std::equal(target_.begin() + 100'000, target_.begin() + 100'100, source_.begin() + 100'000));
  UseAgain(100'000, 100'100);
  sim_.RunFor(1min);
  EXPECT_EQ(Untouched(100'000, 100'100), 100);
  EXPECT_TRUE(Succeeds(*large->Poll()));
}

// What is on its way when its sender gives up lands nowhere once the owner of the memory has said
// so.
TEST_F(LateBytes, NeverLandAfterTheOwnerHasEndedTheTransfersOfTheirSender) {
  constexpr std::size_t kLength = 100'000;
  std::shared_ptr<Batch> late = Write(0, kLength, 500ms);
  ASSERT_TRUE(sim_.RunUntil([&] { return late->Poll().has_value(); }, After(sim_.Now(), 1min)));
  EXPECT_TRUE(FailsWith(*late->Poll(), ErrorId::kDeadline));
  ASSERT_TRUE(sim_.Run(process_b_, b_.engine().EndTransfersOf(a_.engine().identity().id),
                       After(sim_.Now(), 1min)));
  UseAgain(0, kLength);
  sim_.RunFor(1min);
  EXPECT_EQ(Untouched(0, kLength), static_cast<std::ptrdiff_t>(kLength));
  std::shared_ptr<Batch> again = Write(0, 1000, 1min);
  ASSERT_TRUE(sim_.RunUntil([&] { return again->Poll().has_value(); }, After(sim_.Now(), 1min)));
  EXPECT_TRUE(Succeeds(*again->Poll()));
}

}  // namespace
}  // namespace mooncake
