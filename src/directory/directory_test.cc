#include "directory/directory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <deque>
#include <filesystem>

#include "base/base64.h"
#include "base/test_loop.h"
#include "base/test_support.h"
#include "directory/etcd/etcd_directory.h"
#include "directory/http/metadata_server.h"
#include "directory/memory/directory_server.h"
#include "directory/memory/memory_directory.h"
#include "directory/record.h"
#include "security/test_certificates.h"
#include "wire/test_port.h"

extern char** environ;

namespace mooncake {
namespace {

using namespace std::chrono_literals;

Record MakeRecord(std::uint64_t id, std::string label, std::uint64_t incarnation = 1) {
  Record record;
  record.identity = {
      {id, 7}, incarnation, std::move(label), {"boot", "host", 42, "pid:[1]", 0}, "0.1"};
  record.cluster = "c";
  record.endpoints = {*ParseEndpoint("10.0.0.1:7"), *ParseEndpoint("[fd00::1]:7")};
  record.attributes = {{"role", "prefill"}};
  record.registered = WallTime(1700000000000ms);
  return record;
}

TEST(Base64, RoundTripsAndRefuses) {
  EXPECT_EQ(EncodeBase64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(EncodeBase64("foob"), "Zm9vYg==");
  for (const std::string text : {"", "f", "fo", "foo", "\xff\x00\x80"})
    EXPECT_EQ(DecodeBase64(EncodeBase64(text)), text);
  for (const char* text : {"a", "ab=c", "####", "Zg=", "===="})
    EXPECT_FALSE(DecodeBase64(text)) << text;
}

TEST(Records, JsonRoundTrip) {
  const Record record = MakeRecord(1, "p0");
  EXPECT_EQ(
      ToJson(record),  // docs/wire.md promises these names
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
  const std::vector<Record> records = {MakeRecord(1, "p0", 5), MakeRecord(2, "p0", 9),
                                       MakeRecord(3, "p1")};
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
  const Result<EtcdServers> servers =
      ParseEtcdServers("etcd://root:p@ss@10.0.0.1:2379,[fd00::2]:99,h");
  ASSERT_TRUE(Succeeds(servers));
  EXPECT_EQ(servers->user, "root");
  EXPECT_EQ(servers->password, "p@ss");
  ASSERT_EQ(servers->endpoints.size(), 3U);
  EXPECT_EQ(servers->endpoints[1].host, "fd00::2");
  RealWorld real;
  EXPECT_EQ((*OpenDirectory(real.world(), "10.0.0.1:2379", "c"))->Describe(),
            "etcd://10.0.0.1:2379");
  EXPECT_EQ((*OpenDirectory(real.world(), "P2PHANDSHAKE", "c"))->Describe(), "P2PHANDSHAKE");
  EXPECT_EQ((*OpenDirectory(real.world(), "mooncake://a", "c"))->Describe(), "mooncake://a:7700");
  EXPECT_EQ((*OpenDirectory(real.world(), "redis://u:secret@a/2", "c"))->Describe(),
            "redis://a:6379/2");
  EXPECT_EQ((*OpenDirectory(real.world(), "http://a:8080/metadata", "c"))->Describe(),
            "http://a:8080/metadata");
  EXPECT_EQ((*OpenDirectory(real.world(), "http://[fd00::2]", "c"))->Describe(),
            "http://[fd00::2]:80/metadata");
  EXPECT_EQ((*OpenDirectory(real.world(), "etcds://u:p@a,https://b:1", "c"))->Describe(),
            "etcds://a:2379,b:1");
  EXPECT_EQ((*OpenDirectory(real.world(), "rediss://a", "c"))->Describe(), "rediss://a:6379");
  EXPECT_EQ((*OpenDirectory(real.world(), "https://a", "c"))->Describe(), "https://a:443/metadata");
  EXPECT_TRUE(FailsWith(OpenDirectory(real.world(), "zk://a", "c"), ErrorId::kBadOptionValue));
  for (const char* wrong : {"http://u:p@a/metadata", "http://a/metadata?key=1", "redis://a/b"}) {
    EXPECT_TRUE(FailsWith(OpenDirectory(real.world(), wrong, "c"), ErrorId::kBadAddress)) << wrong;
  }
  EXPECT_TRUE(FailsWith(OpenDirectory(real.world(), "etcd://", "c"), ErrorId::kBadAddress));
}

// ---- the contract of every directory, on each kind that this machine has ------------------------

// A service of the public kind, in another language than ours: it keeps values, and neither forgets
// nor lists.
constexpr const char* kPublicMetadataService = R"(
import http.server, sys, urllib.parse
kept = {}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def log_message(self, *ignored): pass
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def key(self):
        url = urllib.parse.urlsplit(self.path)
        key = urllib.parse.parse_qs(url.query).get("key", [""])[0].strip()
        if not key: self.answer(400, b"key is required")
        return key
    def do_GET(self):
        key = self.key()
        if key: self.answer(200, kept[key]) if key in kept else self.answer(404)
    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.key()
        if key: kept[key] = body; self.answer(200)
    def do_DELETE(self):
        key = self.key()
        if key: self.answer(200 if kept.pop(key, None) is not None else 404)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
)";

// A real service on a free port, in a folder of its own. It keeps its port when it is started
// again.
class ServiceProcess {
 public:
  static const char* Program(const std::string& kind) {
    if (kind.starts_with("etcd")) return "/usr/bin/etcd";
    if (kind.starts_with("redis")) return "/usr/bin/redis-server";
    return "/usr/bin/python3";
  }

  ServiceProcess(World& world, std::string kind, std::vector<std::string> more = {})
      : kind_(std::move(kind)), more_(std::move(more)) {
    // Below those that the kernel gives to outgoing connections, one of which would take it before
    // the service does.
    const auto free_port = [&world] {
      for (;;) {
        const auto port = static_cast<std::uint16_t>(20000 + world.random.Below(12000));
        if (world.network.Listen(world.control, {IpAddress::LoopbackV4(), port})) return port;
      }
    };
    port_ = free_port();
    peer_port_ = free_port();
    folder_ = std::filesystem::temp_directory_path() /
              ("mooncake-" + kind_ + "-" + ToString(world.random.DrawInstanceId()));
    Start();
  }
  ~ServiceProcess() {
    Kill();
    std::filesystem::remove_all(folder_);
  }
  void Start() {
    std::filesystem::create_directory(folder_);
    std::vector<std::string> arguments = Arguments();
    arguments.insert(arguments.end(), more_.begin(), more_.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", 1, 0);
    posix_spawn_file_actions_addopen(&files, 2, "/dev/null", 1, 0);
    ASSERT_EQ(posix_spawn(&pid_, Program(kind_), &files, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&files);
  }
  void Kill() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  void ForgetData() { std::filesystem::remove_all(folder_); }
  void Suspend() const {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void Resume() const { ::kill(pid_, SIGCONT); }
  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }
  std::string url() const {
    return kind_ == "http-public" ? "http://" + address() + "/metadata" : kind_ + "://" + address();
  }

 private:
  std::vector<std::string> Arguments() const {
    const std::string client = (kind_ == "etcds" ? "https://" : "http://") + address();
    const std::string peer = fmt::format("http://127.0.0.1:{}", peer_port_);
    if (kind_.starts_with("etcd")) {
      return {"etcd",
              "--data-dir",
              folder_.string(),
              "--listen-client-urls",
              client,
              "--advertise-client-urls",
              client,
              "--listen-peer-urls",
              peer,
              "--initial-advertise-peer-urls",
              peer,
              "--initial-cluster",
              "default=" + peer,
              "--log-level",
              "error",
              "--unsafe-no-fsync"};
    }
    if (kind_.starts_with("redis")) {
      const bool plain = kind_ == "redis";
      return {"redis-server",
              "--port",
              plain ? std::to_string(port_) : "0",
              "--tls-port",
              plain ? "0" : std::to_string(port_),
              "--bind",
              "127.0.0.1",
              "--dir",
              folder_.string(),
              "--save",
              "",
              "--appendonly",
              "no"};
    }
    return {"python3", "-c", kPublicMetadataService, std::to_string(port_)};
  }

  std::string kind_;
  std::vector<std::string> more_;
  std::uint16_t port_ = 0;
  std::uint16_t peer_port_ = 0;
  std::filesystem::path folder_;
  pid_t pid_ = 0;
};

std::string NameOf(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// One of each kind of directory: a process of its own, or what `mooncake directory --http` serves;
// "host" needs nothing.
class Service {
 public:
  static bool IsAvailable(const std::string& kind) {
    return !IsProcess(kind) || std::filesystem::exists(ServiceProcess::Program(kind));
  }
  Service(World& world, const std::string& kind) : world_(world) {
    if (IsProcess(kind)) {
      process_ = std::make_unique<ServiceProcess>(world, kind, Certificates(kind));
      connection_ = process_->url();
    } else if (kind != "host") {
      if (kind == "https" || kind == "mooncake-tls") credentials_.tls = Certified();
      if (kind == "mooncake-tls") credentials_.secret = *ClusterSecret::Make("sixteen and a bit");
      Serve({IpAddress::LoopbackV4(), 0});
      connection_ = kind.starts_with("http") ? kind + "://" + ToString(at_) + "/metadata"
                                             : "mooncake://" + ToString(at_);
    }
    access_.credentials = credentials_;
    access_.tls = ForServices();
  }
  ~Service() { Stop(); }
  const std::string& connection() const { return connection_; }
  const DirectoryAccess& access() const { return access_; }
  ServiceProcess& process() { return *process_; }
  void Stop() {
    if (process_) process_->Kill();
    StopServing(world_, std::exchange(server_, nullptr));
  }
  void StartWithoutData() {
    if (!process_) return Serve(at_);
    process_->ForgetData();
    process_->Start();
  }

 private:
  static bool IsProcess(const std::string& kind) {
    return kind.starts_with("etcd") || kind.starts_with("redis") || kind == "http-public";
  }
  // What makes the service speak TLS, and ask for a certificate.
  std::vector<std::string> Certificates(const std::string& kind) {
    if (kind != "etcds" && kind != "rediss") return {};
    const TestIssuer::Issued issued = issuer_.Issue("127.0.0.1");
    const std::string certificate = files_.Write(issued.certificate);
    const std::string key = files_.Write(issued.key);
    const std::string ca = files_.Write(issuer_.certificate());
    if (kind == "etcds") {
      return {"--cert-file",       certificate, "--key-file",        key,
              "--trusted-ca-file", ca,          "--client-cert-auth"};
    }
    return {"--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca};
  }
  TlsFiles WriteFiles(const std::string& host) {
    const TestIssuer::Issued issued = issuer_.Issue(host);
    return {files_.Write(issued.certificate), files_.Write(issued.key),
            files_.Write(issuer_.certificate())};
  }
  std::shared_ptr<const TlsContext> Certified() {
    return *TlsContext::ForCluster(world_.files, WriteFiles("127.0.0.1"));
  }
  std::shared_ptr<const TlsContext> ForServices() {
    return *TlsContext::ForServices(world_.files, WriteFiles("client"));
  }
  void Serve(const Endpoint& at) {
    Result<std::unique_ptr<Listener>> listener = world_.network.Listen(world_.control, at);
    ASSERT_TRUE(Succeeds(listener));
    at_ = (*listener)->bound();
    server_ = std::make_shared<PortServer>(world_, metrics_.emplace_back(), PortServerOptions{});
    server_->introduce = [credentials = credentials_] {
      return Introduction{{.id = {1, 1}, .label = "directory"}, {}, {}, credentials};
    };
    std::make_shared<DirectoryServer>(world_)->AddTo(server_->router);
    const auto metadata = std::make_shared<MetadataServer>(world_);
    server_->on_http = [metadata](HttpExchange& exchange) { return metadata->Handle(exchange); };
    std::shared_ptr<Listener> shared = std::move(*listener);
    Post(world_.control, [server = server_, shared] { server->Serve(shared); });
  }

  World& world_;
  TestFiles files_;
  TestIssuer issuer_;
  Credentials credentials_;
  DirectoryAccess access_;
  std::unique_ptr<ServiceProcess> process_;
  std::deque<Metrics> metrics_;  // of each server in turn
  std::shared_ptr<PortServer> server_;
  Endpoint at_;
  std::string connection_;
};

class DirectoryContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!Service::IsAvailable(GetParam())) {
      GTEST_SKIP() << "no " << ServiceProcess::Program(GetParam()) << " on this machine";
    }
    service_ = std::make_unique<Service>(world_, GetParam());
    connection_ = service_->connection();
  }
  void TearDown() override {
    directories_.clear();
    service_ = nullptr;
    real_.Stop();
  }
  Directory& Open() {
    Result<std::unique_ptr<Directory>> directory =
        OpenDirectory(world_, connection_, cluster_, service_->access());
    EXPECT_TRUE(Succeeds(directory));
    return *directories_.emplace_back(std::move(*directory));
  }
  Record Mine(std::uint64_t id, std::string label, std::uint64_t incarnation = 1) {
    Record record = MakeRecord(id, std::move(label), incarnation);
    record.cluster = cluster_;
    return record;
  }
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }

  RealWorld real_;
  World& world_ = real_.world();
  std::string cluster_ = "test-" + ToString(world_.random.DrawInstanceId());
  std::string connection_;
  std::unique_ptr<Service> service_;
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

TEST_P(DirectoryContract, ManyThatStartAtOnceAreAllFound) {
  constexpr std::uint64_t kCount = 8;
  std::vector<Status> published(kCount);
  std::vector<std::shared_ptr<OneShot<bool>>> ended;
  Directory& reader = Open();
  RunOn(world_, [&]() -> Task<void> {
    for (std::uint64_t i = 0; i < kCount; ++i) {
      Spawn(world_.control,
            [](Directory& directory, Record record, Instant limit, Status& status,
               std::shared_ptr<OneShot<bool>> end) -> Task<void> {
              auto publish = directory.Publish(std::move(record), limit);
              status = co_await std::move(publish);
              end->Set(true);
            }(Open(), Mine(i + 1, "p"), In(10s), published[i],
                                                   ended.emplace_back(
                                                       std::make_shared<OneShot<bool>>())));
    }
    for (const auto& end : ended) co_await end->Get();
    for (const Status& status : published) EXPECT_TRUE(Succeeds(status));
    Result<std::vector<Record>> all = co_await reader.List(In(5s));
    for (int i = 0; i < 100 && all && all->size() < kCount;
         ++i) {  // a listing of the public kind heals in a few signs of life
      co_await world_.clock.SleepFor(world_.control, 100ms);
      all = co_await reader.List(In(5s));
    }
    EXPECT_TRUE(Succeeds(all));
    EXPECT_EQ(all->size(), kCount);
    EXPECT_TRUE(std::is_sorted(all->begin(), all->end(), [](const Record& a, const Record& b) {
      return a.identity.id < b.identity.id;
    }));
  });
}

INSTANTIATE_TEST_SUITE_P(Each, DirectoryContract,
                         testing::Values("host", "mooncake", "etcd", "redis", "http", "http-public",
                                         "mooncake-tls", "etcds", "rediss", "https"),
                         &NameOf);

// Those whose service is another process than ours, which may go away and come back.
class DirectoryFaults : public DirectoryContract {
 protected:
  // Looks again and again until `label` is there, for 10 s at least.
  Task<Result<Record>> FindAgain(Directory& directory, std::string label) {
    constexpr int kLooksMax = 100;
    Result<Record> found = co_await directory.Find(label, In(1s));
    for (int i = 0; i < kLooksMax && !found; ++i) {
      co_await world_.clock.SleepFor(world_.control, 100ms);
      found = co_await directory.Find(label, In(1s));
    }
    co_return found;
  }
};

TEST_P(DirectoryFaults, AServiceRestartedWithoutItsDataGetsTheRecordAgain) {
  Directory& a = Open();
  RunOn(world_, [&]() -> Task<void> {
    Status published = co_await a.Publish(Mine(1, "p0"), In(10s));
    EXPECT_TRUE(Succeeds(published));
  });
  service_->Stop();
  RunOn(world_, [&]() -> Task<void> {
    Result<Record> gone = co_await a.Find("p0", In(1s));
    EXPECT_TRUE(FailsWith(gone, ErrorId::kDirectoryRefused));
    EXPECT_TRUE(a.outage().has_value());
  });
  service_->StartWithoutData();
  RunOn(world_, [&]() -> Task<void> {
    Result<Record> found = co_await FindAgain(a, "p0");
    EXPECT_TRUE(Succeeds(found));
    EXPECT_FALSE(a.outage().has_value());
  });
}

// Those whose service can be stopped without its end: not the one that this process serves itself.
class DirectorySilence : public DirectoryFaults {};

TEST_P(DirectorySilence, IsAnOutageAndHeals) {
  Directory& a = Open();
  RunOn(world_, [&]() -> Task<void> {
    Status published = co_await a.Publish(Mine(1, "p0"), In(10s));
    EXPECT_TRUE(Succeeds(published));
  });
  service_->process().Suspend();
  RunOn(world_, [&]() -> Task<void> {
    Result<Record> silent = co_await a.Find("p0", In(300ms));
    EXPECT_TRUE(FailsWith(silent, ErrorId::kDirectoryTimeout));
    EXPECT_TRUE(a.outage().has_value());
  });
  service_->process().Resume();
  RunOn(world_, [&]() -> Task<void> {
    Result<Record> found = co_await FindAgain(a, "p0");
    EXPECT_TRUE(Succeeds(found));
    EXPECT_FALSE(a.outage().has_value());
  });
}

INSTANTIATE_TEST_SUITE_P(Each, DirectoryFaults,
                         testing::Values("etcd", "redis", "http", "http-public", "etcds"), &NameOf);
INSTANTIATE_TEST_SUITE_P(Each, DirectorySilence, testing::Values("etcd", "redis", "http-public"),
                         &NameOf);

// Every kind at once: each takes as long as a lease lasts.
TEST(DirectoryLeases, WhoShowsNoSignOfLifeIsGoneFromEveryKindWithinItsLease) {
  RealWorld real;
  World& world = real.world();
  const std::string cluster = "test-" + ToString(world.random.DrawInstanceId());
  std::vector<std::unique_ptr<Service>> services;
  std::vector<std::unique_ptr<Directory>> readers;
  std::vector<std::unique_ptr<Directory>> dying;
  for (const char* kind : {"etcd", "redis", "http", "http-public"}) {
    if (!Service::IsAvailable(kind)) continue;
    const std::string connection =
        services.emplace_back(std::make_unique<Service>(world, kind))->connection();
    readers.push_back(*OpenDirectory(world, connection, cluster));
    dying.push_back(*OpenDirectory(world, connection, cluster));
  }
  RunOn(world, [&]() -> Task<void> {
    for (const auto& directory : dying) {
      auto publish = directory->Publish(MakeRecord(1, "p0"), After(world.clock.Now(), 10s));
      const Status published = co_await std::move(publish);
      EXPECT_TRUE(Succeeds(published)) << directory->Describe();
    }
  });
  dying.clear();  // as when a process is killed: nothing is withdrawn
  const Instant start = world.clock.Now();
  RunOn(world, [&]() -> Task<void> {
    for (const auto& reader : readers) {
      auto find = reader->Find("p0", After(world.clock.Now(), 1s));
      const Result<Record> found = co_await std::move(find);
      EXPECT_TRUE(Succeeds(found)) << reader->Describe();
    }
    for (const auto& reader : readers) {
      Result<Record> found = co_await reader->Find("p0", After(world.clock.Now(), 1s));
      while (found && world.clock.Now() < start + 2 * kLeaseDuration) {
        co_await world.clock.SleepFor(world.control, 100ms);
        found = co_await reader->Find("p0", After(world.clock.Now(), 1s));
      }
      const bool gone = FailsWith(found, ErrorId::kNotFound);
      EXPECT_TRUE(gone) << reader->Describe();
      const std::string why = gone ? found.error().context : "";
      EXPECT_NE(why.find("expired"), std::string::npos) << why;
      EXPECT_LT(world.clock.Now() - start, kLeaseDuration + 1s)
          << reader->Describe();  // etcd looks twice a second
    }
  });
  readers.clear();
}

// ---- what may stand at the address instead of a directory ----

class WrongServices : public testing::Test {
 protected:
  Status PublishTo(const std::string& connection, Duration timeout,
                   const DirectoryAccess& access = {}) {
    Result<std::unique_ptr<Directory>> directory = OpenDirectory(world_, connection, "c", access);
    if (!directory) return Fail(directory.error());
    Status outcome;
    RunOn(world_, [&]() -> Task<void> {
      outcome =
          co_await (*directory)->Publish(MakeRecord(1, "p0"), After(world_.clock.Now(), timeout));
    });
    return outcome;
  }
  RealWorld real_;
  World& world_ = real_.world();
};

TEST_F(WrongServices, AClosedPortIsRefused) {
  const Endpoint closed =
      (*world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0}))->bound();
  EXPECT_TRUE(
      FailsWith(PublishTo("etcd://" + ToString(closed), 300ms), ErrorId::kDirectoryRefused));
  EXPECT_TRUE(
      FailsWith(PublishTo("mooncake://" + ToString(closed), 300ms), ErrorId::kDirectoryRefused));
  EXPECT_TRUE(
      FailsWith(PublishTo("redis://" + ToString(closed), 300ms), ErrorId::kDirectoryRefused));
  EXPECT_TRUE(FailsWith(PublishTo("http://" + ToString(closed) + "/metadata", 300ms),
                        ErrorId::kDirectoryRefused));
}

TEST_F(WrongServices, ASilentPortTimesOut) {
  const auto listener = world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0});
  const std::string at = ToString((*listener)->bound());
  EXPECT_TRUE(FailsWith(PublishTo("etcd://" + at, 300ms), ErrorId::kDirectoryTimeout));
  EXPECT_TRUE(FailsWith(PublishTo("redis://" + at, 300ms), ErrorId::kDirectoryTimeout));
  EXPECT_TRUE(
      FailsWith(PublishTo("http://" + at + "/metadata", 300ms), ErrorId::kDirectoryTimeout));
}

