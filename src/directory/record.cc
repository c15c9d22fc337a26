#include "directory/record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "directory/json_fields.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

namespace json = boost::json;
using std::chrono::milliseconds;

std::uint64_t UnixMs(WallTime time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count());
}
// A peer's number is clamped to what a WallTime of nanoseconds can hold.
WallTime FromUnixMs(std::uint64_t ms) {
  constexpr std::uint64_t kMsMax = 9'000'000'000'000;
  return WallTime(milliseconds(std::min(ms, kMsMax)));
}

std::uint64_t NumberOf(const json::object& object, std::string_view key) {
  const json::value* const value = object.if_contains(key);
  if (value == nullptr) return 0;
  if (value->is_uint64()) return value->get_uint64();
  return value->is_int64() && value->get_int64() > 0
             ? static_cast<std::uint64_t>(value->get_int64())
             : 0;
}

}  // namespace

pb::Record ToProto(const Record& record) {
  pb::Record proto;
  *proto.mutable_identity() = ToProto(record.identity);
  proto.set_cluster(record.cluster);
  for (const Endpoint& endpoint : record.endpoints) proto.add_endpoints(ToString(endpoint));
  for (const auto& [name, value] : record.attributes) (*proto.mutable_attributes())[name] = value;
  proto.set_registered_unix_ms(UnixMs(record.registered));
  return proto;
}

Record FromProto(const pb::Record& proto) {
  Record record;
  record.identity = FromProto(proto.identity());
  record.cluster = proto.cluster();
  for (const std::string& text : proto.endpoints()) {
    if (const Result<Endpoint> endpoint = ParseEndpoint(text))
      record.endpoints.push_back(*endpoint);
  }
  for (const auto& [name, value] : proto.attributes()) record.attributes[name] = value;
  record.registered = FromUnixMs(proto.registered_unix_ms());
  return record;
}

std::string ToJson(const Record& record) {
  json::array endpoints;
  for (const Endpoint& endpoint : record.endpoints) endpoints.emplace_back(ToString(endpoint));
  json::object attributes;
  for (const auto& [name, value] : record.attributes) attributes[name] = value;
  const Identity& identity = record.identity;
  return json::serialize(json::object{
      {"id", ToString(identity.id)},
      {"incarnation", identity.incarnation},
      {"label", identity.label},
      {"host",
       {{"boot_id", identity.host.boot_id},
        {"name", identity.host.host_name},
        {"process", identity.host.process},
        {"process_namespace", identity.host.process_namespace}}},
      {"version", identity.program_version},
      {"cluster", record.cluster},
      {"endpoints", endpoints},
      {"attributes", attributes},
      {"registered_unix_ms", UnixMs(record.registered)},
  });
}

Result<Record> RecordFromJson(std::string_view text) {
  json::error_code code;
  const json::value value = json::parse(text, code);
  if (code || !value.is_object())
    return Fail(ErrorId::kDirectoryGarbage, "a record is not a JSON object");
  const json::object& object = value.get_object();
  Record record;
  const std::optional<InstanceId> id = ParseInstanceId(TextOf(object, "id"));
  if (!id) return Fail(ErrorId::kDirectoryGarbage, "a record has no id");
  record.identity.id = *id;
  record.identity.incarnation = NumberOf(object, "incarnation");
  record.identity.label = TextOf(object, "label");
  record.identity.program_version = TextOf(object, "version");
  if (const json::value* host = object.if_contains("host"); host != nullptr && host->is_object()) {
    const json::object& fields = host->get_object();
    record.identity.host = {TextOf(fields, "boot_id"), TextOf(fields, "name"),
                            static_cast<std::int64_t>(NumberOf(fields, "process")),
                            TextOf(fields, "process_namespace"), 0};
  }
  record.cluster = TextOf(object, "cluster");
  if (const json::value* endpoints = object.if_contains("endpoints");
      endpoints != nullptr && endpoints->is_array()) {
    for (const json::value& entry : endpoints->get_array()) {
      if (!entry.is_string()) continue;
      if (const Result<Endpoint> endpoint = ParseEndpoint(entry.get_string()))
        record.endpoints.push_back(*endpoint);
    }
  }
  if (const json::value* attributes = object.if_contains("attributes");
      attributes != nullptr && attributes->is_object()) {
    for (const auto& [name, entry] : attributes->get_object()) {
      if (entry.is_string()) record.attributes[std::string(name)] = std::string(entry.get_string());
    }
  }
  record.registered = FromUnixMs(NumberOf(object, "registered_unix_ms"));
  return record;
}

std::vector<Endpoint> ReachableAt(Network& network, const Endpoint& bound) {
  if (!bound.address.is_unspecified()) return {bound};
  std::vector<Endpoint> endpoints;
  for (const IpAddress& address : network.LocalAddresses()) {
    if (!address.is_loopback() && !address.is_link_local())
      endpoints.push_back({address, bound.port});
  }
  if (endpoints.empty()) endpoints.push_back({IpAddress::LoopbackV4(), bound.port});
  return endpoints;
}

void Roster::Update(const std::vector<Record>& records, WallTime now) {
  for (const Record& known : records_) {
    const auto same = [&known](const Record& r) { return r.identity.id == known.identity.id; };
    if (std::any_of(records.begin(), records.end(), same)) continue;
    const bool heard = std::any_of(gone_.begin(), gone_.end(), [&known](const Obituary& o) {
      return o.record.identity.id == known.identity.id;
    });
    if (!heard) Bury({known, "expired or withdrawn", now});
  }
  records_ = records;
}

void Roster::Bury(const Obituary& obituary) {
  constexpr std::size_t kGoneMax = 256;
  const auto same = [&obituary](const Obituary& o) {
    return o.record.identity.id == obituary.record.identity.id;
  };
  std::erase_if(gone_, same);
  if (gone_.size() == kGoneMax) gone_.erase(gone_.begin());
  gone_.push_back(obituary);
}

Result<Record> PickNewest(const std::string& label, const std::vector<Record>& records,
                          const std::vector<Obituary>& gone) {
  const Record* newest = nullptr;
  for (const Record& record : records) {
    if (record.identity.label != label) continue;
    if (newest == nullptr || record.identity.incarnation > newest->identity.incarnation)
      newest = &record;
  }
  if (newest != nullptr) return *newest;
  for (auto it = gone.rbegin(); it != gone.rend(); ++it) {
    if (it->record.identity.label == label) {
      return Fail(ErrorId::kNotFound,
                  fmt::format("{}: {} at {:%H:%M:%S} UTC", Describe(it->record.identity), it->cause,
                              std::chrono::floor<std::chrono::seconds>(it->gone)));
    }
  }
  return Fail(ErrorId::kNotFound, fmt::format("\"{}\" was never registered here ({} live records)",
                                              label, records.size()));
}

}  // namespace mooncake
