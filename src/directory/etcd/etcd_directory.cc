#include "directory/etcd/etcd_directory.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "base/base64.h"
#include "base/log.h"
#include "directory/leased_directory.h"
#include "directory/record.h"
#include "wire/http.h"

namespace mooncake {
namespace {

namespace json = boost::json;

constexpr std::uint16_t kEtcdPort = 2379;

std::string ScalarOf(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr) return {};
  if (value->is_string()) return std::string(value->get_string());
  return value->is_object() || value->is_array() ? std::string() : json::serialize(*value);
}

// One etcd cluster: sends a call to the endpoint that answered last, and to the others when that
// one fails. One call at a time: the gateway's connection carries one request.
class EtcdClient {
 public:
  EtcdClient(World& world, EtcdServers servers) : world_(world), servers_(std::move(servers)) {
    for (HostPort& endpoint : servers_.endpoints) {
      if (endpoint.port == 0) endpoint.port = kEtcdPort;
    }
  }

  std::string Describe() const {
    std::string text = servers_.tls ? "etcds://" : "etcd://";
    for (const HostPort& endpoint : servers_.endpoints) {
      if (text.back() != '/') text += ',';
      text += ToString(endpoint);
    }
    return text;
  }

  Task<Result<json::object>> Call(std::string target, json::object request, Instant deadline) {
    Error last{ErrorId::kDirectoryUnreachable, Describe()};
    const std::size_t count = servers_.endpoints.size();
    for (std::size_t i = 0; i < count; ++i) {
      // An endpoint that is silent leaves the others their share of the time.
      const Instant now = world_.clock.Now();
      const Instant limit = deadline == kNever
                                ? kNever
                                : now + (deadline - now) / static_cast<Duration::rep>(count - i);
      auto one = CallOne(target, request, limit);
      Result<json::object> reply = co_await std::move(one);
      if (reply) co_return reply;
      last = reply.error();
      http_ = nullptr;
      current_ = (current_ + 1) % count;
      if (!IsWorthRetrying(last)) break;
    }
    co_return Fail(last);
  }

  void Close() {
    if (http_) http_->Close();
  }

 private:
  Task<Result<json::object>> CallOne(std::string target, const json::object& request,
                                     Instant deadline) {
    if (!http_) {
      const HostPort& endpoint = servers_.endpoints[current_];
      HttpUrl url{endpoint.host, endpoint.port, "/", servers_.tls != nullptr};
      url.context = servers_.tls;
      http_ = std::make_unique<HttpClient>(world_, world_.control, std::move(url));
      token_.clear();
    }
    if (!servers_.user.empty() && token_.empty()) {
      json::object login{{"name", servers_.user}, {"password", servers_.password}};
      auto post = Post("/v3/auth/authenticate", login, deadline);
      Result<json::object> reply = co_await std::move(post);
      if (!reply) co_return Fail(reply.error());
      token_ = ScalarOf(*reply, "token");
    }
    auto post = Post(target, request, deadline);
    Result<json::object> reply = co_await std::move(post);
    if (!reply && reply.error().code() == Errc::kDenied)
      token_.clear();  // it may have expired: log in again next time
    co_return reply;
  }

  Task<Result<json::object>> Post(std::string target, const json::object& request,
                                  Instant deadline) {
    std::vector<std::pair<std::string, std::string>> headers = {
        {"Content-Type", "application/json"}};
    if (!token_.empty()) headers.emplace_back("Authorization", token_);
    std::string body = json::serialize(request);
    const HostPort& endpoint = servers_.endpoints[current_];
    const std::string where = ToString(endpoint);
    auto send = http_->Send("POST", target, std::move(body), std::move(headers), deadline);
    const Result<HttpResponse> response = co_await std::move(send);
    if (!response) {
      Error fault = DirectoryFault(where, response.error());
      if (response.error().id == ErrorId::kConnectionClosed && !servers_.tls)
        fault.context += "; if it speaks TLS, write etcds://";
      co_return Fail(std::move(fault));
    }
    co_return Interpret(where, *response);
  }

  static Result<json::object> Interpret(const std::string& where, const HttpResponse& response) {
    const auto server = response.headers.find("server");
    if (server != response.headers.end() && server->second.starts_with("mooncake")) {
      return Fail(ErrorId::kDirectoryIsUs,
                  fmt::format("{} is the port of a Mooncake instance ({})", where, server->second));
    }
    json::error_code code;
    const json::value value = json::parse(response.body, code);
    if (response.status == 400 && response.body.find("HTTPS server") != std::string::npos) {
      return Fail(ErrorId::kTlsFailed,
                  where + " speaks TLS only: write metadata_server as etcds://");
    }
    if (code || !value.is_object()) {
      return Fail(
          ErrorId::kWrongService,
          fmt::format("{} is an HTTP server ({}), not etcd: it answers {} to etcd's v3 call", where,
                      server == response.headers.end() ? "unnamed" : server->second,
                      response.status));
    }
    const json::object& object = value.get_object();
    if (response.status == 200) return object;
    const std::string message = ScalarOf(object, object.contains("message") ? "message" : "error");
    if (response.status == 401 || message.find("authentication failed") != std::string::npos ||
        message.find("invalid auth token") != std::string::npos ||
        message.find("permission denied") != std::string::npos ||
        message.find("user name is empty") != std::string::npos) {
      return Fail(ErrorId::kDirectoryDenied, fmt::format("{}: {}", where, message));
    }
    if (message.empty()) {
      return Fail(ErrorId::kWrongService,
                  fmt::format("{} answers {} to etcd's v3 call", where, response.status));
    }
    return Fail(ErrorId::kDirectoryUnreachable,
                fmt::format("{} answers {}: {}", where, response.status, message));
  }

