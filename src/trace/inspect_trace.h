// What a trace contains, in numbers: what an instance has to hold, and what a perfect prefix cache
// would save.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "trace/trace.h"

namespace mooncake {

/// Of the lengths in tokens. A quantile is a value that occurs: the smallest with that share of all
/// at or below it.
struct LengthDistribution {
  std::uint64_t total = 0;
  double mean = 0;
  std::uint32_t p50 = 0;
  std::uint32_t p90 = 0;
  std::uint32_t p99 = 0;
  std::uint32_t max = 0;
};

struct TraceStatistics {
  std::size_t requests = 0;
  std::uint64_t duration_ms = 0;  ///< From the first request to the last.
  LengthDistribution input;
  LengthDistribution output;
  std::size_t distinct_blocks = 0;
  /// Input tokens that a cache without bounds would save: of each request the longest run of blocks
  /// from the first on that all occurred in requests before it.
  std::uint64_t prefix_hit_tokens = 0;

  [[nodiscard]] double prefix_hit_ratio() const noexcept;     ///< Of the input tokens, 0 to 1.
  [[nodiscard]] double requests_per_second() const noexcept;  ///< 0 if all come at once.
};

/// All zero for an empty trace.
[[nodiscard]] TraceStatistics InspectTrace(const Trace& trace);

/// A few lines for people, each with its newline.
[[nodiscard]] std::string StatisticsText(const TraceStatistics& statistics);

}  // namespace mooncake
