// Memory of GPUs between two engines, on fake GPUs: whose memory is where, which way it goes, and
// what breaks. Where the processor touched it, this program would end.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>

#include "base/log.h"
#include "engine/test_node.h"
#include "gpu/cuda_memory.h"
#include "gpu/fake_cuda_driver.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;
using gpu::FakeCudaDriver;
using gpu::FakeGpus;
using gpu::FakeKind;
using rdma::FakeVerbs;

constexpr std::size_t kBytes = 6 << 20;  // several frames

// Memory as transfers name it, and as the test may touch it.
struct Buffer {
  std::byte* at = nullptr;
  std::span<std::byte> seen;
};

// One process: its GPUs, and memory of either kind.
class Side {
 public:
  explicit Side(const FakeGpus& gpus) : driver(FakeCudaDriver::Make(gpus)) {}
  std::shared_ptr<DeviceMemory> Gpus() const {
    return gpu::MakeCudaMemory(
        [driver = driver] { return Result<std::shared_ptr<gpu::CudaDriver>>(driver); });
  }
  Buffer Make(bool on_gpu, FakeKind kind = FakeKind::kPlain) {
    if (on_gpu) {
      std::byte* const at = driver->AllocateMemory(0, kBytes, kind);
      return {at, driver->View(at)};
    }
    host_.push_back(std::vector<std::byte>(kBytes));
    return {host_.back().data(), host_.back()};
  }
  int imports() const {
    const auto live = driver->live_handles();
    const auto found = live.find("import");
    return found == live.end() ? 0 : found->second;
  }

  const std::shared_ptr<FakeCudaDriver> driver;
  std::unique_ptr<Node> node;

 private:
  std::deque<std::vector<std::byte>> host_;
};

struct Shape {
  std::string transports = "cuda";
  bool source_on_gpu = true;
  bool target_on_gpu = true;
  FakeGpus gpus_a = {};
  FakeGpus gpus_b = {};
  FakeKind target_kind = FakeKind::kPlain;
  RegisterOptions target_options = {};
};

class Pair {
 public:
  explicit Pair(Shape shape) : a(shape.gpus_a), b(shape.gpus_b), shape_(std::move(shape)) {}
  ~Pair() { Stop(); }

  void Start() {
    const RdmaForTest rdma{verbs, FakeVerbs::DeviceNames(1), {}};
    a.node =
        std::make_unique<Node>(real_.world(), wire_, "a", shape_.transports, 0, rdma, a.Gpus());
    b.node =
        std::make_unique<Node>(real_.world(), wire_, "b", shape_.transports, 0, rdma, b.Gpus());
    source = a.Make(shape_.source_on_gpu);
    target = b.Make(shape_.target_on_gpu, shape_.target_kind);
    auto* const begin = reinterpret_cast<unsigned char*>(source.seen.data());
    std::iota(begin, begin + kBytes, 1);
  }
  // A call of the driver that fails once is the application's to repeat.
  Status Register() {
    Result<RegionInfo> mine = a.node->engine().Register(source.at, kBytes);
    if (!mine) mine = a.node->engine().Register(source.at, kBytes);
    Result<RegionInfo> theirs = b.node->engine().Register(target.at, kBytes, shape_.target_options);
    if (!theirs) theirs = b.node->engine().Register(target.at, kBytes, shape_.target_options);
    if (!mine) return Fail(mine.error());
    if (!theirs) return Fail(theirs.error());
    source_region = *mine;
    region = *theirs;
    return {};
  }
  Status Connect() {
    MC_TRY(peer, a.node->engine().ConnectNow(b.node->address(), In(5s)));
    return {};
  }
  void Open() {
    Start();
    ASSERT_TRUE(Succeeds(Register()));
    ASSERT_TRUE(Succeeds(Connect()));
  }
  void Stop() {
    peer = nullptr;
    for (Side* const side : {&a, &b}) side->node = nullptr;
    // What the loops still have to do for the engines.
    static_cast<void>(Becomes([this] { return live_handles() == 0; }, 2s));  // tests count them
    real_.Stop();
  }
  int live_handles() const { return a.driver->live_handle_count() + b.driver->live_handle_count(); }
  Instant In(Duration duration) { return After(real_.world().clock.Now(), duration); }
  Status Move(Direction direction, std::vector<Copy> copies, Duration timeout = 10s) {
    return a.node->engine().Run(peer, direction, copies, {.deadline = In(timeout)});
  }
  Status Write(std::uint64_t offset, std::uint64_t length, Duration timeout = 10s) {
    return Move(Direction::kWrite, {{source.at, region.id, offset, length}}, timeout);
  }
  // Writes everything in pieces, in another order, and reads it back.
  Status WriteAndReadBack(std::size_t piece) {
    std::fill(target.seen.begin(), target.seen.end(), std::byte{0});
    const std::vector<std::byte> before(source.seen.begin(), source.seen.end());
    std::vector<Copy> copies;
    for (std::size_t at = 0; at < kBytes; at += piece)
      copies.push_back({source.at + at, region.id, kBytes - piece - at, piece});
    MC_TRY_STATUS(Move(Direction::kWrite, copies));
    for (const Copy& copy : copies) {
      if (std::memcmp(before.data() + (copy.local - source.at), target.seen.data() + copy.offset,
                      piece) != 0)
        return Fail(ErrorId::kChecksum, "wrong bytes were written");
    }
    std::fill(source.seen.begin(), source.seen.end(), std::byte{0});
    MC_TRY_STATUS(Move(Direction::kRead, copies));
    if (!std::equal(before.begin(), before.end(), source.seen.begin()))
      return Fail(ErrorId::kChecksum, "wrong bytes were read");
    return {};
  }
  PathRow Row(const std::string& transport) {
    for (PathRow& path : a.node->engine().Paths()) {
      if (path.transport == transport) return path;
    }
    return {};
  }

