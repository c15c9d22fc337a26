#include "directory/memory/memory_directory.h"

#include <fmt/format.h>

#include "base/log.h"
#include "directory/memory/directory_server.h"
#include "directory/record.h"
#include "wire/messages.pb.h"
#include "wire/port_server.h"

namespace mooncake {
namespace {

constexpr Duration kReconnectInterval = std::chrono::milliseconds(200);
constexpr Duration kRpcTimeout = std::chrono::seconds(3);
constexpr std::uint16_t kDirectoryPort = 7700;

// What differs between the two kinds: how a connection to the carrier comes about.
class Carrier {
 public:
  virtual ~Carrier() = default;
  virtual std::string Describe() const = 0;
  virtual Task<Result<Handshake>> Connect(World& world, Introduction introduction,
                                          Instant deadline) = 0;
  virtual void Close() = 0;
};

// This host's carrier: the local name, or ourselves.
class HostCarrier final : public Carrier {
 public:
  HostCarrier(World& world, DirectoryUse use)
      : world_(world),
        use_(use),
        name_(fmt::format("mooncake-directory-{}", world.network.host().user)) {}

  std::string Describe() const override { return "this host's own directory"; }

  Task<Result<Handshake>> Connect(World& world, Introduction introduction,
                                  Instant deadline) override {
    constexpr int kAttemptsMax =
        20;  // lost races for the name, each against somebody who then listens
    for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
      Result<std::unique_ptr<Stream>> stream =
          co_await world.network.ConnectLocal(world.control, name_, deadline);
      if (stream) {
        std::shared_ptr<Stream> shared = std::move(*stream);
        auto introduce = Introduce(world, world.control, std::move(shared), introduction,
                                   std::string(kPurposeRpc), {}, deadline);
        co_return co_await std::move(introduce);
      }
      if (stream.error().id != ErrorId::kConnectRefused) co_return Fail(stream.error());
      if (use_ == DirectoryUse::kReader)
        co_return Fail(ErrorId::kDirectoryRefused, "no process of this user carries " + name_);
      Result<std::unique_ptr<Listener>> listener = world.network.ListenLocal(world.control, name_);
      if (listener) {
        std::shared_ptr<Listener> taken = std::move(*listener);
        Carry(std::move(taken), introduction);
      } else if (listener.error().id != ErrorId::kPortTaken) {
        co_return Fail(listener.error());
      }
    }
    co_return Fail(ErrorId::kDirectoryUnreachable,
                   "the local name " + name_ + " changes hands all the time");
  }

  void Close() override {
    if (port_) port_->Close(Error{ErrorId::kClosed, "the directory's carrier stops"});
    port_ = nullptr;
  }

 private:
  void Carry(std::shared_ptr<Listener> listener, Introduction self) {
    MC_LOG(info, "carrying the directory of this host");
    Close();
    server_ = std::make_shared<DirectoryServer>(world_);
    port_ = std::make_shared<PortServer>(world_, metrics_, PortServerOptions{});
    self.credentials.tls = nullptr;  // it stays within the host
    port_->introduce = [self] { return self; };
    server_->AddTo(port_->router);
    port_->Serve(std::move(listener));
  }

  World& world_;
  DirectoryUse use_;
  std::string name_;
  Metrics metrics_;
  std::shared_ptr<DirectoryServer> server_;
  std::shared_ptr<PortServer> port_;
};

class RemoteCarrier final : public Carrier {
 public:
  explicit RemoteCarrier(std::vector<HostPort> servers) : servers_(std::move(servers)) {
    for (HostPort& server : servers_) {
      if (server.port == 0) server.port = kDirectoryPort;
    }
  }

  std::string Describe() const override {
    std::string text = "mooncake://";
    for (const HostPort& server : servers_) {
      if (text.back() != '/') text += ',';
      text += ToString(server);
    }
    return text;
  }

  Task<Result<Handshake>> Connect(World& world, Introduction introduction,
                                  Instant deadline) override {
    Error last{ErrorId::kBadAddress, "no directory server is named"};
    introduction.cluster.clear();  // a directory serves every cluster
    for (const HostPort& server : servers_) {
      Result<std::vector<IpAddress>> addresses =
          co_await world.network.Resolve(world.control, server.host, deadline);
      if (!addresses) {
        last = addresses.error();
        continue;
      }
      for (const IpAddress& address : *addresses) {
        const Endpoint endpoint{address, server.port};
        auto dial = Dial(world, world.control, endpoint, introduction, std::string(kPurposeRpc), {},
                         deadline);
        Result<Handshake> handshake = co_await std::move(dial);
        if (handshake) co_return handshake;
        last = Translate(handshake.error());
      }
    }
    co_return Fail(last);
  }

  void Close() override {}

