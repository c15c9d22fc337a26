// One engine with 50,000 registered regions: what a registration and a look-up cost, and that
// nobody is told of each.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <map>
#include <numeric>
#include <random>

#include "base/real_world.h"
#include "base/test_loop.h"
#include "base/test_support.h"
#include "directory/directory.h"
#include "engine/engine.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kRegions = 50'000;
constexpr std::uint64_t kRegionBytes = 4096;
#ifdef MC_SANITIZED
constexpr Duration kLookUpMax = 20us;  // it looks up much besides
#else
constexpr Duration kLookUpMax = 1us;
#endif

// Counts what is written to it; finds the one record that it was given.
class CountingDirectory final : public Directory {
 public:
  std::string Describe() const override { return "counting"; }
  Task<Status> Publish(Record, Instant) override {
    writes += 1;
    co_return Status{};
  }
  Task<void> Withdraw(Instant) override { co_return; }
  Task<Result<std::vector<Record>>> List(Instant) override { co_return std::vector<Record>{}; }
  Task<Result<Record>> Find(std::string, Instant) override { co_return found; }
  std::optional<Outage> outage() const override { return std::nullopt; }

  int writes = 0;
  Record found;
};

class Node {
 public:
  explicit Node(World& world)
      : world_(world), port_(std::make_shared<PortServer>(world, metrics_, PortServerOptions{})) {
    const Identity identity{world.random.DrawInstanceId(), 1, "node", world.network.host(), "test"};
    engine_ =
        std::make_unique<Engine>(world, metrics_, port_, directory, identity, EngineOptions{});
    engine_->AddTransport(MakeTcpTransport(
        world, metrics_, engine_->regions(), CopyEngine::Plain(),
        [this] { return engine_->Introduce(); }, TcpOptions{}));
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0});
    EXPECT_TRUE(Succeeds(listener));
    record.identity = identity;
    record.endpoints = {(*listener)->bound()};
    RunOn(world, [this, shared = std::shared_ptr<Listener>(std::move(*listener))]() -> Task<void> {
      engine_->Start();
      port_->Serve(shared);
      co_return;
    });
  }
  ~Node() {
    RunOn(world_, [this]() -> Task<void> {
      port_->Close(Error{ErrorId::kClosed, "the node stops"});
      co_return;
    });
    engine_ = nullptr;
  }
  Engine& engine() { return *engine_; }

  CountingDirectory directory;
  Record record;

 private:
  World& world_;
  Metrics metrics_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
};

class ManyRegions : public testing::Test {
 protected:
  void SetUp() override {
    void* const base = ::mmap(nullptr, 2 * kRegions * kRegionBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(base, MAP_FAILED);
    memory_ = {static_cast<std::byte*>(base), 2 * kRegions * kRegionBytes};
    order_.resize(kRegions);
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64(1));
  }
  void TearDown() override {
    owner_ = nullptr;
    user_ = nullptr;
    real_.Stop();
    ::munmap(memory_.data(), memory_.size());
  }

  // The memory of region `index`: every other page, so that neighbours are not one range.
  std::byte* PlaceOf(std::size_t index) const { return memory_.data() + 2 * index * kRegionBytes; }

  // Registers those of `order_` from `begin` to `end`.
  Duration RegisterSome(std::size_t begin, std::size_t end) {
    const Instant start = world_.clock.Now();
    for (std::size_t i = begin; i < end; ++i) {
      const Result<RegionInfo> info = owner_->engine().Register(PlaceOf(order_[i]), kRegionBytes);
      EXPECT_TRUE(Succeeds(info));
      regions_.push_back(*info);
    }
    return world_.clock.Now() - start;
  }

