#include "directory/directory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <filesystem>

#include "base/test_loop.h"
#include "base/test_support.h"
#include "directory/etcd/base64.h"
#include "directory/etcd/etcd_directory.h"
#include "directory/memory/directory_server.h"
#include "directory/memory/memory_directory.h"
#include "directory/record.h"
#include "wire/port_server.h"

extern char** environ;

namespace mooncake {
namespace {

using namespace std::chrono_literals;

Record MakeRecord(std::uint64_t id, std::string label, std::uint64_t incarnation = 1) {
  Record record;
  record.identity = {{id, 7}, incarnation, std::move(label), {"boot", "host", 42, "pid:[1]", 0}, "0.1"};
  record.cluster = "c";
  record.endpoints = {*ParseEndpoint("10.0.0.1:7"), *ParseEndpoint("[fd00::1]:7")};
  record.attributes = {{"role", "prefill"}};
  record.registered = WallTime(1700000000000ms);
  return record;
}

TEST(Base64, RoundTripsAndRefuses) {
  EXPECT_EQ(EncodeBase64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(EncodeBase64("foob"), "Zm9vYg==");
  for (const std::string text : {"", "f", "fo", "foo", "\xff\x00\x80"}) EXPECT_EQ(DecodeBase64(EncodeBase64(text)), text);
  for (const char* text : {"a", "ab=c", "####", "Zg=", "===="}) EXPECT_FALSE(DecodeBase64(text)) << text;
}

TEST(Records, JsonRoundTrip) {
  const Record record = MakeRecord(1, "p0");
  EXPECT_EQ(ToJson(record),  // docs/wire.md promises these names
            R"({"id":"00000000000000010000000000000007","incarnation":1,"label":"p0",)"
            R"("host":{"boot_id":"boot","name":"host","process":42,"process_namespace":"pid:[1]"},"version":"0.1","cluster":"c",)"
            R"("endpoints":["10.0.0.1:7","[fd00::1]:7"],"attributes":{"role":"prefill"},"registered_unix_ms":1700000000000})");
  const Result<Record> again = RecordFromJson(ToJson(record));
  ASSERT_TRUE(Succeeds(again));
  EXPECT_EQ(ToJson(*again), ToJson(record));
  for (const char* text : {"", "[]", "{}", R"({"id": 3})", R"({"id":"zz"})"}) {
    EXPECT_TRUE(FailsWith(RecordFromJson(text), ErrorId::kDirectoryGarbage)) << text;
  }
}

TEST(Records, TheNewestIncarnationWinsAndNotFoundSaysWhy) {
  const std::vector<Record> records = {MakeRecord(1, "p0", 5), MakeRecord(2, "p0", 9), MakeRecord(3, "p1")};
  EXPECT_EQ(PickNewest("p0", records, {})->identity.id.high, 2U);
  Result<Record> none = PickNewest("p7", records, {});
  ASSERT_TRUE(FailsWith(none, ErrorId::kNotFound));
  EXPECT_NE(none.error().context.find("never registered"), std::string::npos);
  Roster roster;
  roster.Update(records, {});
  roster.Update({records[2]}, {});
  none = PickNewest("p0", roster.records(), roster.gone());
  ASSERT_TRUE(FailsWith(none, ErrorId::kNotFound));
  EXPECT_NE(none.error().context.find("expired"), std::string::npos) << none.error().context;
}

TEST(RecordTable, LeasesEndAndSignsOfLifeRenewThem) {
  RecordTable table;
  const Instant start{};
  ASSERT_TRUE(table.Register(MakeRecord(1, "a"), start + 10s));
  ASSERT_TRUE(table.Register(MakeRecord(2, "b"), start + 10s));
  ASSERT_TRUE(table.Register(MakeRecord(2, "b"), start + 15s));
  EXPECT_EQ(table.Expire(start + 10s, {}), start + 15s);
  EXPECT_EQ(table.List("c").size(), 1U);
  EXPECT_EQ(table.gone().at(0).cause, "expired");
  table.Shorten({2, 7}, start + 12s);
  EXPECT_EQ(table.Expire(start + 12s, {}), kNever);
  EXPECT_TRUE(table.List("c").empty());
}

TEST(ConnectionStrings, AreTakenAsUsersWriteThem) {
  const Result<EtcdServers> servers = ParseEtcdServers("etcd://root:p@ss@10.0.0.1:2379,[fd00::2]:99,h");
  ASSERT_TRUE(Succeeds(servers));
  EXPECT_EQ(servers->user, "root");
  EXPECT_EQ(servers->password, "p@ss");
  ASSERT_EQ(servers->endpoints.size(), 3U);
  EXPECT_EQ(servers->endpoints[1].host, "fd00::2");
  RealWorld real;
  EXPECT_EQ((*OpenDirectory(real.world(), "10.0.0.1:2379", "c"))->Describe(), "etcd://10.0.0.1:2379");
  EXPECT_EQ((*OpenDirectory(real.world(), "P2PHANDSHAKE", "c"))->Describe(), "P2PHANDSHAKE");
  EXPECT_EQ((*OpenDirectory(real.world(), "mooncake://a", "c"))->Describe(), "mooncake://a:7700");
  EXPECT_TRUE(FailsWith(OpenDirectory(real.world(), "zk://a", "c"), ErrorId::kBadOptionValue));
  EXPECT_TRUE(FailsWith(OpenDirectory(real.world(), "etcd://", "c"), ErrorId::kBadAddress));
}

// ---- the contract of every directory, on each kind that this machine has ------------------------

// A real etcd on free ports, in a folder of its own.
class EtcdProcess {
 public:
  static bool IsInstalled() { return std::filesystem::exists("/usr/bin/etcd"); }
  explicit EtcdProcess(World& world) {
    const auto free_port = [&world] {
      return (*world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0}))->bound().port;
    };
    port_ = free_port();
    peer_port_ = free_port();
    folder_ = std::filesystem::temp_directory_path() / ("mooncake-etcd-" + ToString(world.random.DrawInstanceId()));
    Start();
  }
  ~EtcdProcess() {
    Kill();
    std::filesystem::remove_all(folder_);
  }
  void Start() {
    const std::string client = fmt::format("http://127.0.0.1:{}", port_);
    const std::string peer = fmt::format("http://127.0.0.1:{}", peer_port_);
    std::vector<std::string> arguments = {"etcd", "--data-dir", folder_.string(), "--listen-client-urls", client,
                                          "--advertise-client-urls", client, "--listen-peer-urls", peer,
                                          "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
                                          "--log-level", "error", "--unsafe-no-fsync"};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", 1, 0);
    posix_spawn_file_actions_addopen(&files, 2, "/dev/null", 1, 0);
    ASSERT_EQ(posix_spawn(&pid_, "/usr/bin/etcd", &files, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&files);
  }
  void Kill() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  std::string url() const { return fmt::format("etcd://127.0.0.1:{}", port_); }

 private:
  std::uint16_t port_ = 0;
  std::uint16_t peer_port_ = 0;
  std::filesystem::path folder_;
  pid_t pid_ = 0;
};

class DirectoryContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "etcd") {
      if (!EtcdProcess::IsInstalled()) GTEST_SKIP() << "no /usr/bin/etcd on this machine";
      etcd_ = std::make_unique<EtcdProcess>(world_);
      connection_ = etcd_->url();
    } else if (GetParam() == "mooncake") {
      server_ = std::make_shared<PortServer>(world_, metrics_, PortServerOptions{});
      server_->introduce = [] { return Introduction{{.id = {1, 1}, .label = "directory"}, {}, {}}; };
      std::make_shared<DirectoryServer>(world_)->AddTo(server_->router);
      Result<std::unique_ptr<Listener>> listener = world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0});
      ASSERT_TRUE(Succeeds(listener));
      connection_ = "mooncake://" + ToString((*listener)->bound());
      std::shared_ptr<Listener> shared = std::move(*listener);
      Post(world_.control, [this, shared] { server_->Serve(shared); });
    }
    // "host" needs nothing
  }
  void TearDown() override {
    directories_.clear();
    RunOn(world_, [this]() -> Task<void> {
      if (server_) server_->Close(Error{ErrorId::kClosed, {}});
      co_return;
    });
    real_.Stop();
  }
  Directory& Open() {
    Result<std::unique_ptr<Directory>> directory = OpenDirectory(world_, connection_, cluster_);
    EXPECT_TRUE(Succeeds(directory));
    return *directories_.emplace_back(std::move(*directory));
  }
  Record Mine(std::uint64_t id, std::string label, std::uint64_t incarnation = 1) {
    Record record = MakeRecord(id, std::move(label), incarnation);
    record.cluster = cluster_;
    return record;
  }
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }

  Metrics metrics_;
  RealWorld real_;
  World& world_ = real_.world();
  std::string cluster_ = "test-" + ToString(world_.random.DrawInstanceId());
  std::string connection_;
  std::unique_ptr<EtcdProcess> etcd_;
  std::shared_ptr<PortServer> server_;
  std::vector<std::unique_ptr<Directory>> directories_;
};