TEST_F(WrongServices, OurOwnPortAndAStrangersAreToldApart) {
  Metrics metrics;
  const auto server = std::make_shared<PortServer>(world_, metrics, PortServerOptions{});
  server->introduce = [] { return Introduction{{.id = {1, 1}, .label = "an instance"}, {}, {}}; };
  server->on_http = [](HttpExchange& exchange) -> Task<void> {
    auto answer = exchange.Respond(404, "text/plain", "no such page\n", {});
    static_cast<void>(co_await std::move(answer));
  };
  Result<std::unique_ptr<Listener>> listener =
      world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0});
  const std::string at = ToString((*listener)->bound());
  std::shared_ptr<Listener> shared = std::move(*listener);
  Post(world_.control, [server, shared] { server->Serve(shared); });
  EXPECT_TRUE(FailsWith(PublishTo("etcd://" + at, 5s), ErrorId::kDirectoryIsUs));
  EXPECT_TRUE(FailsWith(PublishTo("mooncake://" + at, 5s), ErrorId::kDirectoryIsUs));
  EXPECT_TRUE(FailsWith(PublishTo("redis://" + at, 5s), ErrorId::kDirectoryIsUs));
  EXPECT_TRUE(FailsWith(PublishTo("http://" + at + "/metadata", 5s), ErrorId::kDirectoryIsUs));
  StopServing(world_, server);
}