 private:
  static Error Translate(Error error) {
    switch (error.id) {
      case ErrorId::kConnectRefused:
        return {ErrorId::kDirectoryRefused, error.context, error.os_error};
      case ErrorId::kConnectTimeout:
      case ErrorId::kDeadline:
        return {ErrorId::kDirectoryTimeout, error.context, error.os_error};
      case ErrorId::kBadFrame:
      case ErrorId::kFrameTooLarge:
        return {ErrorId::kDirectoryGarbage, error.context, error.os_error};
      default:
        return error;
    }
  }
  std::vector<HostPort> servers_;
};

class MemoryDirectory final : public Directory {
 public:
  MemoryDirectory(World& world, std::unique_ptr<Carrier> carrier, std::string cluster,
                  Credentials credentials)
      : state_(std::make_shared<State>(world, std::move(carrier), std::move(cluster),
                                       std::move(credentials))) {}
  ~MemoryDirectory() override {
    // Coroutines may still hold the state; what they wait for ends with the connection.
    Post(state_->world.control, [state = state_] { state->Stop(); });
  }

  std::string Describe() const override { return state_->carrier->Describe(); }
  std::optional<Outage> outage() const override { return state_->outage; }

  Task<Status> Publish(Record record, Instant deadline) override {
    const auto state = state_;
    state->record = std::move(record);
    for (;;) {
      const Status registered = co_await state->Register();
      if (registered) break;
      if (!IsWorthRetrying(registered.error()) || state->world.clock.Now() >= deadline)
        co_return registered;
      co_await state->world.clock.SleepFor(state->world.control, kReconnectInterval);
    }
    Spawn(state->world.control,
          [](std::shared_ptr<State> s) -> Task<void> { co_await s->KeepAlive(); }(state));
    co_return Status{};
  }

  Task<void> Withdraw(Instant deadline) override {
    const auto state = state_;
    const bool published = state->record.has_value();
    state->stopped = true;
    if (published && state->connection && state->connection->is_open()) {
      pb::WithdrawRequest request;
      request.set_id_high(state->record->identity.id.high);
      request.set_id_low(state->record->identity.id.low);
      request.set_cluster(state->cluster);
      auto call = state->connection->Call(Method::kWithdraw, request.SerializeAsString(), deadline);
      const Result<Reply> reply = co_await std::move(call);
      if (!reply) MC_LOG(debug, "withdraw: {}", reply.error().Text());
    }
    state->Stop();
  }

  Task<Result<std::vector<Record>>> List(Instant deadline) override {
    const auto state = state_;
    pb::ListRecordsRequest request;
    request.set_cluster(state->cluster);
    std::string body = request.SerializeAsString();
    Result<Reply> reply = co_await state->Call(Method::kListRecords, std::move(body), deadline);
    if (!reply) co_return Fail(reply.error());
    pb::ListRecordsReply list;
    if (!Parse(reply->body, list))
      co_return Fail(ErrorId::kDirectoryGarbage, "the list of records");
    std::vector<Record> records;
    for (const pb::Record& record : list.records()) records.push_back(FromProto(record));
    for (const pb::Obituary& gone : list.gone()) {
      state->roster.Bury(
          {FromProto(gone.record()), gone.cause(),
           WallTime(std::chrono::milliseconds(gone.gone_unix_ms() & 0x7FFFFFFFFFF))});
    }
    state->roster.Update(records, state->world.clock.WallNow());
    co_return records;
  }

  Task<Result<Record>> Find(std::string label, Instant deadline) override {
    const auto state = state_;
    const Result<std::vector<Record>> records = co_await List(deadline);
    if (!records) co_return Fail(records.error());
    co_return PickNewest(label, *records, state->roster.gone());
  }

 private:
  static bool IsWorthRetrying(const Error& error) {
    switch (error.code()) {
      case Errc::kPeerGone:
      case Errc::kUnavailable:
      case Errc::kUnknownOutcome:
      case Errc::kTryAgain:
        return true;
      default:
        return false;
    }
  }

  struct State : std::enable_shared_from_this<State> {
    State(World& w, std::unique_ptr<Carrier> c, std::string cl, Credentials cr)
        : world(w), carrier(std::move(c)), cluster(std::move(cl)), credentials(std::move(cr)) {}

