#include "directory/http/http_directory.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "directory/http/metadata_format.h"
#include "directory/leased_directory.h"
#include "directory/record.h"

namespace mooncake {
namespace {

class HttpStore final : public RecordStore {
 public:
  HttpStore(World& world, HttpUrl service, const std::string& cluster)
      : world_(world),
        service_(std::move(service)),
        http_(world, world.control, service_),
        index_(fmt::format("/mooncake/{}/v1/instances", cluster)) {}

  std::string Describe() const override {
    return fmt::format("{}://{}{}", service_.tls ? "https" : "http", Where(), service_.target);
  }
  void Close() override { http_.Close(); }

  Task<Status> Put(Record record, Instant deadline) override {
    if (!clock_ahead_) {  // until the service has said what time it is, the end of the record
                          // cannot be told
      auto look = Look(deadline);
      const Result<Answer> seen = co_await std::move(look);
      if (!seen) co_return Fail(seen.error());
    }
    const std::string query =
        fmt::format("key={}&ttl_ms={}", EscapeQuery(Key(record.identity.id)),
                    std::chrono::duration_cast<std::chrono::milliseconds>(kLeaseDuration).count());
    auto put = Send("PUT", query, WithExpiry(ToJson(record), ServiceNow() + kWallLease), deadline);
    const Result<Answer> answer = co_await std::move(put);
    if (!answer) co_return Fail(answer.error());
    if (answer->status != 200) co_return Fail(NotTheService("a PUT", *answer));
    if (answer->is_ours) co_return Status{};
    auto enter = EnterIndex(record.identity.id, deadline);
    co_return co_await std::move(enter);
  }

  Task<Status> Remove(InstanceId id, Instant deadline) override {
    auto remove = Send("DELETE", "key=" + EscapeQuery(Key(id)), {}, deadline);
    const Result<Answer> answer = co_await std::move(remove);
    if (!answer) co_return Fail(answer.error());
    co_return Status{};  // an index of the public kind keeps the id until somebody else enters: it
                         // leads to nothing
  }

  Task<Result<Listing>> List(Instant deadline) override {
    auto look = Look(deadline);
    const Result<Answer> answer = co_await std::move(look);
    if (!answer) co_return Fail(answer.error());
    Listing listing;
    if (answer->is_ours) {
      const Result<MetadataListing> listed = ListingFromJson(answer->body);
      if (!listed) co_return Fail(Within(Where(), listed.error()));
      for (const MetadataEntry& entry : listed->entries)
        AddRecord(entry.value, Describe(), listing);
      for (const MetadataObituary& gone : listed->gone) {
        Result<Record> record = RecordFromJson(gone.entry.value);
        if (record) listing.gone.push_back({std::move(*record), gone.cause, gone.gone});
      }
      co_return listing;
    }
    const Result<std::vector<InstanceId>> ids = IdsIn(*answer);
    if (!ids) co_return Fail(ids.error());
    for (const InstanceId id : *ids) {
      auto get = GetLive(id, deadline);
      const Result<std::string> value = co_await std::move(get);
      if (!value) co_return Fail(value.error());
      if (!value->empty()) AddRecord(*value, Describe(), listing);
    }
    co_return listing;
  }

 private:
  static constexpr WallTime::duration kWallLease = kLeaseDuration;

  struct Answer {
    int status = 0;
    std::string body;
    bool is_ours = false;  // of a service that keeps ttl_ms and answers prefix
    std::string server;
  };

  std::string Where() const { return ToString(HostPort{service_.host, service_.port}); }
  std::string Key(const InstanceId& id) const { return index_ + "/" + ToString(id); }
  WallTime ServiceNow() const {
    return world_.clock.WallNow() + clock_ahead_.value_or(WallTime::duration{});
  }

  Error NotTheService(std::string_view what, const Answer& answer) const {
    return {
        ErrorId::kWrongService,
        fmt::format("{} is an HTTP server ({}), not a metadata service: it answers {} to {} of {}",
                    Where(), answer.server.empty() ? "unnamed" : answer.server, answer.status, what,
                    service_.target)};
  }

  // One request that both kinds understand: ours answers the prefix, the other the key, with its
  // index.
  Task<Result<Answer>> Look(Instant deadline) {
    const std::string query =
        fmt::format("key={}&prefix={}", EscapeQuery(index_), EscapeQuery(index_ + "/"));
    return Send("GET", query, {}, deadline);
  }

  Task<Result<Answer>> Send(std::string method, std::string query, std::string body,
                            Instant deadline) {
    const std::string target = service_.target + "?" + query;
    auto send = http_.Send(std::move(method), target, std::move(body),
                           {{"Content-Type", "application/json"}}, deadline);
    Result<HttpResponse> response = co_await std::move(send);
    if (!response) co_return Fail(DirectoryFault(Where(), response.error()));
    const std::map<std::string, std::string>& headers = response->headers;
    const auto header = [&headers](std::string_view name) {
      const auto found = headers.find(std::string(name));
      return found == headers.end() ? std::string() : found->second;
    };
    Answer answer{response->status, std::move(response->body),
                  headers.contains(std::string(kMetadataServiceHeader)), header("server")};
    if (!answer.is_ours && answer.server.starts_with("mooncake")) {
      co_return Fail(
          ErrorId::kDirectoryIsUs,
          fmt::format("{} is the port of a Mooncake process without a metadata service ({})",
                      Where(), answer.server));
    }
    if (answer.status == 401 || answer.status == 403) {
      co_return Fail(ErrorId::kDirectoryDenied,
                     fmt::format("{} answers {}", Where(), answer.status));
    }
    if (answer.status == 429 || answer.status >= 500) {
      co_return Fail(
          ErrorId::kDirectoryUnreachable,
          fmt::format("{} answers {}: {}", Where(), answer.status, answer.body.substr(0, 80)));
    }
    // Both ends of a record's life are told by one clock, the service's: hosts need not agree about
    // the time.
    const WallTime now = world_.clock.WallNow();
    clock_ahead_ = ParseHttpDate(header("date")).value_or(now) - now;
    co_return answer;
  }