// What answers every connection with `words` and closes it.
class Stranger {
 public:
  Stranger(World& world, std::string words) : world_(world) {
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0});
    listener_ = std::move(*listener);
    Spawn(world.control, [](std::shared_ptr<Listener> at, std::string text) -> Task<void> {
      for (;;) {
        Result<std::unique_ptr<Stream>> stream = co_await at->Accept();
        if (!stream) co_return;
        std::array<std::byte, 4096> question;
        const Result<std::size_t> asked = co_await (*stream)->ReadSome(question);
        if (!asked) continue;
        const Bytes bytes = AsBytes(text);
        const Status told = co_await (*stream)->Write(std::span(&bytes, 1));
        static_cast<void>(told);
      }
    }(listener_, std::move(words)));
  }
  ~Stranger() {
    RunOn(world_, [this]() -> Task<void> {
      listener_->Close();
      co_return;
    });
  }
  std::string address() const { return ToString(listener_->bound()); }

 private:
  World& world_;
  std::shared_ptr<Listener> listener_;
};

TEST_F(WrongServices, OtherProtocolsAreNamed) {
  const Stranger http(world_,
                      "HTTP/1.1 404 Not Found\r\nServer: nginx\r\nContent-Length: 4\r\n\r\nnone");
  const Stranger page(world_, "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 4\r\n\r\n<a/>");
  const Stranger locked(world_, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
  const Stranger ssh(world_, "SSH-2.0-OpenSSH_9.2\r\n");
  EXPECT_TRUE(FailsWith(PublishTo("redis://" + http.address(), 5s), ErrorId::kWrongService));
  EXPECT_TRUE(FailsWith(PublishTo("redis://" + ssh.address(), 5s), ErrorId::kDirectoryGarbage));
  EXPECT_TRUE(
      FailsWith(PublishTo("http://" + http.address() + "/metadata", 5s), ErrorId::kWrongService));
  EXPECT_TRUE(
      FailsWith(PublishTo("http://" + page.address() + "/metadata", 5s), ErrorId::kWrongService));
  EXPECT_TRUE(FailsWith(PublishTo("http://" + locked.address() + "/metadata", 5s),
                        ErrorId::kDirectoryDenied));
  EXPECT_TRUE(FailsWith(PublishTo("http://" + ssh.address() + "/metadata", 5s),
                        ErrorId::kDirectoryGarbage));
}

TEST_F(WrongServices, ARedisWithAPasswordWantsTheRightOne) {
  if (!Service::IsAvailable("redis")) GTEST_SKIP() << "no /usr/bin/redis-server on this machine";
  const ServiceProcess redis(world_, "redis", {"--requirepass", "s3cret"});
  const auto with = [&redis](const std::string& credentials) {
    return "redis://" + credentials + redis.address();
  };
  EXPECT_TRUE(Succeeds(PublishTo(with(":s3cret@"), 10s)));
  EXPECT_TRUE(Succeeds(PublishTo(with("default:s3cret@") + "/3", 5s)));
  EXPECT_TRUE(Succeeds(PublishTo(with(""), 5s, {.redis_password = "s3cret"})));
  EXPECT_TRUE(FailsWith(PublishTo(with(""), 5s), ErrorId::kDirectoryDenied));
  const Status wrong = PublishTo(with(":guessed@"), 5s);
  EXPECT_TRUE(FailsWith(wrong, ErrorId::kDirectoryDenied));
  EXPECT_EQ(wrong.error().Text().find("guessed"), std::string::npos) << wrong.error().Text();
  EXPECT_TRUE(FailsWith(PublishTo(with(":s3cret@") + "/4711", 5s), ErrorId::kBadOptionValue));
}

}  // namespace
}  // namespace mooncake