  World& world_;
  EtcdServers servers_;
  std::size_t current_ = 0;
  std::string token_;
  std::unique_ptr<HttpClient> http_;
};

class EtcdStore final : public RecordStore {
 public:
  EtcdStore(World& world, EtcdServers servers, const std::string& cluster)
      : client_(world, std::move(servers)),
        prefix_(fmt::format("/mooncake/{}/v1/instances/", cluster)) {}

  std::string Describe() const override { return client_.Describe(); }
  void Close() override { client_.Close(); }

  Task<Status> Put(Record record, Instant deadline) override {
    if (!lease_.empty()) {
      auto call = client_.Call("/v3/lease/keepalive", json::object{{"ID", lease_}}, deadline);
      const Result<json::object> reply = co_await std::move(call);
      if (!reply) co_return Fail(reply.error());
      const json::value* const result = reply->if_contains("result");
      const std::string left =
          result != nullptr && result->is_object() ? ScalarOf(result->get_object(), "TTL") : "";
      if (!left.empty() && left != "0") co_return Status{};
      MC_LOG(info, "the lease in {} had expired: registering again", Describe());
      lease_.clear();
    }
    auto write = PutUnderNewLease(record, deadline);
    co_return co_await std::move(write);
  }

  Task<Status> Remove(InstanceId, Instant deadline) override {
    if (lease_.empty()) co_return Status{};
    auto call =
        client_.Call("/v3/lease/revoke", json::object{{"ID", std::exchange(lease_, {})}}, deadline);
    const Result<json::object> reply = co_await std::move(call);
    if (!reply) co_return Fail(reply.error());
    co_return Status{};
  }

  Task<Result<Listing>> List(Instant deadline) override {
    std::string end = prefix_;
    end.back() = static_cast<char>(end.back() + 1);
    json::object request{{"key", EncodeBase64(prefix_)}, {"range_end", EncodeBase64(end)}};
    auto call = client_.Call("/v3/kv/range", std::move(request), deadline);
    const Result<json::object> reply = co_await std::move(call);
    if (!reply) co_return Fail(reply.error());
    Listing listing;
    if (const json::value* kvs = reply->if_contains("kvs"); kvs != nullptr && kvs->is_array()) {
      for (const json::value& entry : kvs->get_array()) {
        if (!entry.is_object()) continue;
        const std::optional<std::string> value =
            DecodeBase64(ScalarOf(entry.get_object(), "value"));
        AddRecord(value.value_or(""), Describe(), listing);
      }
    }
    co_return listing;
  }

 private:
  Task<Status> PutUnderNewLease(const Record& record, Instant deadline) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(kLeaseDuration).count();
    auto grant = client_.Call("/v3/lease/grant", json::object{{"TTL", seconds}}, deadline);
    const Result<json::object> granted = co_await std::move(grant);
    if (!granted) co_return Fail(granted.error());
    std::string id = ScalarOf(*granted, "ID");
    if (id.empty())
      co_return Fail(ErrorId::kDirectoryGarbage, Describe() + " grants a lease without an id");
    json::object request{{"key", EncodeBase64(prefix_ + ToString(record.identity.id))},
                         {"value", EncodeBase64(ToJson(record))},
                         {"lease", id}};
    auto put = client_.Call("/v3/kv/put", std::move(request), deadline);
    const Result<json::object> done = co_await std::move(put);
    if (!done) co_return Fail(done.error());
    lease_ = std::move(id);
    co_return Status{};
  }

  EtcdClient client_;
  std::string prefix_;
  std::string lease_;
};

}  // namespace

Result<EtcdServers> ParseEtcdServers(std::string_view connection) {
  std::string_view rest = connection;
  std::string_view prefix = "http://";  // of an endpoint, as in etcd's own lists
  for (const std::string_view scheme : {"etcd://", "etcds://"}) {
    if (!rest.starts_with(scheme)) continue;
    rest.remove_prefix(scheme.size());
    if (scheme == "etcds://") prefix = "https://";
    break;
  }
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
    if (part.starts_with(prefix)) part.remove_prefix(prefix.size());
    Result<HostPort> endpoint = ParseHostPort(part);
    if (!endpoint) return Fail(Within("metadata_server", endpoint.error()));
    servers.endpoints.push_back(std::move(*endpoint));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  return servers;
}

std::unique_ptr<Directory> MakeEtcdDirectory(World& world, EtcdServers servers,
                                             const std::string& cluster) {
  return MakeLeasedDirectory(world,
                             std::make_unique<EtcdStore>(world, std::move(servers), cluster));
}

}  // namespace mooncake