    // One connection; whoever needs it while it is being made waits for the same one.
    Task<Result<std::shared_ptr<RpcConnection>>> Connected(Instant deadline) {
      const auto self = shared_from_this();
      while (connecting) {
        const auto wait = std::make_shared<OneShot<bool>>();
        waiters.push_back(wait);
        auto made = WaitUntil(world.clock, world.control, wait, deadline);
        if (!co_await std::move(made))
          co_return Fail(ErrorId::kDirectoryTimeout,
                         carrier->Describe() + " is being connected to");
      }
      if (connection && connection->is_open()) co_return connection;
      if (closed) co_return Fail(ErrorId::kClosed, "the directory's client stops");
      connecting = true;
      Introduction introduction;
      introduction.credentials = credentials;
      if (record) introduction.self = record->identity;
      auto connect = carrier->Connect(world, std::move(introduction), deadline);
      Result<Handshake> handshake = co_await std::move(connect);
      connecting = false;
      for (const auto& wait : std::exchange(waiters, {})) wait->Set(true);
      if (!handshake) co_return Fail(handshake.error());
      connection = std::make_shared<RpcConnection>(world, world.control, std::move(*handshake),
                                                   no_methods, RpcLimits{});
      connection->OnClose([weak = weak_from_this()](const Error&) {
        if (const auto state = weak.lock()) state->wake.Notify();
      });
      connection->Start();
      co_return connection;
    }

    // Every call may be repeated: a carrier that went away has a successor, so a broken connection
    // is tried again once.
    Task<Result<Reply>> Call(Method method, std::string body, Instant deadline) {
      const auto self = shared_from_this();
      const Instant limit = std::min(deadline, After(world.clock.Now(), kRpcTimeout));
      Result<Reply> reply = co_await CallOnce(method, body, limit);
      if (!reply && reply.error().code() == Errc::kPeerGone)
        reply = co_await CallOnce(method, body, limit);
      if (!reply) {
        Fault(reply.error());
      } else if (outage) {
        MC_LOG(info, "the directory ({}) answers again", carrier->Describe());
        outage.reset();
      }
      co_return reply;
    }

    Task<Result<Reply>> CallOnce(Method method, const std::string& body, Instant deadline) {
      Result<std::shared_ptr<RpcConnection>> open = co_await Connected(deadline);
      if (!open) co_return Fail(open.error());
      auto call = (*open)->Call(method, body, deadline);
      Result<Reply> reply = co_await std::move(call);
      if (!reply && reply.error().id == ErrorId::kUnknownMethod) {
        co_return Fail(ErrorId::kDirectoryIsUs, (*open)->peer().label + " carries no directory");
      }
      if (!reply && reply.error().code() == Errc::kUnknownOutcome) (*open)->Close(reply.error());
      co_return reply;
    }

    Task<Status> Register() {
      const auto self = shared_from_this();
      pb::RegisterRequest request;
      *request.mutable_record() = ToProto(*record);
      request.set_ttl_ms(static_cast<std::uint32_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(kLeaseDuration).count()));
      std::string body = request.SerializeAsString();
      Result<Reply> reply = co_await Call(Method::kRegister, std::move(body), kNever);
      if (!reply) co_return Fail(reply.error());
      co_return Status{};
    }

    Task<void> KeepAlive() {
      const auto self = shared_from_this();
      const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
      while (!stopped) {
        // A broken connection wakes us at once: a carrier that died has a successor within
        // milliseconds.
        const Duration pause =
            connection && connection->is_open() ? kRefreshInterval : kReconnectInterval;
        timer->At(After(world.clock.Now(), pause), [this] { wake.Notify(); });
        co_await wake.Wait();
        if (stopped) co_return;
        const Status registered = co_await Register();
        static_cast<void>(registered);  // Fault() has told; the next round tries again
      }
    }

    void Fault(const Error& cause) {
      if (!outage && !closed) {
        outage = Outage{world.clock.Now(), cause};
        MC_LOG(info, "the directory ({}) does not answer: {}", carrier->Describe(), cause.Text());
      }
    }

    void Stop() {
      stopped = closed = true;
      wake.Notify();
      if (connection) connection->Close(Error{ErrorId::kClosed, "the directory's client stops"});
      carrier->Close();
    }

    World& world;
    std::unique_ptr<Carrier> carrier;
    std::string cluster;
    Credentials credentials;
    RpcRouter no_methods;
    std::optional<Record> record;
    bool stopped = false;
    bool closed = false;
    bool connecting = false;
    std::vector<std::shared_ptr<OneShot<bool>>> waiters;
    Signal wake;  // waited for by KeepAlive() alone
    std::shared_ptr<RpcConnection> connection;
    std::optional<Outage> outage;
    Roster roster;
  };

  std::shared_ptr<State> state_;  // shared with the coroutines that keep the record alive
};

}  // namespace

std::unique_ptr<Directory> MakeHostDirectory(World& world, std::string cluster, DirectoryUse use,
                                             Credentials credentials) {
  return std::make_unique<MemoryDirectory>(world, std::make_unique<HostCarrier>(world, use),
                                           std::move(cluster), std::move(credentials));
}

std::unique_ptr<Directory> MakeRemoteDirectory(World& world, std::vector<HostPort> servers,
                                               std::string cluster, Credentials credentials) {
  return std::make_unique<MemoryDirectory>(world,
                                           std::make_unique<RemoteCarrier>(std::move(servers)),
                                           std::move(cluster), std::move(credentials));
}

}  // namespace mooncake