TEST_P(DirectoryContract, WhatOnePublishesAnotherFindsUntilItIsWithdrawn) {
  Directory& a = Open();
  Directory& b = Open();
  RunOn(world_, [&]() -> Task<void> {
    Status published = co_await a.Publish(Mine(1, "p0"), In(10s));
    EXPECT_TRUE(Succeeds(published));
    Result<Record> found = co_await b.Find("p0", In(5s));
    EXPECT_TRUE(Succeeds(found));
    EXPECT_EQ(ToJson(*found), ToJson(Mine(1, "p0")));
    Result<Record> none = co_await b.Find("nobody", In(5s));
    EXPECT_TRUE(FailsWith(none, ErrorId::kNotFound));
    co_await a.Withdraw(In(5s));
    none = co_await b.Find("p0", In(5s));
    EXPECT_TRUE(FailsWith(none, ErrorId::kNotFound));
    EXPECT_NE(none.error().context.find("withdrawn"), std::string::npos) << none.error().context;
  });
}

TEST_P(DirectoryContract, EqualLabelsLiveSideBySideAndTheNewestIsFound) {
  Directory& a = Open();
  Directory& b = Open();
  RunOn(world_, [&]() -> Task<void> {
    Status first = co_await a.Publish(Mine(1, "same", 10), In(10s));
    Status second = co_await b.Publish(Mine(2, "same", 20), In(10s));
    EXPECT_TRUE(Succeeds(first));
    EXPECT_TRUE(Succeeds(second));
    Result<std::vector<Record>> all = co_await a.List(In(5s));
    EXPECT_TRUE(Succeeds(all));
    EXPECT_EQ(all->size(), 2U);
    Result<Record> found = co_await a.Find("same", In(5s));
    EXPECT_EQ(found->identity.id.high, 2U);
  });
}

