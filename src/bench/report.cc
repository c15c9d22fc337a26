#include "bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

namespace mooncake {
namespace {

namespace json = boost::json;

std::string_view UnitOf(BenchMetric metric) noexcept {
  switch (metric) {
    case BenchMetric::kThroughput:
      return "GB/s";
    case BenchMetric::kLatency:
      return "us";
    case BenchMetric::kCpuPerCall:
      return "CPU us";
    case BenchMetric::kCpuPerByte:
      return "CPU s/GB";
  }
  return "";
}

json::value OrNull(const std::optional<double>& value) {
  return value ? json::value(*value) : json::value(nullptr);
}

}  // namespace

double BenchEntry::value() const noexcept {
  switch (metric) {
    case BenchMetric::kThroughput:
      return gbps;
    case BenchMetric::kLatency:
      return p50_us;
    case BenchMetric::kCpuPerCall:
      return cpu_us_per_call;
    case BenchMetric::kCpuPerByte:
      return cpu_s_per_gb;
  }
  return 0;
}

double QuantileOf(std::vector<double>& values, double quantile) noexcept {
  if (values.empty()) return 0;
  const auto index =
      static_cast<std::size_t>(std::llround(quantile * static_cast<double>(values.size() - 1)));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(index);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

std::string BenchHeading() {
  return fmt::format("{:<15} {:<4} {:<5} {:>20} {:>10} {:>10} {:>9}  {:<29} {:>8} {:>6}\n", "row",
                     "path", "", "measured", "p50 us", "p99 us", "CPU s/GB", "limit", "of limit",
                     "goal");
}

std::string BenchLine(const BenchEntry& entry) {
  const std::string limit = entry.of_limit ? fmt::format("{}: {:.3f} {}", entry.limit_name,
                                                         entry.limit_value, UnitOf(entry.metric))
                                           : "";
  return fmt::format(
      "{:<15} {:<4} {:<5} {:>20} {:>10.2f} {:>10.2f} {:>9.3f}  {:<29} {:>8} {:>6}{}{}\n",
      entry.name, entry.transport, entry.operation == "none" ? "" : entry.operation,
      fmt::format("{:.3f} {}", entry.value(), UnitOf(entry.metric)), entry.p50_us, entry.p99_us,
      entry.cpu_s_per_gb, limit, entry.of_limit ? fmt::format("{:.2f}", *entry.of_limit) : "",
      entry.goal ? fmt::format("{:.2f}", *entry.goal) : "", entry.reached() ? "" : "  below",
      entry.verified ? "" : "  WRONG BYTES");
}

std::string BenchSummary(const std::vector<BenchEntry>& entries) {
  std::size_t goals = 0;
  std::size_t reached = 0;
  std::size_t wrong = 0;
  for (const BenchEntry& entry : entries) {
    goals += entry.goal ? 1 : 0;
    reached += entry.goal && entry.reached() ? 1 : 0;
    wrong += entry.verified ? 0 : 1;
  }
  return fmt::format("{} of {} goals reached; {}\n", reached, goals,
                     wrong == 0 ? "every target held the right bytes"
                                : fmt::format("{} targets held WRONG BYTES", wrong));
}

std::string BenchJson(const std::vector<BenchEntry>& entries) {
  json::array rows;
  for (const BenchEntry& entry : entries) {
    rows.push_back(json::object{{"name", entry.name},
                                {"transport", entry.transport},
                                {"operation", entry.operation},
                                {"bytes", entry.bytes},
                                {"ranges", entry.ranges},
                                {"threads", entry.threads},
                                {"calls", entry.calls},
                                {"unit", std::string(UnitOf(entry.metric))},
                                {"gbps", entry.gbps},
                                {"p50_us", entry.p50_us},
                                {"p99_us", entry.p99_us},
                                {"p999_us", entry.p999_us},
                                {"cpu_s_per_gb", entry.cpu_s_per_gb},
                                {"cpu_us_per_call", entry.cpu_us_per_call},
                                {"limit_name", entry.limit_name},
                                {"limit_value", entry.limit_value},
                                {"of_limit", OrNull(entry.of_limit)},
                                {"goal", OrNull(entry.goal)},
                                {"reached", entry.reached()},
                                {"checksum", entry.checksum},
                                {"verified", entry.verified}});
  }
  return json::serialize(json::object{{"rows", std::move(rows)}}) + "\n";
}

}  // namespace mooncake
