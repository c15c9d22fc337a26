#include "sim/sim_world.h"

#include <gtest/gtest.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

class SimWorlds : public testing::Test {
 protected:
  void TearDown() override {
    streams_.clear();
    sim_.RunFor(1s);
  }
  // A connection from `a_` to `b_`; its two ends.
  std::pair<std::shared_ptr<Stream>, std::shared_ptr<Stream>> Connect() {
    std::shared_ptr<Stream> client;
    std::shared_ptr<Stream> server;
    const auto listener = b_.world().network.Listen(b_.world().control, {IpAddress::AnyV6(), 0});
    EXPECT_TRUE(Succeeds(listener));
    Spawn(b_.world().control, [](Listener& at, std::shared_ptr<Stream>& got) -> Task<void> {
      Result<std::unique_ptr<Stream>> stream = co_await at.Accept();
      EXPECT_TRUE(Succeeds(stream));
      got = std::move(*stream);
    }(**listener, server));
    const Endpoint to{host_b_.addresses().front(), (*listener)->bound().port};
    EXPECT_TRUE(sim_.Run(
        a_,
        [](SimProcess& a, Endpoint at, std::shared_ptr<Stream>& got) -> Task<void> {
          World& world = a.world();
          Result<std::unique_ptr<Stream>> stream =
              co_await world.network.Connect(world.control, at, After(world.clock.Now(), 10s));
          EXPECT_TRUE(Succeeds(stream));
          got = std::move(*stream);
        }(a_, to, client),
        After(sim_.Now(), 1min)));
    EXPECT_TRUE(sim_.RunUntil([&server] { return server != nullptr; }, After(sim_.Now(), 1s)));
    streams_ = {client, server};
    return {client, server};
  }
  static Task<void> WriteAll(std::shared_ptr<Stream> stream, std::vector<std::byte> bytes,
                             std::optional<Status>& end) {
    const std::array<Bytes, 1> one = {Bytes(bytes)};
    end = co_await stream->Write(one);
  }
  static Task<void> ReadAll(std::shared_ptr<Stream> stream, std::size_t count,
                            std::vector<std::byte>& into, std::optional<Status>& end) {
    into.resize(count);
    end = co_await ReadFull(*stream, into);
  }
  std::vector<std::byte> Drawn(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(sim_.random().Next());
    return bytes;
  }

  SimWorld sim_{7};
  SimHost& host_a_ = sim_.AddHost();
  SimHost& host_b_ = sim_.AddHost();
  SimProcess& a_ = sim_.Start(host_a_);
  SimProcess& b_ = sim_.Start(host_b_);
  std::vector<std::shared_ptr<Stream>> streams_;
};

TEST_F(SimWorlds, TimePassesOnlyFromEventToEvent) {
  std::vector<int> order;
  Clock& clock = a_.world().clock;
  const Instant begin = clock.Now();
  const auto one = clock.MakeTimer(a_.world().control);
  const auto two = clock.MakeTimer(a_.world().control);
  const auto cancelled = clock.MakeTimer(a_.world().control);
  one->At(begin + 2h, [&order] { order.push_back(2); });
  two->At(begin + 1h, [&] {
    order.push_back(1);
    EXPECT_EQ(clock.Now(), begin + 1h);
    cancelled->Cancel();
  });
  cancelled->At(begin + 90min, [&order] { order.push_back(3); });
  EXPECT_EQ(a_.left().timers, 3U);
  sim_.RunFor(3h);
  EXPECT_EQ(order, (std::vector{1, 2}));
  EXPECT_EQ(clock.Now(), begin + 3h);
  EXPECT_TRUE(a_.left().nothing());
}

TEST_F(SimWorlds, ProcessesHaveClocksOfTheirOwn) {
  EXPECT_NE(a_.world().clock.Now(), b_.world().clock.Now());
  EXPECT_NE(a_.world().network.host().boot_id, b_.world().network.host().boot_id);
  EXPECT_EQ(sim_.Start(host_a_).world().network.host().boot_id, a_.world().network.host().boot_id);
}

