#include "directory/etcd/etcd_directory.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <charconv>

#include "base/log.h"
#include "directory/etcd/base64.h"
#include "directory/record.h"
#include "wire/http.h"

namespace mooncake {
namespace {

namespace json = boost::json;

constexpr std::uint16_t kDefaultPort = 2379;
constexpr Duration kRefreshInterval = kLeaseDuration / 5;
constexpr Duration kRetryInterval = std::chrono::milliseconds(500);
constexpr Duration kCallTimeout = std::chrono::seconds(2);

std::string TextOf(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr) return {};
  if (value->is_string()) return std::string(value->get_string());
  return value->is_object() || value->is_array() ? std::string() : json::serialize(*value);
}

// Where it cannot help to wait: somebody must correct something first.
bool IsWorthRetrying(const Error& error) {
  switch (error.code()) {
    case Errc::kUnavailable:
    case Errc::kPeerGone:
    case Errc::kUnknownOutcome:
      return true;
    default:
      return false;
  }
}

// One etcd cluster: sends a call to the endpoint that answered last, and to the others when that one fails.
class EtcdClient {
 public:
  EtcdClient(World& world, EtcdServers servers) : world_(world), servers_(std::move(servers)) {
    for (HostPort& endpoint : servers_.endpoints) {
      if (endpoint.port == 0) endpoint.port = kDefaultPort;
    }
  }

  std::string Describe() const {
    std::string text = "etcd://";
    for (const HostPort& endpoint : servers_.endpoints) {
      if (text.back() != '/') text += ',';
      text += fmt::format("{}:{}", endpoint.host, endpoint.port);
    }
    return text;
  }

  // Calls are made one after another: the gateway's connection carries one request at a time.
  Task<Result<json::object>> Call(std::string target, json::object request, Instant deadline) {
    while (busy_) {
      const auto turn = std::make_shared<OneShot<bool>>();
      waiting_.push_back(turn);
      co_await turn->Get();
    }
    busy_ = true;
    auto call = CallInTurn(std::move(target), std::move(request), deadline);
    Result<json::object> reply = co_await std::move(call);
    busy_ = false;
    if (!waiting_.empty()) {
      const auto next = waiting_.front();
      waiting_.pop_front();
      next->Set(true);
    }
    co_return reply;
  }

  void Close() {
    if (http_) http_->Close();
  }

 private:
  Task<Result<json::object>> CallInTurn(std::string target, json::object request, Instant deadline) {
    Error last{ErrorId::kDirectoryUnreachable, Describe()};
    for (std::size_t i = 0; i < servers_.endpoints.size(); ++i) {
      const Instant limit = std::min(deadline, After(world_.clock.Now(), kCallTimeout));
      auto one = CallOne(target, request, limit);
      Result<json::object> reply = co_await std::move(one);
      if (reply) co_return reply;
      last = reply.error();
      http_ = nullptr;
      current_ = (current_ + 1) % servers_.endpoints.size();
      if (!IsWorthRetrying(last)) break;
    }
    co_return Fail(last);
  }

  Task<Result<json::object>> CallOne(std::string target, const json::object& request, Instant deadline) {
    if (!http_) {
      const HostPort& endpoint = servers_.endpoints[current_];
      http_ = std::make_unique<HttpClient>(world_, world_.control, HttpUrl{endpoint.host, endpoint.port, "/", false});
      token_.clear();
    }
    if (!servers_.user.empty() && token_.empty()) {
      json::object login{{"name", servers_.user}, {"password", servers_.password}};
      auto post = Post("/v3/auth/authenticate", login, deadline);
      Result<json::object> reply = co_await std::move(post);
      if (!reply) co_return Fail(reply.error());
      token_ = TextOf(*reply, "token");
    }
    auto post = Post(target, request, deadline);
    Result<json::object> reply = co_await std::move(post);
    if (!reply && reply.error().code() == Errc::kDenied) token_.clear();  // it may have expired: log in again next time
    co_return reply;
  }

  Task<Result<json::object>> Post(std::string target, const json::object& request, Instant deadline) {
    std::vector<std::pair<std::string, std::string>> headers = {{"Content-Type", "application/json"}};
    if (!token_.empty()) headers.emplace_back("Authorization", token_);
    std::string body = json::serialize(request);
    const HostPort& endpoint = servers_.endpoints[current_];
    const std::string where = fmt::format("{}:{}", endpoint.host, endpoint.port);
    auto send = http_->Send("POST", target, std::move(body), std::move(headers), deadline);
    const Result<HttpResponse> response = co_await std::move(send);
    if (!response) co_return Fail(Translate(where, response.error()));
    co_return Interpret(where, *response);
  }

