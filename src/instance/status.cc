#include "instance/status.h"

#include <boost/json.hpp>

namespace mooncake {
namespace {

namespace json = boost::json;

json::array PathsJson(const Engine& engine) {
  json::array paths;
  for (const PathRow& row : engine.Paths()) {
    paths.push_back({{"peer", row.peer_label},
                     {"peer_id", ToString(row.peer)},
                     {"transport", row.transport},
                     {"usable", row.usable},
                     {"reason", row.reason},
                     {"detail", row.detail},
                     {"bytes", row.bytes},
                     {"transfers", row.transfers},
                     {"failures", row.failures},
                     {"gigabytes_per_second", row.gigabytes_per_second},
                     {"suspected", row.suspected}});
  }
  return paths;
}

json::array CopyJson(const CopyEngine& copy) {
  json::array rows;
  for (const CopyEngine::Row& row : copy.Describe()) {
    rows.push_back({{"size_bytes_max", row.size_bytes_max},
                    {"kernel", row.kernel},
                    {"gigabytes_per_second", row.gigabytes_per_second},
                    {"crc_kernel", row.crc_kernel},
                    {"crc_gigabytes_per_second", row.crc_gigabytes_per_second}});
  }
  return rows;
}

json::object LatencyJson(const Histogram::Snapshot& latency) {
  return {{"count", latency.count},
          {"sum", latency.sum},
          {"p50", latency.Quantile(0.5)},
          {"p99", latency.Quantile(0.99)}};
}

}  // namespace

std::string StatusJson(const StatusSources& sources) {
  const InstanceCore& core = sources.core;
  const Identity& identity = core.engine.identity();
  const auto seconds = [](Duration d) { return std::chrono::duration<double>(d).count(); };
  const Instant now = core.world.clock.Now();
  json::object directory{{"connection", sources.directory.Describe()},
                         {"reachable", !sources.directory.outage()}};
  if (const std::optional<Outage> outage = sources.directory.outage()) {
    directory["unreachable_seconds"] = seconds(now - outage->since);
    directory["cause"] = outage->cause.Text();
  }
  const PrefixCache::Statistics cache = core.cache.statistics();
  const Coordinator::Totals totals = sources.coordinator.totals();
  json::object object{
      {"id", ToString(identity.id)},
      {"label", identity.label},
      {"incarnation", identity.incarnation},
      {"role", ToString(core.role)},
      {"model", core.model_id},
      {"version", identity.program_version},
      {"host", identity.host.host_name},
      {"process", identity.host.process},
      {"endpoint", ToString(sources.endpoint)},
      {"uptime_seconds", seconds(now - sources.started)},
      {"draining", core.draining},
      {"directory", std::move(directory)},
      {"requests",
       {{"running", sources.coordinator.running()},
        {"queue_max", core.limits.queue_max},
        {"finished", totals.finished},
        {"failed", totals.failed},
        {"first_token_us", LatencyJson(totals.first_token_us)}}},
      {"kv",
       {{"pages", core.memory.pages()},
        {"page_tokens", core.shape().page_tokens},
        {"bytes_per_token", core.shape().bytes_per_token()},
        {"pages_free", cache.free_pages},
        {"pages_cached", cache.cached_pages},
        {"pages_pinned", cache.pinned_pages},
        {"hits", cache.hit_pages},
        {"misses", cache.missed_pages},
        {"evictions", cache.evicted_pages}}},
      {"paths", PathsJson(core.engine)},
      {"copy", CopyJson(sources.copy)},
  };
  if (sources.prefill != nullptr) {
    object["prefill"] = {{"queue_length", sources.prefill->queue_length()},
                         {"queued_tokens", sources.prefill->queued_tokens()},
                         {"computed_tokens", sources.prefill->computed_tokens()},
                         {"cached_tokens", sources.prefill->cached_tokens()}};
  }
  if (sources.decode != nullptr) {
    object["decode"] = {{"queue_length", sources.decode->queue_length()},
                        {"generated_tokens", sources.decode->generated_tokens()}};
  }
  return json::serialize(object);
}

}  // namespace mooncake
