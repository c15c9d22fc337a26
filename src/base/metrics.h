// Counters and histograms: relaxed atomics on the way of the work, Prometheus text when somebody
// asks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace mooncake {

/// Only grows. Any thread; one relaxed addition.
class Counter {
 public:
  void Add(std::uint64_t n = 1) noexcept { value_.fetch_add(n, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t value() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// Distribution of non-negative integers (microseconds, bytes) in buckets of 1/8 octave: an error
/// of at most 12.5 %. Any thread; two relaxed additions.
class Histogram {
 public:
  static constexpr int kBuckets = 64 * 8;
  void Record(std::uint64_t value) noexcept;
  struct Snapshot {
    std::uint64_t count = 0;
    std::uint64_t sum = 0;
    std::array<std::uint64_t, kBuckets> buckets{};
    /// The value below which the share `quantile` (0 to 1) of the records lies; 0 without records.
    [[nodiscard]] std::uint64_t Quantile(double quantile) const noexcept;
  };
  [[nodiscard]] Snapshot Take() const noexcept;

 private:
  std::atomic<std::uint64_t> sum_{0};
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
};

/// Name, value pairs that tell the members of one family apart, in the order given.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

/// All metrics of one instance. What it hands out lives as long as it does. Any thread.
class Metrics {
 public:
  /// The same name and labels give the same counter. The name ends in its unit and "_total".
  Counter& AddCounter(const std::string& name, const std::string& help,
                      const MetricLabels& labels = {});
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const MetricLabels& labels = {});
  /// Asked when somebody reads; `read` is called from any thread and must not block.
  void AddGauge(const std::string& name, const std::string& help, std::function<double()> read,
                const MetricLabels& labels = {});
  /// The Prometheus text format 0.0.4; histograms as summaries with quantiles 0.5, 0.9, 0.99.
  [[nodiscard]] std::string Text() const;

 private:
  enum class Kind { kCounter, kGauge, kHistogram };
  struct Family {
    Kind kind;
    std::string help;
    std::map<MetricLabels, Counter*> counters;
    std::map<MetricLabels, Histogram*> histograms;
    std::map<MetricLabels, std::function<double()>> gauges;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Family> families_;  // guarded by mutex_
  std::deque<Counter> counters_;            // guarded by mutex_; a deque keeps addresses
  std::deque<Histogram> histograms_;        // guarded by mutex_
};

}  // namespace mooncake