TEST_F(SimWorlds, EveryByteArrivesInOrderUnderLossAndBackPressure) {
  sim_.net().stream_options = {.segment_bytes_max = 700,
                               .send_buffer_bytes = 3000,
                               .receive_buffer_bytes = 2000,
                               .odd_reads = 0.5,
                               .pauses = 0.3};
  sim_.net().Link(host_a_, host_b_) = {
      .latency = 1ms, .jitter = 5ms, .bytes_per_second = 1e6, .loss = 0.05};
  const auto [client, server] = Connect();
  const std::vector<std::byte> sent = Drawn(50'000);
  std::vector<std::byte> got;
  std::optional<Status> written;
  std::optional<Status> read;
  Spawn(a_.world().control, WriteAll(client, sent, written));
  sim_.RunFor(10min);
  EXPECT_FALSE(written) << "nobody reads, so the writer waits";
  Spawn(b_.world().control, ReadAll(server, sent.size(), got, read));
  ASSERT_TRUE(sim_.RunUntil([&] { return read && written; }, After(sim_.Now(), 10min)));
  EXPECT_TRUE(Succeeds(*written));
  EXPECT_EQ(got, sent);
}

TEST_F(SimWorlds, CloseDeliversWhatWasWrittenThenTheEnd) {
  const auto [client, server] = Connect();
  std::vector<std::byte> got;
  std::optional<Status> written;
  std::optional<Status> read;
  const std::vector<std::byte> sent = Drawn(1000);
  Spawn(a_.world().control, WriteAll(client, sent, written));
  ASSERT_TRUE(sim_.RunUntil([&] { return written.has_value(); }, After(sim_.Now(), 1s)));
  client->Close();
  Spawn(b_.world().control, ReadAll(server, 1001, got, read));
  sim_.RunFor(1s);
  EXPECT_TRUE(FailsWith(*read, ErrorId::kConnectionClosed));
  got.resize(1000);
  EXPECT_EQ(got, sent);
}

TEST_F(SimWorlds, ConnectsAreRefusedOrTimeOut) {
  const auto dial = [this](Duration patience) {
    std::optional<Status> end;
    const Instant begin = sim_.Now();
    EXPECT_TRUE(sim_.Run(
        a_,
        [](SimProcess& a, Endpoint to, Duration wait, std::optional<Status>& result) -> Task<void> {
          World& world = a.world();
          Result<std::unique_ptr<Stream>> stream =
              co_await world.network.Connect(world.control, to, After(world.clock.Now(), wait));
          result = stream ? Status{} : Status(Fail(stream.error()));
        }(a_, {host_b_.addresses().front(), 99}, patience, end),
        After(sim_.Now(), 1h)));
    return std::pair{*end, sim_.Now() - begin};
  };
  EXPECT_TRUE(FailsWith(dial(5s).first, ErrorId::kConnectRefused));
  sim_.net().Link(host_b_, host_a_).down = true;
  const auto [status, took] = dial(5s);
  EXPECT_TRUE(FailsWith(status, ErrorId::kConnectTimeout));
  EXPECT_EQ(took, 5s);
}

TEST_F(SimWorlds, APartitionHoldsBytesUpUntilItEnds) {
  const auto [client, server] = Connect();
  sim_.net().Link(host_a_, host_b_).down = true;
  std::vector<std::byte> got;
  std::optional<Status> written;
  std::optional<Status> read;
  Spawn(a_.world().control, WriteAll(client, Drawn(10), written));
  Spawn(b_.world().control, ReadAll(server, 10, got, read));
  sim_.RunFor(10s);
  EXPECT_TRUE(written);
  EXPECT_FALSE(read);
  sim_.net().Link(host_a_, host_b_).down = false;
  sim_.RunFor(20s);
  EXPECT_TRUE(Succeeds(*read));
}

TEST_F(SimWorlds, CutsAreSeenByBothByOneOrByNobody) {
  for (const auto& [kind, ends] :
       {std::pair{CutKind::kBothNotice, 2}, std::pair{CutKind::kOneNotices, 1},
        std::pair{CutKind::kNobodyNotices, 0}}) {
    const auto [client, server] = Connect();
    std::vector<std::byte> unused_a;
    std::vector<std::byte> unused_b;
    std::optional<Status> at_a;
    std::optional<Status> at_b;
    Spawn(a_.world().control, ReadAll(client, 1, unused_a, at_a));
    Spawn(b_.world().control, ReadAll(server, 1, unused_b, at_b));
    sim_.RunFor(1s);
    ASSERT_TRUE(sim_.net().CutOne(kind, sim_.random()));
    sim_.RunFor(10s);
    EXPECT_EQ(static_cast<int>(at_a.has_value()) + static_cast<int>(at_b.has_value()), ends);
    sim_.RunFor(kDeadPathMax);
    EXPECT_TRUE(at_a && at_b) << "probes tell the other end";
    client->Close();
    server->Close();
    sim_.RunFor(1s);
  }
}

TEST_F(SimWorlds, AKilledProcessIsNoticedAndOneWithoutPowerIsNot) {
  for (const CrashKind kind : {CrashKind::kKilled, CrashKind::kPowerLost}) {
    SimProcess& victim = sim_.Start(host_b_);
    const auto listener =
        victim.world().network.Listen(victim.world().control, {IpAddress::AnyV6(), 80});
    ASSERT_TRUE(Succeeds(listener));
    std::optional<Status> end;
    Spawn(a_.world().control,
          [](SimProcess& a, Endpoint to, std::optional<Status>& result) -> Task<void> {
            World& world = a.world();
            Result<std::unique_ptr<Stream>> stream =
                co_await world.network.Connect(world.control, to, kNever);
            std::array<std::byte, 1> byte{};
            const Result<std::size_t> read = co_await (*stream)->ReadSome(byte);
            result = read ? Status{} : Status(Fail(read.error()));
          }(a_, {host_b_.addresses().front(), 80}, end));
    sim_.RunFor(1s);
    sim_.Crash(victim, kind);
    sim_.RunFor(10s);
    EXPECT_EQ(end.has_value(), kind == CrashKind::kKilled);
    if (kind == CrashKind::kPowerLost) {
      EXPECT_TRUE(b_.is_dead()) << "it was on the same host";
      sim_.RunFor(kDeadPathMax);
      ASSERT_TRUE(end);
      EXPECT_TRUE(FailsWith(*end, ErrorId::kConnectTimeout));
    }
  }
}

TEST_F(SimWorlds, NothingOfAStalledOrDeadProcessRuns) {
  int ticks = 0;
  const auto timer = a_.world().clock.MakeTimer(a_.world().control);
  const std::function<void()> tick = [&] {
    ++ticks;
    timer->At(After(a_.world().clock.Now(), 1s), tick);
  };
  tick();
  sim_.RunFor(2500ms);
  EXPECT_EQ(ticks, 3);
  sim_.Stall(a_, 10s);
  sim_.RunFor(9s);
  EXPECT_EQ(ticks, 3);
  sim_.RunFor(1500ms);
  EXPECT_EQ(ticks, 4) << "late, and then in its rhythm again";
  sim_.Crash(a_, CrashKind::kKilled);
  sim_.RunFor(1h);
  EXPECT_EQ(ticks, 4);
}

TEST_F(SimWorlds, WorkersDoOneThingAfterAnotherAndFinishBeforeTheyStop) {
  std::vector<int> order;
  const std::unique_ptr<Worker> worker = a_.world().threads.MakeWorker();
  for (int i = 0; i < 3; ++i) worker->Add([&order, i] { order.push_back(i); });
  EXPECT_TRUE(order.empty());
  EXPECT_TRUE(sim_.Run(a_, Finished(*worker, a_.world().control), After(sim_.Now(), 1s)));
  EXPECT_EQ(order, (std::vector{0, 1, 2}));
  worker->Add([&order] { order.push_back(3); });
  worker->Stop();
  worker->Add([&order] { order.push_back(4); });
  EXPECT_EQ(order, (std::vector{0, 1, 2, 3, 4}));
}

TEST_F(SimWorlds, CoroutinesAndStreamsAreCounted) {
  const auto [client, server] = Connect();
  EXPECT_EQ(a_.left().streams, 1U);
  std::vector<std::byte> unused;
  std::optional<Status> end;
  Spawn(a_.world().control, ReadAll(client, 1, unused, end));
  sim_.RunFor(1s);
  EXPECT_GT(a_.left().coroutines, 0U);
  server->Close();
  sim_.RunFor(1s);
  EXPECT_TRUE(end);
  EXPECT_EQ(a_.left().coroutines, 0U);
}

TEST_F(SimWorlds, ClocksGoAtRatesOfTheirOwnAndTimersFollowTheirClock) {
  SimWorld sim(3);
  sim.clock_drift_ppm_max = 5000;
  SimHost& host = sim.AddHost();
  std::int64_t slowest = 0;
  std::int64_t fastest = 0;
  for (int i = 0; i < 8; ++i) {
    SimProcess& process = sim.Start(host);
    World& world = process.world();
    const Instant begin = world.clock.Now();
    const Instant before = sim.Now();
    const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
    std::optional<Instant> rang;
    timer->At(begin + 100s, [&rang, &world] { rang = world.clock.Now(); });
    ASSERT_TRUE(sim.RunUntil([&rang] { return rang.has_value(); }, sim.Now() + 110s));
    EXPECT_GE(*rang, begin + 100s);
    EXPECT_LT(*rang, begin + 100s + 2ns);
    const std::int64_t off = (sim.Now() - before - 100s).count();
    EXPECT_LE(std::abs(off), 510'000'000);
    slowest = std::max(slowest, off);
    fastest = std::min(fastest, off);
  }
  EXPECT_GT(slowest, 50'000'000);
  EXPECT_LT(fastest, -50'000'000);
}

TEST_F(SimWorlds, AStepOfTheWallClockIsSeenByTheWholeHostAndMovesNoTimer) {
  SimProcess& neighbour = sim_.Start(host_a_);
  const WallTime before = a_.world().clock.WallNow();
  EXPECT_EQ(neighbour.world().clock.WallNow(), before);
  const WallTime elsewhere = b_.world().clock.WallNow();
  const Instant steady = a_.world().clock.Now();
  sim_.StepWallClock(host_a_, -3h);
  EXPECT_EQ(a_.world().clock.WallNow(), before - 3h);
  EXPECT_EQ(neighbour.world().clock.WallNow(), before - 3h);
  EXPECT_EQ(b_.world().clock.WallNow(), elsewhere);
  EXPECT_EQ(a_.world().clock.Now(), steady);
}

TEST_F(SimWorlds, ALossOfPowerTearsWhatWasNotOnTheDiskYet) {
  int old = 0;
  int torn = 0;
  int whole = 0;
  for (int i = 0; i < 60; ++i) {
    SimWorld sim(static_cast<std::uint64_t>(100 + i));
    SimHost& host = sim.AddHost();
    SimProcess& first = sim.Start(host);
    ASSERT_TRUE(Succeeds(first.world().files.Write("/state", "settled")));
    sim.RunFor(1min);
    ASSERT_TRUE(Succeeds(first.world().files.Write("/state", "replaced")));
    EXPECT_EQ(*first.world().files.Read("/state", 100), "replaced");
    sim.Crash(first, CrashKind::kPowerLost);
    SimProcess& second = sim.Start(host);
    const std::string content = *second.world().files.Read("/state", 100);
    if (content == "settled") {
      ++old;
    } else if (content == "replaced") {
      ++whole;
    } else {
      EXPECT_TRUE(std::string("replaced").starts_with(content)) << content;
      ++torn;
    }
    sim.Exhume(first);
  }
  EXPECT_GT(old, 5);
  EXPECT_GT(torn, 5);
  EXPECT_GT(whole, 5);
}

TEST_F(SimWorlds, AKilledProcessLeavesItsFilesWhole) {
  ASSERT_TRUE(Succeeds(a_.world().files.Write("/state", "written")));
  sim_.Crash(a_, CrashKind::kKilled);
  EXPECT_EQ(*sim_.Start(host_a_).world().files.Read("/state", 100), "written");
  sim_.Exhume(a_);
}

TEST_F(SimWorlds, AStreamOfChanceIsItsOwn) {
  EXPECT_EQ(StreamSeed(1, "process", 2), StreamSeed(1, "process", 2));
  EXPECT_NE(StreamSeed(1, "process", 2), StreamSeed(1, "process", 3));
  EXPECT_NE(StreamSeed(1, "process", 2), StreamSeed(1, "action", 2));
  EXPECT_NE(StreamSeed(1, "process", 2), StreamSeed(2, "process", 2));
}

TEST_F(SimWorlds, ConnectionsOvertakeEachOther) {
  sim_.net().stream_options.lag_max = 10ms;
  const auto one = Connect();
  const auto two = Connect();
  int overtaken = 0;
  for (int i = 0; i < 50; ++i) {
    std::optional<Status> sent_one;
    std::optional<Status> sent_two;
    std::optional<Status> got_one;
    std::optional<Status> got_two;
    std::vector<std::byte> into_one;
    std::vector<std::byte> into_two;
    Spawn(b_.world().control, ReadAll(one.second, 10, into_one, got_one));
    Spawn(b_.world().control, ReadAll(two.second, 10, into_two, got_two));
    Spawn(a_.world().control, WriteAll(one.first, Drawn(10), sent_one));
    Spawn(a_.world().control, WriteAll(two.first, Drawn(10), sent_two));
    ASSERT_TRUE(sim_.RunUntil([&] { return got_one || got_two; }, sim_.Now() + 1s));
    if (!got_one) ++overtaken;
    ASSERT_TRUE(
        sim_.RunUntil([&] { return got_one && got_two && sent_one && sent_two; }, sim_.Now() + 1s));
  }
  EXPECT_GT(overtaken, 2);
  EXPECT_LT(overtaken, 48);
}

}  // namespace
}  // namespace mooncake
