#include "trace/inspect_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/unordered/unordered_flat_set.hpp>
#include <cmath>
#include <numeric>
#include <vector>

namespace mooncake {
namespace {

using BlockSet = boost::unordered_flat_set<std::uint64_t>;

LengthDistribution DistributionOf(const Trace& trace, std::uint32_t TraceRequest::* length) {
  if (trace.empty()) return {};
  std::vector<std::uint32_t> sorted;
  sorted.reserve(trace.size());
  for (const TraceRequest& request : trace) sorted.push_back(request.*length);
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double share) {
    const double rank = std::ceil(share * static_cast<double>(sorted.size()));
    return sorted[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
  };
  LengthDistribution distribution;
  distribution.total = std::accumulate(sorted.begin(), sorted.end(), std::uint64_t{0});
  distribution.mean = static_cast<double>(distribution.total) / static_cast<double>(sorted.size());
  distribution.p50 = quantile(0.50);
  distribution.p90 = quantile(0.90);
  distribution.p99 = quantile(0.99);
  distribution.max = sorted.back();
  return distribution;
}

std::uint64_t HitTokens(const TraceRequest& request, const BlockSet& seen) {
  const auto first_new = std::find_if(request.hash_ids.begin(), request.hash_ids.end(),
                                      [&](std::uint64_t id) { return !seen.contains(id); });
  const auto hit_blocks = static_cast<std::uint64_t>(first_new - request.hash_ids.begin());
  return std::min<std::uint64_t>(hit_blocks * kTraceBlockTokens, request.input_tokens);
}

std::string DistributionText(std::string_view name, const LengthDistribution& d) {
  return fmt::format("{:<16}{} in all, mean {:.0f}, p50 {}, p90 {}, p99 {}, max {}\n", name,
                     d.total, d.mean, d.p50, d.p90, d.p99, d.max);
}

}  // namespace

double TraceStatistics::prefix_hit_ratio() const noexcept {
  return input.total == 0
             ? 0
             : static_cast<double>(prefix_hit_tokens) / static_cast<double>(input.total);
}

double TraceStatistics::requests_per_second() const noexcept {
  return duration_ms == 0
             ? 0
             : 1000.0 * static_cast<double>(requests) / static_cast<double>(duration_ms);
}

TraceStatistics InspectTrace(const Trace& trace) {
  TraceStatistics statistics;
  statistics.requests = trace.size();
  statistics.duration_ms =
      trace.empty() ? 0 : trace.back().timestamp_ms - trace.front().timestamp_ms;
  statistics.input = DistributionOf(trace, &TraceRequest::input_tokens);
  statistics.output = DistributionOf(trace, &TraceRequest::output_tokens);
  BlockSet seen;
  for (const TraceRequest& request : trace) {
    statistics.prefix_hit_tokens += HitTokens(request, seen);
    seen.insert(request.hash_ids.begin(), request.hash_ids.end());
  }
  statistics.distinct_blocks = seen.size();
  return statistics;
}

std::string StatisticsText(const TraceStatistics& statistics) {
  const double duration_s = static_cast<double>(statistics.duration_ms) / 1000;
  std::string text = fmt::format("requests        {} in {:.1f} s", statistics.requests, duration_s);
  if (statistics.duration_ms > 0)
    text += fmt::format(", {:.2f} per second", statistics.requests_per_second());
  text += "\n";
  text += DistributionText("input tokens", statistics.input);
  text += DistributionText("output tokens", statistics.output);
  text += fmt::format("blocks          {} distinct, of {} tokens\n", statistics.distinct_blocks,
                      kTraceBlockTokens);
  text +=
      fmt::format("prefix hits     {:.2f} % of the input tokens, with a cache that never forgets\n",
                  100 * statistics.prefix_hit_ratio());
  return text;
}

}  // namespace mooncake
