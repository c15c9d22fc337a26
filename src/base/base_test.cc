#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <thread>

#include "base/address.h"
#include "base/error_catalogue.h"
#include "base/ids.h"
#include "base/light_mutex.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/test_loop.h"
#include "base/test_support.h"
#include "base/units.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

TEST(Errors, EveryRowSaysWhatToDo) {
  for (const ErrorEntry& entry : ErrorCatalogue()) {
    EXPECT_FALSE(entry.title.empty()) << ErrorName(entry.id);
    EXPECT_EQ(entry.remedy.back(), '.') << ErrorName(entry.id);
    EXPECT_EQ(&FindError(entry.id), &entry);
  }
}

TEST(Errors, TheTextHoldsIdTitleContextCauseAndRemedy) {
  const Error error{ErrorId::kConnectRefused, "peer p0 at 10.0.0.1:7", 111};
  EXPECT_EQ(error.Text(),
            "E102 nothing listens at the peer's address: peer p0 at 10.0.0.1:7 (Connection refused "
            "[111]). "
            "Do: Start the peer again; its record disappears by itself within 10 s.");
  EXPECT_EQ(Within("batch 3", error).context, "batch 3: peer p0 at 10.0.0.1:7");
}

TEST(Addresses, ParsesWhatPeopleWrite) {
  EXPECT_EQ(ToString(*ParseEndpoint("192.168.0.137:15624")), "192.168.0.137:15624");
  EXPECT_EQ(ToString(*ParseEndpoint("[fd00::4]:7700")), "[fd00::4]:7700");
  EXPECT_EQ(ParseHostPort("fd00::4")->host, "fd00::4");
  EXPECT_EQ(ParseHostPort("prefill-0")->host, "prefill-0");
  EXPECT_EQ(ParseHostPort("host:80")->port, 80);
  EXPECT_EQ(ToString(*ParseHostPort("host:80")), "host:80");
  EXPECT_EQ(ToString(*ParseHostPort("[fd00::4]:80")), "[fd00::4]:80");
  EXPECT_EQ(ToString(*ParseIpAddress("::ffff:10.0.0.1")), "10.0.0.1");
}

TEST(Addresses, RefusesWhatIsNone) {
  for (const char* text : {"", "a:b", "a:70000", "[fd00::4", "[fd00::4]x", "2605:340:cd51:7700:xyz",
                           ":80", "a b", "a/b"}) {
    EXPECT_TRUE(FailsWith(ParseHostPort(text), ErrorId::kBadAddress)) << text;
  }
  EXPECT_TRUE(FailsWith(ParseEndpoint("10.0.0.1"), ErrorId::kBadAddress));
  EXPECT_TRUE(FailsWith(ParseEndpoint("10.0.0.1:0"), ErrorId::kBadAddress));
  EXPECT_EQ(ToString(*ParseListenAddress("[fd00::4]:0")), "[fd00::4]:0");
  EXPECT_TRUE(FailsWith(ParseListenAddress("10.0.0.1"), ErrorId::kBadAddress));
  EXPECT_TRUE(FailsWith(ParseListenAddress("fd00::"), ErrorId::kBadAddress));
}

TEST(Addresses, KnowsTheirKinds) {
  EXPECT_TRUE(ParseIpAddress("127.0.0.5")->is_loopback());
  EXPECT_TRUE(ParseIpAddress("::1")->is_loopback());
  EXPECT_TRUE(ParseIpAddress("0.0.0.0")->is_unspecified());
  EXPECT_TRUE(ParseIpAddress("::")->is_unspecified());
  EXPECT_TRUE(ParseIpAddress("fe80::1%2")->is_link_local());
  EXPECT_FALSE(ParseIpAddress("10.0.0.1")->is_link_local());
}

TEST(Ids, RoundTrip) {
  const InstanceId id{0x0123456789abcdef, 0xfedcba9876543210};
  EXPECT_EQ(ParseInstanceId(ToString(id)), id);
  EXPECT_EQ(ShortId(id), "0123");
  EXPECT_FALSE(ParseInstanceId("0123"));
  EXPECT_FALSE(ParseInstanceId(std::string(32, 'x')));
}

TEST(Units, Bytes) {
  EXPECT_EQ(*ParseBytes("4 GB"), 4ULL << 30);
  EXPECT_EQ(*ParseBytes("1.5KiB"), 1536U);
  EXPECT_EQ(*ParseBytes("3355443200"), 3355443200U);
  for (const char* text : {"", "x", "-1", "1 parsec", "1e300", "nan"})
    EXPECT_FALSE(ParseBytes(text)) << text;
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(2ULL << 30), "2 GiB");
}

TEST(Units, Durations) {
  EXPECT_EQ(*ParseDuration("250ms"), 250ms);
  EXPECT_EQ(*ParseDuration("2"), 2s);
  EXPECT_FALSE(ParseDuration("soon"));
  EXPECT_EQ(FormatDuration(1500ms), "1.5 s");
}

TEST(Metrics, HistogramQuantilesAreWithinAnEighth) {
  Histogram histogram;
  for (std::uint64_t i = 1; i <= 10000; ++i) histogram.Record(i);
  const Histogram::Snapshot snapshot = histogram.Take();
  EXPECT_EQ(snapshot.count, 10000U);
  for (const double q : {0.1, 0.5, 0.9, 0.99}) {
    const double exact = q * 10000;
    EXPECT_LE(static_cast<double>(snapshot.Quantile(q)), exact + 1);
    EXPECT_GE(static_cast<double>(snapshot.Quantile(q)), exact * 0.875 - 1);
  }
  EXPECT_EQ(Histogram().Take().Quantile(0.5), 0U);
}