  Side a;
  Side b;
  Buffer source;
  Buffer target;
  RegionInfo source_region;
  RegionInfo region;
  PeerPtr peer;
  std::shared_ptr<FakeVerbs> verbs = FakeVerbs::Make({.devices = 1});

 private:
  const Shape shape_;
  RealWorld real_;
  FakeWire wire_;
};

constexpr FakeGpus kNoIpc{.ipc = false};

// ---- which way ----

TEST(GpuTransfers, EitherSideOrBothMayHaveAGpu) {
  for (const bool ipc : {true, false}) {
    for (const auto& [source, target] : {std::pair{true, true}, {true, false}, {false, true}}) {
      SCOPED_TRACE(fmt::format("ipc {}, source {}, target {}", ipc, source, target));
      Pair pair({.source_on_gpu = source,
                 .target_on_gpu = target,
                 .gpus_a = {.ipc = ipc},
                 .gpus_b = {.ipc = ipc}});
      pair.Open();
      EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
      EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(4 << 10)));
      // Only who uses a GPU itself opens handles, and only of GPUs.
      EXPECT_EQ(pair.a.imports(), ipc && source && target ? 1 : 0);
      pair.Stop();
      EXPECT_EQ(pair.live_handles(), 0);
    }
  }
}

TEST(GpuTransfers, MemoryThatWasMappedPieceByPieceIsStaged) {
  Pair pair({.target_kind = FakeKind::kMapped});
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_EQ(pair.a.imports(), 0);
}

TEST(GpuTransfers, WhatOpensOtherMemoryIsNotUsed) {
  Pair pair({.gpus_a = {.opens_other_memory = true}});
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_EQ(pair.a.imports(), 0);
}

TEST(GpuTransfers, ARegionThatMayOnlyBeReadIsNotOpened) {
  Pair pair({.target_options = {.access = Access::kRead}});
  pair.Open();
  std::fill(pair.target.seen.begin(), pair.target.seen.end(), std::byte{5});
  EXPECT_TRUE(
      Succeeds(pair.Move(Direction::kRead, {{pair.source.at, pair.region.id, 0, 1 << 20}})));
  EXPECT_EQ(pair.source.seen[1000], std::byte{5});
  EXPECT_EQ(pair.a.imports(), 0);
  EXPECT_TRUE(FailsWith(pair.Write(0, 10), ErrorId::kBadRegionKey));
}

TEST(GpuTransfers, MemoryMayBeRegisteredAfterTheHandShake) {
  Pair pair({.transports = "cuda,tcp"});
  pair.Start();
  ASSERT_TRUE(Succeeds(pair.Connect()));
  EXPECT_EQ(pair.Row("cuda").reason, "neither side has registered memory of a GPU");
  EXPECT_EQ(pair.live_handles(), 0);
  ASSERT_TRUE(Succeeds(pair.Register()));
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_TRUE(pair.Row("cuda").usable);
}