  static Error Translate(const std::string& where, const Error& error) {
    switch (error.id) {
      case ErrorId::kConnectRefused:
        return {ErrorId::kDirectoryRefused, where, error.os_error};
      case ErrorId::kConnectTimeout:
      case ErrorId::kDeadline:
        return {ErrorId::kDirectoryTimeout, where + ": " + error.context, error.os_error};
      case ErrorId::kBadHttp:
        return {ErrorId::kDirectoryGarbage, error.context};
      case ErrorId::kConnectionClosed:
        return {ErrorId::kDirectoryUnreachable, where + " closed the connection without an answer", error.os_error};
      default:
        return Within(where, error);
    }
  }

  static Result<json::object> Interpret(const std::string& where, const HttpResponse& response) {
    const auto server = response.headers.find("server");
    if (server != response.headers.end() && server->second.starts_with("mooncake")) {
      return Fail(ErrorId::kDirectoryIsUs, fmt::format("{} is the port of a Mooncake instance ({})", where, server->second));
    }
    json::error_code code;
    const json::value value = json::parse(response.body, code);
    if (code || !value.is_object()) {
      return Fail(ErrorId::kWrongService,
                  fmt::format("{} is an HTTP server ({}), not etcd: it answers {} to etcd's v3 call", where,
                              server == response.headers.end() ? "unnamed" : server->second, response.status));
    }
    const json::object& object = value.get_object();
    if (response.status == 200) return object;
    const std::string message = TextOf(object, object.contains("message") ? "message" : "error");
    if (response.status == 401 || message.find("authentication failed") != std::string::npos ||
        message.find("invalid auth token") != std::string::npos || message.find("permission denied") != std::string::npos ||
        message.find("user name is empty") != std::string::npos) {
      return Fail(ErrorId::kDirectoryDenied, fmt::format("{}: {}", where, message));
    }
    if (message.empty()) {
      return Fail(ErrorId::kWrongService, fmt::format("{} answers {} to etcd's v3 call", where, response.status));
    }
    return Fail(ErrorId::kDirectoryUnreachable, fmt::format("{} answers {}: {}", where, response.status, message));
  }

  World& world_;
  EtcdServers servers_;
  std::size_t current_ = 0;
  std::string token_;
  std::unique_ptr<HttpClient> http_;
  bool busy_ = false;
  std::deque<std::shared_ptr<OneShot<bool>>> waiting_;
};

class EtcdDirectory final : public Directory {
 public:
  EtcdDirectory(World& world, EtcdServers servers, const std::string& cluster)
      : state_(std::make_shared<State>(world, std::move(servers), cluster)) {}
  ~EtcdDirectory() override {
    Post(state_->world.control, [state = state_] { state->Stop(); });
  }

  std::string Describe() const override { return state_->client.Describe(); }
  std::optional<Outage> outage() const override { return state_->outage; }

  Task<Status> Publish(Record record, Instant deadline) override {
    const auto state = state_;
    state->record = std::move(record);
    for (bool told = false;;) {
      const Status put = co_await state->Put(deadline);
      if (put) break;
      if (!IsWorthRetrying(put.error()) || state->world.clock.Now() >= deadline) co_return put;
      if (!std::exchange(told, true)) MC_LOG(info, "waiting for {}: {}", state->client.Describe(), put.error().Text());
      const Instant next = std::min(deadline, After(state->world.clock.Now(), kRetryInterval));
      co_await state->world.clock.SleepUntil(state->world.control, next);
    }
    Spawn(state->world.control, [](std::shared_ptr<State> s) -> Task<void> { co_await s->KeepAlive(); }(state));
    co_return Status{};
  }

  Task<void> Withdraw(Instant deadline) override {
    const auto state = state_;
    state->stopped = true;
    state->wake.Notify();
    if (!state->lease.empty()) {
      auto call = state->client.Call("/v3/lease/revoke", json::object{{"ID", state->lease}}, deadline);
      const Result<json::object> reply = co_await std::move(call);
      if (!reply) MC_LOG(debug, "revoke: {}", reply.error().Text());
    }
    state->Stop();
  }