TEST(Metrics, TextIsWhatPrometheusReads) {
  Metrics metrics;
  metrics.AddCounter("mooncake_sent_bytes_total", "Bytes sent.", {{"path", "shm"}}).Add(7);
  metrics.AddCounter("mooncake_sent_bytes_total", "Bytes sent.", {{"path", "shm"}}).Add(1);
  metrics.AddGauge("mooncake_peers", "Connected peers.", [] { return 2.0; });
  metrics.AddHistogram("mooncake_wait_microseconds", "Waits.").Record(5);
  const std::string text = metrics.Text();
  EXPECT_NE(text.find("mooncake_sent_bytes_total{path=\"shm\"} 8"), std::string::npos) << text;
  EXPECT_NE(text.find("mooncake_peers 2"), std::string::npos);
  EXPECT_NE(text.find("mooncake_wait_microseconds_count 1"), std::string::npos);
}

TEST(LightMutex, KeepsOthersOutAndWakesThem) {
  LightMutex mutex;
  std::condition_variable_any all_are_done;
  int at_work = 4;
  std::uint64_t count = 0;
  const auto work = [&](int worker) {
    for (int i = 0; i < 2000; ++i) {
      if (worker > 0 || !mutex.try_lock()) mutex.lock();
      const std::uint64_t before = count;
      if (i % 16 == 0) std::this_thread::yield();  // somebody else finds it taken
      count = before + 1;
      mutex.unlock();
    }
    const LightLock lock(mutex);
    at_work -= 1;
    all_are_done.notify_all();
  };
  std::vector<std::jthread> workers;
  for (int i = 0; i < 4; ++i) workers.emplace_back(work, i);
  std::unique_lock lock(mutex);
  ASSERT_TRUE(all_are_done.wait_for(lock, 30s, [&at_work] { return at_work == 0; }));
  EXPECT_EQ(count, 8000U);
  EXPECT_FALSE(mutex.try_lock());
}

TEST(Log, WarningsAreKeptForTests) {
  MC_LOG(warn, "peer {} is silent", 7);
  EXPECT_EQ(TakeWarnings(), std::vector<std::string>{"peer 7 is silent"});
}

TEST(RealWorld, StreamsCarryBytesAndReportTheirEnd) {
  RealWorld real;
  World& world = real.world();
  RunOn(world, [&world]() -> Task<void> {
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0});
    EXPECT_TRUE(Succeeds(listener));
    const Endpoint at = (*listener)->bound();
    const Instant deadline = After(world.clock.Now(), 5s);
    Result<std::unique_ptr<Stream>> client =
        co_await world.network.Connect(world.control, at, deadline);
    EXPECT_TRUE(Succeeds(client));
    Result<std::unique_ptr<Stream>> server = co_await (*listener)->Accept();
    EXPECT_TRUE(Succeeds(server));
    const std::array<std::byte, 3> sent = {std::byte{1}, std::byte{2}, std::byte{3}};
    const std::array<Bytes, 2> buffers = {Bytes(sent).first(1), Bytes(sent).subspan(1)};
    const Status written = co_await (*client)->Write(buffers);
    EXPECT_TRUE(Succeeds(written));
    std::array<std::byte, 3> got{};
    const Status read = co_await ReadFull(**server, got);
    EXPECT_TRUE(Succeeds(read));
    EXPECT_EQ(got, sent);
    (*client)->Close();
    const Result<std::size_t> end = co_await (*server)->ReadSome(got);
    EXPECT_TRUE(FailsWith(end, ErrorId::kConnectionClosed));
  });
}

TEST(Log, AForkedChildMayLogWhateverOthersWereSaying) {
  std::atomic<bool> ends = false;
  std::vector<std::thread> talkers;
  for (int i = 0; i < 4; ++i) {
    talkers.emplace_back([&ends] {
      while (!ends) MC_LOG(warn, "talk");
    });
  }
  for (int i = 0; i < 300; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(5);
      MC_LOG(warn, "child");
      ::_exit(0);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  ends = true;
  for (std::thread& talker : talkers) talker.join();
  EXPECT_FALSE(TakeWarnings().empty());
}

TEST(RealWorld, ATakenPortNamesItsHolder) {
  RealWorld real;
  World& world = real.world();
  const Result<std::unique_ptr<Listener>> first =
      world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0});
  ASSERT_TRUE(Succeeds(first));
  const Result<std::unique_ptr<Listener>> second =
      world.network.Listen(world.control, (*first)->bound());
  ASSERT_TRUE(FailsWith(second, ErrorId::kPortTaken));
  EXPECT_NE(second.error().context.find(fmt::format("pid {}", world.network.host().process)),
            std::string::npos)
      << second.error().context;
}

TEST(RealWorld, AnAddressOfAnotherHostIsSaidToBeOne) {
  RealWorld real;
  World& world = real.world();
  EXPECT_TRUE(FailsWith(world.network.Listen(world.control, *ParseEndpoint("192.0.2.1:80")),
                        ErrorId::kAddressNotOurs));
}

TEST(RealWorld, LocalNamesExcludeEachOther) {
  RealWorld real;
  World& world = real.world();
  const std::string name = "mooncake-test-" + ToString(world.random.DrawInstanceId());
  const auto first = world.network.ListenLocal(world.control, name);
  ASSERT_TRUE(Succeeds(first));
  EXPECT_TRUE(FailsWith(world.network.ListenLocal(world.control, name), ErrorId::kPortTaken));
}

}  // namespace
}  // namespace mooncake