  // The least over many batches of look-ups, in random order: others use this machine too, and some
  // of them for all of the time.
  template <class LookUp>
  Duration LeastLookUp(LookUp look_up) {
    constexpr std::size_t kBatch = 500;
    Duration least = Duration::max();
    for (std::size_t begin = 0; begin + kBatch <= kRegions; begin += kBatch) {
      const Instant start = world_.clock.Now();
      for (std::size_t i = begin; i < begin + kBatch; ++i) look_up((i * 7919) % kRegions);
      least = std::min<Duration>(least, (world_.clock.Now() - start) / kBatch);
    }
    return least;
  }

  RealWorld real_;
  World& world_ = real_.world();
  std::unique_ptr<Node> owner_ = std::make_unique<Node>(world_);
  std::unique_ptr<Node> user_ = std::make_unique<Node>(world_);
  MutableBytes memory_;
  std::vector<std::size_t> order_;
  std::vector<RegionInfo> regions_;
};

TEST_F(ManyRegions, CostTheSameHoweverManyThereAre) {
  constexpr std::size_t kTenth = kRegions / 10;
  const Duration first = RegisterSome(0, kTenth);
  RegisterSome(kTenth, kRegions - kTenth);
  const Duration last = RegisterSome(kRegions - kTenth, kRegions);
  // A tree ten times as large is a third deeper; a list would be ten times as slow.
  EXPECT_LT(last, 4 * first) << "the last tenth against the first";

  const RegionTable& table = *owner_->engine().regions();
  const Duration by_key = LeastLookUp([&](std::size_t i) {
    EXPECT_TRUE(table.Pin(regions_[i].id, regions_[i].key, Access::kRead).has_value());
  });
  const Duration by_address = LeastLookUp(
      [&](std::size_t i) { EXPECT_TRUE(table.FindLocalBytes(PlaceOf(i) + 5, 100).has_value()); });
  // What a bare map of as many entries takes on this machine now: a slow day is not a slow table.
  std::map<std::uint64_t, std::size_t> bare;
  for (std::size_t i = 0; i < kRegions; ++i) bare[regions_[i].base] = i;
  const Duration in_a_map =
      LeastLookUp([&](std::size_t i) { EXPECT_EQ(bare.find(regions_[i].base)->second, i); });
  const Duration most = std::max<Duration>(kLookUpMax, 4 * in_a_map);
  EXPECT_LT(by_key, most);
  EXPECT_LT(by_address, most);
  RecordProperty("look_up_in_a_map_ns", static_cast<int>(in_a_map.count()));
  RecordProperty("look_up_by_key_ns", static_cast<int>(by_key.count()));
  RecordProperty("look_up_by_address_ns", static_cast<int>(by_address.count()));
  RecordProperty("registration_ns", static_cast<int>(last.count() / kTenth));
  EXPECT_EQ(owner_->directory.writes, 0) << "peers ask the engine, not the directory";
}

TEST_F(ManyRegions, ArePagedToPeersOnceAndFoundByThemAsFast) {
  RegisterSome(0, kRegions);
  user_->directory.found = owner_->record;
  const Result<PeerPtr> peer = user_->engine().ConnectNow("owner", After(world_.clock.Now(), 10s));
  ASSERT_TRUE(Succeeds(peer));
  EXPECT_EQ((*peer)->ListedRegions().size(), kRegions);

  std::vector<std::byte> source(kRegions, std::byte{7});
  ASSERT_TRUE(Succeeds(user_->engine().Register(source.data(), source.size())));
  std::vector<Copy> copies;
  for (std::size_t i = 0; i < kRegions; ++i)
    copies.push_back({source.data() + i, regions_[order_[i]].id, 9, 1});
  ASSERT_TRUE(Succeeds(user_->engine().Run(*peer, Direction::kWrite, copies,
                                           {.deadline = After(world_.clock.Now(), 10s)})));
  for (const RegionInfo& region : regions_) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(region.base);
    ASSERT_EQ(bytes[9], std::byte{7});
    ASSERT_EQ(bytes[8], std::byte{0});
  }
}

}  // namespace
}  // namespace mooncake