TEST(GpuTransfers, MemoryOfTheHostGoesTheOldWays) {
  Pair pair({.transports = "cuda,tcp", .source_on_gpu = false, .target_on_gpu = false});
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_FALSE(pair.Row("cuda").usable);
  EXPECT_EQ(pair.live_handles(), 0);
}

// ---- RDMA ----

TEST(GpuTransfers, RdmaTakesThemByDmabuf) {
  Pair pair({.transports = "rdma,cuda"});
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(64)));  // too short for the NIC to fetch, on the host
  EXPECT_EQ(pair.Row("rdma").transfers, 4U);
  EXPECT_EQ(pair.Row("cuda").transfers, 0U);
}

TEST(GpuTransfers, WhatRdmaDoesNotTakeIsStagedWithOneWarning) {
  Pair pair({.transports = "rdma,cuda", .gpus_a = {.dmabuf = false}, .gpus_b = {.dmabuf = false}});
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_EQ(pair.Row("rdma").transfers, 0U);
  EXPECT_EQ(pair.Row("cuda").transfers, 2U);
  const std::vector<std::string> warnings = TakeWarnings();
  ASSERT_EQ(warnings.size(), 2U);  // one of each process
  for (const std::string& line : warnings) {
    EXPECT_NE(line.find("modprobe nvidia_peermem"), std::string::npos) << line;
    EXPECT_NE(line.find("dmabuf"), std::string::npos) << line;
    EXPECT_NE(line.find("cuda:0"), std::string::npos) << line;
  }
}

// ---- registration ----

TEST(GpuRegistration, FindsOutWhoseTheMemoryIs) {
  Pair pair({});
  pair.Start();
  Engine& engine = pair.a.node->engine();
  const auto location = [&](void* at, std::string given) {
    const Result<RegionInfo> region = engine.Register(at, kBytes, {.location = std::move(given)});
    if (!region) return ErrorName(region.error().id);
    EXPECT_TRUE(Succeeds(engine.Unregister(region->id)));
    return region->location;
  };
  std::byte* const other = pair.a.driver->AllocateMemory(0, kBytes);
  EXPECT_EQ(location(other, "*"), "cuda:0");
  EXPECT_EQ(location(other, "cuda:0"), "cuda:0");
  EXPECT_EQ(location(other, "cuda:1"), "E308");
  EXPECT_EQ(location(other, "cpu:0"), "E308");
  std::byte* const host = pair.a.Make(false).at;
  EXPECT_EQ(location(host, "*"), "cpu:0");
  EXPECT_EQ(location(host, "cpu:1"), "cpu:1");
  EXPECT_EQ(location(host, "cuda:0"), "E308");
  EXPECT_EQ(location(pair.a.Make(true, FakeKind::kManaged).at, "*"), "cpu:0");
  EXPECT_EQ(location(pair.a.Make(true, FakeKind::kPinned).at, "*"), "cpu:0");
  EXPECT_EQ(location(pair.a.driver->AllocateMemory(0, kBytes / 2), "*"), "E308") << "too short";
  EXPECT_FALSE(engine.regions()->has_gpu_regions());
}

TEST(GpuRegistration, WithoutGpusSaysWhyALocationContradicts) {
  RealWorld real;
  FakeWire wire;
  Node node(real.world(), wire, "a", "tcp");
  std::vector<std::byte> memory(4096);
  const Result<RegionInfo> region =
      node.engine().Register(memory.data(), memory.size(), {.location = "cuda:0"});
  ASSERT_TRUE(FailsWith(region, ErrorId::kBadRange));
  EXPECT_NE(region.error().context.find("given no GPUs"), std::string::npos);
}

// ---- guards ----

TEST(GpuGuards, OtherTransportsHaveNoPathAndSayWhy) {
  for (const auto& [source, target] : {std::pair{true, true}, {true, false}, {false, true}}) {
    Pair pair(
        {.transports = "fake,shm,ring,cma,tcp", .source_on_gpu = source, .target_on_gpu = target});
    pair.Open();
    const Status moved = pair.Write(0, 1000);
    ASSERT_TRUE(FailsWith(moved, ErrorId::kNoPath));
    EXPECT_NE(moved.error().context.find("tcp: does not reach memory of a GPU"), std::string::npos)
        << moved.error().context;
    EXPECT_TRUE(FailsWith(pair.Move(Direction::kRead, {{pair.source.at, pair.region.id, 0, 1000}}),
                          ErrorId::kNoPath));
  }
}