TEST_P(DirectoryContract, AnotherClustersRecordsAreNotSeen) {
  Directory& a = Open();
  cluster_ += "-other";
  Directory& b = Open();
  RunOn(world_, [&]() -> Task<void> {
    Status published = co_await b.Publish(Mine(1, "p0"), In(10s));
    EXPECT_TRUE(Succeeds(published));
    Result<std::vector<Record>> all = co_await a.List(In(5s));
    EXPECT_TRUE(all->empty());
  });
}

INSTANTIATE_TEST_SUITE_P(Each, DirectoryContract, testing::Values("host", "mooncake", "etcd"),
                         [](const auto& info) { return info.param; });

class EtcdFaults : public DirectoryContract {};

TEST_P(EtcdFaults, ARestartedEtcdWithoutItsDataGetsTheRecordAgain) {
  Directory& a = Open();
  RunOn(world_, [&]() -> Task<void> {
    Status published = co_await a.Publish(Mine(1, "p0"), In(10s));
    EXPECT_TRUE(Succeeds(published));
  });
  etcd_->Kill();
  RunOn(world_, [&]() -> Task<void> {
    Result<Record> gone = co_await a.Find("p0", In(1s));
    EXPECT_TRUE(FailsWith(gone, ErrorId::kDirectoryRefused));
    EXPECT_TRUE(a.outage().has_value());
  });
  etcd_->Start();
  RunOn(world_, [&]() -> Task<void> {
    Result<Record> found = co_await a.Find("p0", In(1s));
    for (int i = 0; i < 100 && !found; ++i) {
      co_await world_.clock.SleepFor(world_.control, 100ms);
      found = co_await a.Find("p0", In(1s));
    }
    EXPECT_TRUE(Succeeds(found));
    EXPECT_FALSE(a.outage().has_value());
  });
}