  Task<Result<std::vector<Record>>> List(Instant deadline) override {
    const auto state = state_;
    std::string end = state->prefix;
    end.back() = static_cast<char>(end.back() + 1);
    json::object request{{"key", EncodeBase64(state->prefix)}, {"range_end", EncodeBase64(end)}};
    auto call = state->Call("/v3/kv/range", std::move(request), deadline);
    const Result<json::object> reply = co_await std::move(call);
    if (!reply) co_return Fail(reply.error());
    std::vector<Record> records;
    if (const json::value* kvs = reply->if_contains("kvs"); kvs != nullptr && kvs->is_array()) {
      for (const json::value& entry : kvs->get_array()) {
        if (!entry.is_object()) continue;
        const std::optional<std::string> value = DecodeBase64(TextOf(entry.get_object(), "value"));
        Result<Record> record = RecordFromJson(value.value_or(""));
        if (record) {
          records.push_back(std::move(*record));
        } else {
          MC_LOG(debug, "a record in {} cannot be read: {}", state->client.Describe(), record.error().Text());
        }
      }
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
  struct State : std::enable_shared_from_this<State> {
    State(World& w, EtcdServers servers, const std::string& cluster)
        : world(w), client(w, std::move(servers)), prefix(fmt::format("/mooncake/{}/v1/instances/", cluster)) {}

    Task<Result<json::object>> Call(std::string target, json::object request, Instant deadline) {
      const auto self = shared_from_this();
      auto call = client.Call(std::move(target), std::move(request), deadline);
      Result<json::object> reply = co_await std::move(call);
      if (reply) {
        if (outage) MC_LOG(info, "{} answers again", client.Describe());
        outage.reset();
        co_return reply;
      }
      if (!outage && !stopped) outage = Outage{world.clock.Now(), reply.error()};
      if (!outage || reply.error().code() != Errc::kUnavailable) co_return reply;
      const auto silent = std::chrono::duration<double>(world.clock.Now() - outage->since).count();
      Error error = reply.error();
      if (silent >= 1) error.context += fmt::format(", unreachable for {:.0f} s", silent);
      co_return Fail(std::move(error));
    }

    // A new lease, and the record under it.
    Task<Status> Put(Instant deadline) {
      const auto self = shared_from_this();
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(kLeaseDuration).count();
      auto grant = Call("/v3/lease/grant", json::object{{"TTL", seconds}}, deadline);
      const Result<json::object> granted = co_await std::move(grant);
      if (!granted) co_return Fail(granted.error());
      std::string id = TextOf(*granted, "ID");
      if (id.empty()) co_return Fail(ErrorId::kDirectoryGarbage, client.Describe() + " grants a lease without an id");
      json::object request{{"key", EncodeBase64(prefix + ToString(record->identity.id))},
                           {"value", EncodeBase64(ToJson(*record))},
                           {"lease", id}};
      auto put = Call("/v3/kv/put", std::move(request), deadline);
      const Result<json::object> done = co_await std::move(put);
      if (!done) co_return Fail(done.error());
      lease = std::move(id);
      co_return Status{};
    }

    Task<void> KeepAlive() {
      const auto self = shared_from_this();
      const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
      while (!stopped) {
        timer->At(After(world.clock.Now(), outage ? kRetryInterval : kRefreshInterval), [this] { wake.Notify(); });
        co_await wake.Wait();
        if (stopped) co_return;
        const Instant deadline = After(world.clock.Now(), kCallTimeout);
        auto call = Call("/v3/lease/keepalive", json::object{{"ID", lease}}, deadline);
        const Result<json::object> reply = co_await std::move(call);
        if (!reply || stopped) continue;
        const json::value* const result = reply->if_contains("result");
        const bool alive = result != nullptr && result->is_object() && !TextOf(result->get_object(), "TTL").empty() &&
                           TextOf(result->get_object(), "TTL") != "0";
        if (alive) continue;
        MC_LOG(info, "the lease in {} had expired: registering again", client.Describe());
        const Status put = co_await Put(deadline);
        static_cast<void>(put);  // the next round tries again
      }
    }

    void Stop() {
      stopped = true;
      wake.Notify();
      client.Close();
    }

    World& world;
    EtcdClient client;
    std::string prefix;
    std::optional<Record> record;
    std::string lease;
    bool stopped = false;
    std::optional<Outage> outage;
    Signal wake;  // waited for by KeepAlive() alone
    Roster roster;
  };

  std::shared_ptr<State> state_;  // shared with the coroutine that keeps the lease alive
};

}  // namespace

Result<EtcdServers> ParseEtcdServers(std::string_view connection) {
  constexpr std::string_view kScheme = "etcd://";
  std::string_view rest = connection;
  if (rest.starts_with(kScheme)) rest.remove_prefix(kScheme.size());
  while (!rest.empty() && rest.back() == '/') rest.remove_suffix(1);
  EtcdServers servers;
  if (const std::size_t at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string_view credentials = rest.substr(0, at);
    const std::size_t colon = credentials.find(':');
    servers.user = credentials.substr(0, colon);
    if (colon != std::string_view::npos) servers.password = credentials.substr(colon + 1);
    rest.remove_prefix(at + 1);
  }
  while (true) {
    const std::size_t comma = rest.find(',');
    std::string_view part = rest.substr(0, comma);
    if (constexpr std::string_view kHttp = "http://"; part.starts_with(kHttp)) part.remove_prefix(kHttp.size());
    Result<HostPort> endpoint = ParseHostPort(part);
    if (!endpoint) return Fail(Within("metadata_server", endpoint.error()));
    servers.endpoints.push_back(std::move(*endpoint));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return servers;
}

std::unique_ptr<Directory> MakeEtcdDirectory(World& world, EtcdServers servers, const std::string& cluster) {
  return std::make_unique<EtcdDirectory>(world, std::move(servers), cluster);
}

}  // namespace mooncake