// A peer may call our GPU's memory what it likes.
TEST(GpuGuards, APeerThatCallsItTheHostsIsRefused) {
  for (const char* const transport : {"fake", "shm", "ring", "cma", "tcp"}) {
    SCOPED_TRACE(transport);
    Pair pair(
        {.transports = transport, .source_on_gpu = false, .target_options = {.listed = false}});
    pair.Open();
    RegionInfo lie = pair.region;
    lie.location = "cpu:0";
    lie.mappable = true;
    pair.peer->AddRegion(lie);
    for (const Direction direction : {Direction::kWrite, Direction::kRead}) {
      const Status moved = pair.Move(direction, {{pair.source.at, pair.region.id, 0, 1000}}, 300ms);
      EXPECT_FALSE(moved);
    }
    EXPECT_EQ(std::count(pair.target.seen.begin(), pair.target.seen.end(), std::byte{0}),
              static_cast<long>(kBytes));
  }
}

TEST(GpuGuards, TheTablePinsThemForThoseWhoAsk) {
  Pair pair({});
  pair.Open();
  const RegionTable& table = *pair.b.node->engine().regions();
  const auto [id, key] = std::pair{pair.region.id, pair.region.key};
  EXPECT_TRUE(FailsWith(table.Pin(id, key, Access::kRead), ErrorId::kMemoryKind));
  EXPECT_TRUE(FailsWith(table.Resolve(id, key, 0, 1, Access::kRead), ErrorId::kMemoryKind));
  const Result<PinnedRange> pin = table.Pin(id, key, Access::kRead, Reach::kAny);
  ASSERT_TRUE(Succeeds(pin));
  EXPECT_TRUE(pin->on_gpu());
}

// ---- what a peer says, and does ----

TEST(GpuTransfers, AKeyIsNeededAndBoundsHold) {
  for (const FakeGpus& gpus : {FakeGpus{}, kNoIpc}) {
    SCOPED_TRACE(gpus.ipc);
    Pair pair({.gpus_a = gpus, .gpus_b = gpus, .target_options = {.listed = false}});
    pair.Open();
    RegionInfo forged = pair.region;
    forged.key = RegionKey{static_cast<std::uint64_t>(forged.key) ^ 1};
    pair.peer->AddRegion(forged);
    EXPECT_TRUE(FailsWith(pair.Write(0, 10), ErrorId::kBadRegionKey));
    EXPECT_EQ(pair.a.imports(), 0);
    RegionInfo longer = pair.region;
    longer.length_bytes += 4096;
    pair.peer->AddRegion(longer);
    EXPECT_TRUE(FailsWith(pair.Write(kBytes, 10), ErrorId::kOutOfRegion));
    EXPECT_TRUE(FailsWith(pair.Write(kBytes + 4096, 10), ErrorId::kOutOfRegion));
    EXPECT_TRUE(std::all_of(pair.target.seen.begin(), pair.target.seen.end(),
                            [](std::byte byte) { return byte == std::byte{0}; }));
  }
}

TEST(GpuTransfers, HandlesAreClosedBeforeTheOwnerHasItsMemoryBack) {
  Pair pair({});
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.Write(0, 1000)));
  EXPECT_EQ(pair.a.imports(), 1);
  ASSERT_TRUE(Succeeds(pair.b.node->engine().Unregister(pair.region.id)));
  EXPECT_EQ(pair.a.imports(), 0);
  EXPECT_TRUE(FailsWith(pair.Write(0, 1000), ErrorId::kRegionUnknown));
}

TEST(GpuTransfers, HandlesAreClosedWhenThePeerGoes) {
  Pair pair({});
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.Write(0, 1000)));
  pair.b.node = nullptr;
  EXPECT_TRUE(Becomes([&pair] { return pair.a.imports() == 0; }, 5s));
  EXPECT_TRUE(FailsWith(pair.Write(0, 1000), ErrorId::kPeerGone));
}

