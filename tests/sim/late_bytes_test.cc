// One story told on purpose that seeds tell only rarely.
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

// A small write is behind a large one on a lane of a slow link when the lane is closed. It is done
// again over another path; its first attempt, which the network still holds, must not land after
// that.
TEST(LateBytes, OfALostPathNeverLandAfterTheRetryHasSucceeded) {
  SetLogLevel(LogLevel::kWarn);
  SimWorld sim(1);
  SimProcess& process_a = sim.Start(sim.AddHost());
  SimProcess& process_b = sim.Start(sim.AddHost());
  sim.net().Link(process_a.host(), process_b.host()).bytes_per_second = 100e3;
  sim.net().stream_options.segment_bytes_max = 1000;
  FakeWire wire;
  SimEngine a(process_a, wire);
  SimEngine b(process_b, wire);
  std::vector<std::byte> source(1 << 20);
  std::vector<std::byte> target(1 << 20);
  std::iota(reinterpret_cast<unsigned char*>(source.data()),
            reinterpret_cast<unsigned char*>(source.data() + source.size()), 1);
  ASSERT_TRUE(Succeeds(a.engine().Register(source.data(), source.size())));
  const Result<RegionInfo> region = b.engine().Register(target.data(), target.size());
  ASSERT_TRUE(Succeeds(region));

  PeerPtr peer;
  ASSERT_TRUE(sim.Run(
      process_a,
      [](Engine& engine, std::string to, PeerPtr& got) -> Task<void> {
        const Result<PeerPtr> connected = co_await engine.Connect(to, kNever);
        EXPECT_TRUE(Succeeds(connected));
        got = *connected;
      }(a.engine(), b.address(), peer),
      After(sim.Now(), 1min)));
  sim.RunFor(1s);

  const auto write = [&](std::uint64_t offset, std::uint64_t length, Duration patience) {
    return a.engine().Submit(peer, Direction::kWrite,
                             {{source.data() + offset, region->id, offset, length}},
                             {.deadline = After(process_a.world().clock.Now(), patience)});
  };
  std::shared_ptr<Batch> large = write(0, 100'000, 1min);  // takes the link 1.064 s
  std::shared_ptr<Batch> small = write(100'000, 100, 1min);
  std::shared_ptr<Batch> hurried = write(
      200'000, 800'000, 1055ms);  // closes the lane just before: the kernel does not take it all
  ASSERT_TRUE(sim.RunUntil([&] { return small->Poll().has_value(); }, After(sim.Now(), 1min)));
  EXPECT_TRUE(Succeeds(*small->Poll()));
  EXPECT_EQ(small->transport(), "fake");
  EXPECT_TRUE(FailsWith(*hurried->Poll(), ErrorId::kDeadline));
  EXPECT_TRUE(
      std::equal(target.begin() + 100'000, target.begin() + 100'100, source.begin() + 100'000));

  std::fill(target.begin() + 100'000, target.begin() + 100'100,
            std::byte{0xEE});  // B uses its memory for something else
  sim.RunFor(1min);
  EXPECT_EQ(std::count(target.begin() + 100'000, target.begin() + 100'100, std::byte{0xEE}), 100);
  EXPECT_TRUE(Succeeds(*large->Poll()));

  large = small = hurried = nullptr;
  peer = nullptr;
  a.Stop(sim);
  b.Stop(sim);
  EXPECT_TRUE(process_a.left().nothing());
  EXPECT_TRUE(process_b.left().nothing());
  SetLogLevel(LogLevel::kInfo);
}

}  // namespace
}  // namespace mooncake
