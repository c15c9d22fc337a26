// The results of a benchmark, as a table for people and as JSON for programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/rows.h"

namespace mooncake {

/// One row by one transport in one direction.
struct BenchEntry {
  std::string name;
  std::string transport;
  std::string operation;  ///< "write" or "read"; "none" for the idle row.
  BenchMetric metric = BenchMetric::kThroughput;
  std::uint64_t bytes = 0;  ///< Of one call.
  std::uint64_t ranges = 0;
  std::uint64_t threads = 1;
  std::uint64_t calls = 0;
  double gbps = 0;  ///< 10^9 bytes a second: the median of the rounds.
  double p50_us = 0;
  double p99_us = 0;
  double p999_us = 0;
  double cpu_s_per_gb = 0;  ///< Of both processes.
  double cpu_us_per_call = 0;
  std::string limit_name = "none";
  double limit_value = 0;          ///< In the unit of the metric: GB/s, us, us, s/GB.
  std::optional<double> of_limit;  ///< 1: as good as the limit; the median of the rounds' ratios.
  std::optional<double> goal;      ///< What of_limit should be at least.
  std::string checksum;            ///< Of the target, when it was as it should be or not.
  bool verified = false;           ///< The target held exactly the bytes that it should.
  [[nodiscard]] double value() const noexcept;  ///< In the unit of the metric.
  [[nodiscard]] bool reached() const noexcept { return !goal || (of_limit && *of_limit >= *goal); }
};

[[nodiscard]] std::string BenchHeading();
[[nodiscard]] std::string BenchLine(const BenchEntry& entry);
/// "31 of 40 goals reached; all targets verified"
[[nodiscard]] std::string BenchSummary(const std::vector<BenchEntry>& entries);
[[nodiscard]] std::string BenchJson(const std::vector<BenchEntry>& entries);

/// The value below which the share `quantile` of `values` lies; 0 without values. Reorders them.
[[nodiscard]] double QuantileOf(std::vector<double>& values, double quantile) noexcept;

}  // namespace mooncake