TEST(GpuTransfers, UnregisteringWaitsForStagedTransfers) {
  Pair pair({.gpus_a = kNoIpc, .gpus_b = kNoIpc});
  pair.Open();
  const std::vector<Copy> copies(20, {pair.source.at, pair.region.id, 0, kBytes});
  const auto batch = pair.a.node->engine().Submit(pair.peer, Direction::kWrite, copies,
                                                  {.deadline = pair.In(20s)});
  ASSERT_TRUE(Succeeds(pair.a.node->engine().Unregister(pair.source_region.id)));
  pair.a.driver->FreeMemory(pair.source.at);
  ASSERT_TRUE(batch->Poll().has_value());
  EXPECT_TRUE(Succeeds(*batch->Poll()));
}

TEST(GpuTransfers, CancelledAndLateStagedTransfersEndAndTheNextOneGoesOn) {
  Pair pair({.gpus_a = kNoIpc, .gpus_b = kNoIpc});
  pair.Open();
  const std::vector<Copy> copies(200, {pair.source.at, pair.region.id, 0, kBytes});
  EXPECT_TRUE(FailsWith(pair.Move(Direction::kWrite, copies, 20ms), ErrorId::kDeadline));
  EXPECT_TRUE(FailsWith(pair.Move(Direction::kRead, copies, 20ms), ErrorId::kDeadline));
  const auto batch = pair.a.node->engine().Submit(pair.peer, Direction::kWrite, copies,
                                                  {.deadline = pair.In(20s)});
  const std::uint64_t calls = pair.a.driver->calls();
  EXPECT_TRUE(Becomes([&] { return pair.a.driver->calls() > calls + 4; }, 5s));  // under way
  batch->Cancel();
  EXPECT_TRUE(FailsWith(batch->Wait(), ErrorId::kCancelled));
  // The peer may still be reading its memory for the read that was late: this thread leaves it be.
  EXPECT_TRUE(Succeeds(pair.Write(0, kBytes)));
}

// ---- what breaks ----

TEST(GpuFaults, MemoryThatWasFreedUnderItsRegistrationEndsTheTransferInWords) {
  for (const FakeGpus& gpus : {FakeGpus{}, kNoIpc}) {
    SCOPED_TRACE(gpus.ipc);
    Pair here({.gpus_a = gpus, .gpus_b = gpus});
    here.Open();
    here.a.driver->FreeMemory(here.source.at);
    const Status mine = here.Write(0, 1000);
    ASSERT_TRUE(FailsWith(mine, ErrorId::kBadRange));
    EXPECT_NE(mine.error().context.find("freed"), std::string::npos);
  }
  Pair there({.gpus_a = kNoIpc, .gpus_b = kNoIpc});
  there.Open();
  there.b.driver->FreeMemory(there.target.at);
  for (const Direction direction : {Direction::kWrite, Direction::kRead}) {
    const Status theirs = there.Move(direction, {{there.source.at, there.region.id, 0, kBytes}});
    ASSERT_TRUE(FailsWith(theirs, ErrorId::kBadRange));
    EXPECT_NE(theirs.error().context.find("freed"), std::string::npos) << theirs.error().Text();
  }
}

class EveryCall : public testing::TestWithParam<std::string> {};

// Whichever call fails, on whichever side and at whichever time: the bytes arrive, and nothing is
// left over.
TEST_P(EveryCall, FailsOnceAndTheBytesArrive) {
  constexpr int kTimes = 12;
  for (const bool ipc : {true, false}) {
    for (const bool in_a : {true, false}) {
      for (int nth = 1; nth <= kTimes; ++nth) {
        SCOPED_TRACE(fmt::format("ipc {}, {} call of {}", ipc, nth, in_a ? "a" : "b"));
        Pair pair({.gpus_a = {.ipc = ipc}, .gpus_b = {.ipc = ipc}});
        FakeCudaDriver& driver = *(in_a ? pair.a : pair.b).driver;
        driver.FailCall(GetParam(), nth);
        pair.Open();
        EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
        const bool failed = driver.HasFailed();
        pair.Stop();
        EXPECT_EQ(pair.live_handles(), 0);
        if (!failed) break;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, EveryCall, testing::ValuesIn(FakeCudaDriver::Calls()),
                         [](const auto& info) { return info.param; });

TEST(GpuFaults, AnotherTransportTakesWhatTheDriverRefuses) {
  Pair pair({.transports = "rdma,cuda", .gpus_a = {.dmabuf = true}});
  pair.verbs->FailCall("RegDmabufMr", 1);
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_GE(pair.Row("cuda").transfers, 1U);
  EXPECT_EQ(TakeWarnings().size(), 1U);
}

}  // namespace
}  // namespace mooncake
