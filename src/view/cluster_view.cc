#include "view/cluster_view.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

namespace mooncake {
namespace {

namespace json = boost::json;

const json::value& At(const json::object& object, std::string_view key) {
  static const json::value kNothing;
  const json::value* const found = object.if_contains(key);
  return found == nullptr ? kNothing : *found;
}

const json::object& ObjectAt(const json::object& object, std::string_view key) {
  static const json::object kNothing;
  const json::value& value = At(object, key);
  return value.is_object() ? value.get_object() : kNothing;
}

const json::array& ArrayAt(const json::object& object, std::string_view key) {
  static const json::array kNothing;
  const json::value& value = At(object, key);
  return value.is_array() ? value.get_array() : kNothing;
}

// Labels and reasons come from peers and go to terminals: no control character passes.
std::string TextAt(const json::object& object, std::string_view key) {
  const json::value& value = At(object, key);
  std::string text = value.is_string() ? std::string(value.get_string()) : std::string();
  constexpr unsigned char kDelete = 0x7F;
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < ' ' || byte == kDelete) c = '?';
  }
  return text;
}

std::uint64_t CountAt(const json::object& object, std::string_view key) {
  json::error_code code;
  const auto count = At(object, key).to_number<std::uint64_t>(code);
  return code ? 0 : count;
}

double NumberAt(const json::object& object, std::string_view key) {
  json::error_code code;
  const auto number = At(object, key).to_number<double>(code);
  return code || !std::isfinite(number) ? 0 : number;
}

bool FlagAt(const json::object& object, std::string_view key) {
  const json::value& value = At(object, key);
  return value.is_bool() && value.get_bool();
}

PathView ReadPath(const json::object& object) {
  return {.peer = TextAt(object, "peer"),
          .peer_id = TextAt(object, "peer_id"),
          .transport = TextAt(object, "transport"),
          .usable = FlagAt(object, "usable"),
          .reason = TextAt(object, "reason"),
          .detail = TextAt(object, "detail"),
          .bytes = CountAt(object, "bytes"),
          .transfers = CountAt(object, "transfers"),
          .failures = CountAt(object, "failures"),
          .gigabytes_per_second = NumberAt(object, "gigabytes_per_second"),
          .suspected = FlagAt(object, "suspected")};
}

InstanceView ReadInstance(const json::object& object) {
  const json::object& kv = ObjectAt(object, "kv");
  const json::object& directory = ObjectAt(object, "directory");
  InstanceView instance;
  instance.id = TextAt(object, "id");
  instance.label = TextAt(object, "label");
  instance.role = TextAt(object, "role");
  instance.endpoint = TextAt(object, "endpoint");
  instance.model = TextAt(object, "model");
  instance.uptime_seconds = NumberAt(object, "uptime_seconds");
  instance.draining = FlagAt(object, "draining");
  instance.queue_length = CountAt(ObjectAt(object, "prefill"), "queue_length") +
                          CountAt(ObjectAt(object, "decode"), "queue_length");
  instance.queue_max = CountAt(ObjectAt(object, "requests"), "queue_max");
  instance.pages = CountAt(kv, "pages");
  instance.pages_free = CountAt(kv, "pages_free");
  instance.page_hits = CountAt(kv, "hits");
  instance.page_misses = CountAt(kv, "misses");
  instance.directory = {
      .connection = TextAt(directory, "connection"),
      .reachable = !directory.contains("reachable") || FlagAt(directory, "reachable"),
      .unreachable_seconds = NumberAt(directory, "unreachable_seconds"),
      .cause = TextAt(directory, "cause")};
  for (const json::value& path : ArrayAt(object, "paths")) {
    if (path.is_object()) instance.paths.push_back(ReadPath(path.get_object()));
  }
  return instance;
}

int RankOf(const std::string& role) { return role == "prefill" ? 0 : role == "both" ? 1 : 2; }

std::uint64_t Grown(std::uint64_t before, std::uint64_t now) {
  return now >= before ? now - before : now;
}

}  // namespace

Result<ClusterView> ParseCluster(std::string_view body) {
  json::error_code code;
  const json::value value = json::parse(body, code);
  if (code || !value.is_object() || !At(value.get_object(), "instances").is_array()) {
    return Fail(ErrorId::kNotAnInstance, "its answer is not the description of a cluster");
  }
  ClusterView view;
  for (const json::value& instance : ArrayAt(value.get_object(), "instances")) {
    if (instance.is_object()) view.instances.push_back(ReadInstance(instance.get_object()));
  }
  for (const json::value& missing : ArrayAt(value.get_object(), "unreachable")) {
    if (!missing.is_object()) continue;
    view.missing.push_back(
        {TextAt(missing.get_object(), "label"), TextAt(missing.get_object(), "reason")});
  }
  std::sort(view.instances.begin(), view.instances.end(),
            [](const InstanceView& a, const InstanceView& b) {
              return std::tuple(RankOf(a.role), std::string_view(a.label), std::string_view(a.id)) <
                     std::tuple(RankOf(b.role), std::string_view(b.label), std::string_view(b.id));
            });
  return view;
}

std::string MergeClusters(std::span<const std::string> bodies,
                          std::span<const MissingView> missing) {
  json::array instances;
  json::array unreachable;
  std::set<std::string> answered;
  std::map<std::string, json::value> silent;  // by id: several answers may miss the same instance
  for (const std::string& body : bodies) {
    json::error_code code;
    const json::value value = json::parse(body, code);
    if (code || !value.is_object()) continue;
    for (const json::value& instance : ArrayAt(value.get_object(), "instances")) {
      if (instance.is_object() && answered.insert(TextAt(instance.get_object(), "id")).second)
        instances.push_back(instance);
    }
    for (const json::value& one : ArrayAt(value.get_object(), "unreachable")) {
      if (one.is_object()) silent.emplace(TextAt(one.get_object(), "id"), one);
    }
  }
  for (auto& [id, one] : silent) {
    if (!answered.contains(id)) unreachable.push_back(std::move(one));
  }
  for (const MissingView& one : missing)
    unreachable.push_back({{"label", one.label}, {"reason", one.reason}});
  return json::serialize(
      json::object{{"instances", std::move(instances)}, {"unreachable", std::move(unreachable)}});
}

ClusterView Since(const ClusterView& before, const ClusterView& now) {
  std::map<std::tuple<std::string, std::string, std::string>, const PathView*> known;
  for (const InstanceView& instance : before.instances) {
    for (const PathView& path : instance.paths)
      known[{instance.id, path.peer_id, path.transport}] = &path;
  }
  ClusterView since = now;
  for (InstanceView& instance : since.instances) {
    for (PathView& path : instance.paths) {
      const auto found = known.find({instance.id, path.peer_id, path.transport});
      if (found == known.end()) continue;
      path.bytes = Grown(found->second->bytes, path.bytes);
      path.transfers = Grown(found->second->transfers, path.transfers);
      path.failures = Grown(found->second->failures, path.failures);
    }
  }
  return since;
}

}  // namespace mooncake