  // ---- a service of the public kind: what a record says of its end, and an index for a listing
  // ----

  Result<std::vector<InstanceId>> IdsIn(const Answer& answer) const {
    if (answer.is_ours) {
      return Fail(
          ErrorId::kDirectoryUnreachable,
          Where() + " has been replaced by a service of our own: a sign of life reaches it");
    }
    if (answer.status != 200 && answer.status != 404) return Fail(NotTheService("a GET", answer));
    Result<std::vector<InstanceId>> ids = IndexFromJson(answer.status == 200 ? answer.body : "");
    if (!ids) return Fail(Within(Where(), ids.error()));
    return ids;
  }

  // The record's text; empty if it is not there or has ended.
  Task<Result<std::string>> GetLive(InstanceId id, Instant deadline) {
    auto get = Send("GET", "key=" + EscapeQuery(Key(id)), {}, deadline);
    Result<Answer> answer = co_await std::move(get);
    if (!answer) co_return Fail(answer.error());
    if (answer->status != 200 || ExpiryOf(answer->body) <= ServiceNow()) co_return std::string();
    co_return std::move(answer->body);
  }

  // The index is read and written back whole, so one of two writers at a time may be lost. It looks
  // whether it stands there, and every sign of life looks again. Who enters also sweeps: ids whose
  // records have ended leave.
  Task<Status> EnterIndex(InstanceId id, Instant deadline) {
    constexpr int kAttemptsMax = 5;
    constexpr Duration kBackOffMax = std::chrono::milliseconds(20);  // twice as long each time
    std::vector<InstanceId> ended;
    for (int attempt = 0;; ++attempt) {
      auto read = ReadIndex(deadline);
      Result<std::vector<InstanceId>> ids = co_await std::move(read);
      if (!ids) co_return Fail(ids.error());
      if (std::find(ids->begin(), ids->end(), id) != ids->end()) co_return Status{};
      if (attempt > kAttemptsMax && ids->empty()) {
        co_return Fail(ErrorId::kWrongService, Where() + " does not keep what it accepts");
      }
      if (attempt > kAttemptsMax) {
        co_return Fail(ErrorId::kDirectoryUnreachable,
                       Where() + ": others write the index of the instances at the same time");
      }
      if (attempt == 0 && !ids->empty()) {  // takes a while, so the index is read again after it
        auto sweep = Sweep(*ids, deadline);
        Result<std::vector<InstanceId>> swept = co_await std::move(sweep);
        if (!swept) co_return Fail(swept.error());
        ended = std::move(*swept);
        continue;
      }
      std::erase_if(*ids, [&ended](const InstanceId& known) {
        return std::find(ended.begin(), ended.end(), known) != ended.end();
      });
      ids->push_back(id);
      auto put = Send("PUT", "key=" + EscapeQuery(index_), IndexToJson(*ids), deadline);
      const Result<Answer> answer = co_await std::move(put);
      if (!answer) co_return Fail(answer.error());
      if (answer->status != 200) co_return Fail(NotTheService("a PUT", *answer));
      const auto bound = static_cast<std::uint64_t>(kBackOffMax.count()) << attempt;
      auto pause = world_.clock.SleepFor(world_.control, Duration(world_.random.Below(bound)));
      co_await std::move(pause);  // those that write at the same time drift apart
    }
  }

  Task<Result<std::vector<InstanceId>>> ReadIndex(Instant deadline) {
    auto look = Look(deadline);
    const Result<Answer> answer = co_await std::move(look);
    if (!answer) co_return Fail(answer.error());
    co_return IdsIn(*answer);
  }

  // Removes the records that have ended. Returns whose they were.
  Task<Result<std::vector<InstanceId>>> Sweep(std::vector<InstanceId> ids, Instant deadline) {
    std::vector<InstanceId> ended;
    for (const InstanceId id : ids) {
      auto get = GetLive(id, deadline);
      const Result<std::string> value = co_await std::move(get);
      if (!value) co_return Fail(value.error());
      if (!value->empty()) continue;
      ended.push_back(id);
      auto remove = Send("DELETE", "key=" + EscapeQuery(Key(id)), {}, deadline);
      const Result<Answer> removed = co_await std::move(remove);
      if (!removed) co_return Fail(removed.error());
    }
    co_return ended;
  }

  World& world_;
  HttpUrl service_;
  HttpClient http_;
  std::string index_;  // the key of the index; a record's key is this, a slash, the id
  std::optional<WallTime::duration>
      clock_ahead_;  // of the service's clock before ours; it counts whole seconds
};

}  // namespace

Result<HttpUrl> ParseMetadataUrl(const std::string& connection) {
  if (connection.find('@') != std::string::npos) {
    return Fail(ErrorId::kBadAddress,
                "metadata_server: an http:// directory takes no user and no password");
  }
  Result<HttpUrl> url = ParseHttpUrl(connection);
  if (!url) return Fail(Within("metadata_server", url.error()));
  if (url->target.find_first_of("?#") != std::string::npos) {
    return Fail(ErrorId::kBadAddress,
                "metadata_server: the path ends in /metadata, without a query");
  }
  if (url->target == "/") url->target = "/metadata";
  return url;
}

std::unique_ptr<Directory> MakeHttpDirectory(World& world, HttpUrl service,
                                             const std::string& cluster) {
  return MakeLeasedDirectory(world,
                             std::make_unique<HttpStore>(world, std::move(service), cluster));
}

}  // namespace mooncake
