#include "directory/redis/redis_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/log.h"
#include "directory/leased_directory.h"
#include "directory/record.h"
#include "directory/redis/redis_client.h"

namespace mooncake {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kRedisPort = 6379;
// Ids of the dead leave the sorted set by the clocks of the living, which may be wrong by that
// much.
constexpr Duration kMemberMax = std::chrono::hours(1);
constexpr std::size_t kPageKeys = 256;

std::string Milliseconds(Duration duration) {
  return std::to_string(std::chrono::duration_cast<milliseconds>(duration).count());
}

class RedisStore final : public RecordStore {
 public:
  RedisStore(World& world, RedisServer server, const std::string& cluster)
      : world_(world),
        client_(world, std::move(server)),
        members_(fmt::format("/mooncake/{}/v1/instances", cluster)) {}

  std::string Describe() const override {
    const std::uint32_t database = client_.server().database;
    return fmt::format("{}://{}{}", client_.server().tls ? "rediss" : "redis", client_.Where(),
                       database == 0 ? std::string() : fmt::format("/{}", database));
  }
  void Close() override { client_.Close(); }

  Task<Status> Put(Record record, Instant deadline) override {
    const std::string id = ToString(record.identity.id);
    const Duration now = world_.clock.WallNow().time_since_epoch();
    auto call =
        client_.Call({{"SET", Key(id), ToJson(record), "PX", Milliseconds(kLeaseDuration)},
                      {"ZADD", members_, Milliseconds(now), id},
                      {"ZREMRANGEBYSCORE", members_, "-inf", Milliseconds(now - kMemberMax)},
                      {"PEXPIRE", members_, Milliseconds(kMemberMax)}},
                     deadline);
    const Result<std::vector<RespValue>> replies = co_await std::move(call);
    if (!replies) co_return Fail(replies.error());
    co_return Status{};
  }

  Task<Status> Remove(InstanceId id, Instant deadline) override {
    const std::string member = ToString(id);
    auto call = client_.Call({{"DEL", Key(member)}, {"ZREM", members_, member}}, deadline);
    const Result<std::vector<RespValue>> replies = co_await std::move(call);
    if (!replies) co_return Fail(replies.error());
    co_return Status{};
  }

  Task<Result<Listing>> List(Instant deadline) override {
    auto ask = client_.Call({{"ZRANGE", members_, "0", "-1"}}, deadline);
    const Result<std::vector<RespValue>> members = co_await std::move(ask);
    if (!members) co_return Fail(members.error());
    std::vector<std::vector<std::string>> pages;
    const std::vector<RespValue>& ids = members->at(0).items;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (i % kPageKeys == 0) pages.push_back({"MGET"});
      pages.back().push_back(Key(ids[i].text));
    }
    Listing listing;
    if (pages.empty()) co_return listing;
    auto get = client_.Call(std::move(pages), deadline);
    const Result<std::vector<RespValue>> replies = co_await std::move(get);
    if (!replies) co_return Fail(replies.error());
    for (const RespValue& page : *replies) {
      for (const RespValue& value : page.items) {
        if (value.kind == RespKind::kBulk) AddRecord(value.text, Describe(), listing);
      }
    }
    co_return listing;
  }

 private:
  std::string Key(const std::string& id) const { return members_ + "/" + id; }

  World& world_;
  RedisClient client_;
  std::string members_;  // the sorted set; a record's key is this, a slash, the id
};

}  // namespace

Result<RedisServer> ParseRedisServer(std::string_view connection) {
  std::string_view rest = connection;
  for (const std::string_view scheme : {"redis://", "rediss://"}) {
    if (rest.starts_with(scheme)) rest.remove_prefix(scheme.size());
  }
  RedisServer server;
  if (const std::size_t at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string_view credentials = rest.substr(0, at);
    const std::size_t colon = credentials.find(':');
    if (colon != std::string_view::npos) server.user = credentials.substr(0, colon);
    server.password = credentials.substr(colon == std::string_view::npos ? 0 : colon + 1);
    rest.remove_prefix(at + 1);
  }
  const std::size_t slash = rest.find('/');
  const std::string_view database =
      slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
  if (!database.empty()) {
    const char* const last = database.data() + database.size();
    const auto [end, error] = std::from_chars(database.data(), last, server.database);
    if (error != std::errc{} || end != last) {
      return Fail(ErrorId::kBadAddress,
                  fmt::format("metadata_server: \"{}\" is no number of a database", database));
    }
  }
  Result<HostPort> address = ParseHostPort(rest.substr(0, slash));
  if (!address) return Fail(Within("metadata_server", address.error()));
  server.address = std::move(*address);
  if (server.address.port == 0) server.address.port = kRedisPort;
  return server;
}

std::unique_ptr<Directory> MakeRedisDirectory(World& world, RedisServer server,
                                              const std::string& cluster) {
  return MakeLeasedDirectory(world,
                             std::make_unique<RedisStore>(world, std::move(server), cluster));
}

Error RedisFault(const std::string& reply) {
  const std::string context = fmt::format("redis answers \"{}\"", reply);
  const auto begins = [&reply](std::string_view word) { return reply.starts_with(word); };
  if (begins("WRONGPASS") || begins("NOAUTH") || begins("NOPERM") || begins("DENIED") ||
      begins("ERR invalid password") || reply.find("AUTH") != std::string::npos) {
    return {ErrorId::kDirectoryDenied, context};
  }
  if (begins("ERR DB index")) return {ErrorId::kBadOptionValue, "metadata_server: " + context};
  for (const std::string_view passing :
       {"LOADING", "BUSY", "MASTERDOWN", "READONLY", "OOM", "TRYAGAIN", "CLUSTERDOWN", "MISCONF",
        "NOREPLICAS", "ERR max number of clients"}) {
    if (begins(passing)) return {ErrorId::kDirectoryUnreachable, context};
  }
  return {ErrorId::kWrongService, context};
}

}  // namespace mooncake
