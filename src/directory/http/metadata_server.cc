#include "directory/http/metadata_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace mooncake {
namespace {

constexpr std::size_t kKeyBytesMax = 4096;
constexpr std::size_t kValueBytesMax = 16 << 20;
constexpr std::int64_t kTtlMsMax = 600'000;
constexpr std::string_view kRpcMeta = "rpc_meta";

// The value of `name` without the blanks around it; empty if there is none.
std::string Stripped(const std::map<std::string, std::string>& query, const std::string& name) {
  constexpr std::string_view kBlanks = " \t\r\n\v\f";
  const auto found = query.find(name);
  if (found == query.end()) return {};
  const std::size_t begin = found->second.find_first_not_of(kBlanks);
  if (begin == std::string::npos) return {};
  return found->second.substr(begin, found->second.find_last_not_of(kBlanks) - begin + 1);
}

}  // namespace

bool MetadataServer::Serves(const HttpRequest& request) {
  return request.path().ends_with("/metadata");
}

Task<void> MetadataServer::Handle(HttpExchange& exchange) {
  Answer answer = Decide(exchange.request());
  auto respond = exchange.Respond(answer.status, answer.json ? "application/json" : "text/plain",
                                  std::move(answer.body),
                                  {{std::string(kMetadataServiceHeader), MOONCAKE_VERSION}});
  static_cast<void>(co_await std::move(respond));  // a client that went away needs no answer
}

MetadataServer::Answer MetadataServer::Decide(const HttpRequest& request) {
  if (request.method == "GET" || request.method == "HEAD") return Get(request);
  if (request.method != "PUT" && request.method != "DELETE") {
    return {405, "GET, PUT or DELETE\n"};
  }
  const std::string key = Stripped(ParseQuery(request.target), "key");
  if (key.empty()) return {400, "the key is missing: /metadata?key=KEY\n"};
  if (request.method == "PUT") return Put(request, key);
  const bool removed = table_.Remove(key, world_.clock.Now(), world_.clock.WallNow());
  return removed ? Answer{200, "metadata deleted"} : Answer{404, "metadata not found"};
}

MetadataServer::Answer MetadataServer::Get(const HttpRequest& request) {
  const std::map<std::string, std::string> query = ParseQuery(request.target);
  const Instant now = world_.clock.Now();
  if (const std::string prefix = Stripped(query, "prefix"); !prefix.empty()) {
    return {200, ToJson(table_.List(prefix, now)), true};
  }
  const std::string key = Stripped(query, "key");
  if (key.empty()) return {400, "the key is missing: /metadata?key=KEY\n"};
  const std::string* const value = table_.Get(key, now);
  return value != nullptr ? Answer{200, *value, true} : Answer{404, "metadata not found"};
}

MetadataServer::Answer MetadataServer::Put(const HttpRequest& request, const std::string& key) {
  if (key.size() > kKeyBytesMax) return {413, "the key is too long\n"};
  if (request.body.size() > kValueBytesMax) return {413, "the value is too long\n"};
  const std::map<std::string, std::string> query = ParseQuery(request.target);
  Instant expires = kNever;
  if (query.contains("ttl_ms")) {
    const std::string text = Stripped(query, "ttl_ms");
    std::int64_t ttl_ms = 0;
    const char* const last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, ttl_ms);
    if (error != std::errc{} || end != last || ttl_ms <= 0) {
      return {400, "ttl_ms is no number of milliseconds\n"};
    }
    expires = After(world_.clock.Now(), std::chrono::milliseconds(std::min(ttl_ms, kTtlMsMax)));
  }
  // Two engines of one name would take each other's peers: the public service's rule for its own
  // clients' keys. The same value again is no second engine.
  if (key.find(kRpcMeta) != std::string::npos) {
    const std::string* const held = table_.Get(key, world_.clock.Now());
    if (held != nullptr && *held != request.body) {
      return {400, "Duplicate rpc_meta key not allowed"};
    }
  }
  const Status put = table_.Put(key, request.body, expires);
  if (!put) return {507, fmt::format("the service is full: {}\n", put.error().context)};
  ExpireAt(expires);
  return {200, "metadata updated"};
}

// One timer, for the entry that ends first. A sign of life moves an end but not the timer: it then
// looks once in vain.
void MetadataServer::ExpireAt(Instant when) {
  if (when >= next_sweep_) return;
  next_sweep_ = when;
  timer_->At(when, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->next_sweep_ = kNever;
    const Instant next =
        self->table_.Expire(self->world_.clock.Now(), self->world_.clock.WallNow());
    self->ExpireAt(next);
  });
}

}  // namespace mooncake