INSTANTIATE_TEST_SUITE_P(Each, EtcdFaults, testing::Values("etcd"), [](const auto& info) { return info.param; });

// ---- what may stand at the address instead of a directory ----------------------------------------

class WrongServices : public testing::Test {
 protected:
  Status PublishTo(const std::string& connection, Duration timeout) {
    Result<std::unique_ptr<Directory>> directory = OpenDirectory(world_, connection, "c");
    if (!directory) return Fail(directory.error());
    Status outcome;
    RunOn(world_, [&]() -> Task<void> {
      outcome = co_await (*directory)->Publish(MakeRecord(1, "p0"), After(world_.clock.Now(), timeout));
    });
    return outcome;
  }
  RealWorld real_;
  World& world_ = real_.world();
};

TEST_F(WrongServices, AClosedPortIsRefused) {
  const Endpoint closed = (*world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0}))->bound();
  EXPECT_TRUE(FailsWith(PublishTo("etcd://" + ToString(closed), 300ms), ErrorId::kDirectoryRefused));
  EXPECT_TRUE(FailsWith(PublishTo("mooncake://" + ToString(closed), 300ms), ErrorId::kDirectoryRefused));
}

TEST_F(WrongServices, ASilentPortTimesOut) {
  const auto listener = world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0});
  const std::string at = ToString((*listener)->bound());
  EXPECT_TRUE(FailsWith(PublishTo("etcd://" + at, 300ms), ErrorId::kDirectoryTimeout));
}

TEST_F(WrongServices, OurOwnPortAndAStrangersAreToldApart) {
  Metrics metrics;
  const auto server = std::make_shared<PortServer>(world_, metrics, PortServerOptions{});
  server->introduce = [] { return Introduction{{.id = {1, 1}, .label = "an instance"}, {}, {}}; };
  server->on_http = [](HttpExchange& exchange) -> Task<void> {
    auto answer = exchange.Respond(404, "text/plain", "no such page\n", {});
    static_cast<void>(co_await std::move(answer));
  };
  Result<std::unique_ptr<Listener>> listener = world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0});
  const std::string at = ToString((*listener)->bound());
  std::shared_ptr<Listener> shared = std::move(*listener);
  Post(world_.control, [server, shared] { server->Serve(shared); });
  EXPECT_TRUE(FailsWith(PublishTo("etcd://" + at, 5s), ErrorId::kDirectoryIsUs));
  EXPECT_TRUE(FailsWith(PublishTo("mooncake://" + at, 5s), ErrorId::kDirectoryIsUs));
  RunOn(world_, [&]() -> Task<void> {
    server->Close(Error{ErrorId::kClosed, {}});
    co_return;
  });
}

}  // namespace
}  // namespace mooncake
