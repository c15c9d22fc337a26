#include "base/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <bit>

namespace mooncake {
namespace {

constexpr int kStepsLog2 = 3;  // 8 buckets an octave

int BucketOf(std::uint64_t value) noexcept {
  if (value < (1U << kStepsLog2)) return static_cast<int>(value);
  const int octave = std::bit_width(value) - 1 - kStepsLog2;
  return ((octave + 1) << kStepsLog2) +
         static_cast<int>((value >> octave) & ((1U << kStepsLog2) - 1));
}

std::uint64_t LowestOf(int bucket) noexcept {
  if (bucket < (1 << kStepsLog2)) return static_cast<std::uint64_t>(bucket);
  const int octave = (bucket >> kStepsLog2) - 1;
  const auto mantissa =
      static_cast<std::uint64_t>((bucket & ((1 << kStepsLog2) - 1)) + (1 << kStepsLog2));
  return mantissa << octave;
}

prometheus::ClientMetric WithLabels(const MetricLabels& labels) {
  prometheus::ClientMetric metric;
  for (const auto& [name, value] : labels) {
    prometheus::ClientMetric::Label label;
    label.name = name;
    label.value = value;
    metric.label.push_back(label);
  }
  return metric;
}

}  // namespace

void Histogram::Record(std::uint64_t value) noexcept {
  buckets_[static_cast<std::size_t>(BucketOf(value))].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::Take() const noexcept {
  Snapshot snapshot;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    snapshot.buckets[i] = buckets_[i].load(std::memory_order_relaxed);
    snapshot.count += snapshot.buckets[i];
  }
  snapshot.sum = sum_.load(std::memory_order_relaxed);
  return snapshot;
}

std::uint64_t Histogram::Snapshot::Quantile(double quantile) const noexcept {
  if (count == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(quantile * static_cast<double>(count - 1));
  std::uint64_t seen = 0;
  for (int i = 0; i < kBuckets; ++i) {
    seen += buckets[static_cast<std::size_t>(i)];
    if (seen > rank) return LowestOf(i);
  }
  return LowestOf(kBuckets - 1);
}

Counter& Metrics::AddCounter(const std::string& name, const std::string& help,
                             const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  Family& family =
      families_.try_emplace(name, Family{Kind::kCounter, help, {}, {}, {}}).first->second;
  Counter*& slot = family.counters[labels];
  if (slot == nullptr) slot = &counters_.emplace_back();
  return *slot;
}

Histogram& Metrics::AddHistogram(const std::string& name, const std::string& help,
                                 const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  Family& family =
      families_.try_emplace(name, Family{Kind::kHistogram, help, {}, {}, {}}).first->second;
  Histogram*& slot = family.histograms[labels];
  if (slot == nullptr) slot = &histograms_.emplace_back();
  return *slot;
}

void Metrics::AddGauge(const std::string& name, const std::string& help,
                       std::function<double()> read, const MetricLabels& labels) {
  const std::lock_guard lock(mutex_);
  Family& family =
      families_.try_emplace(name, Family{Kind::kGauge, help, {}, {}, {}}).first->second;
  family.gauges[labels] = std::move(read);
}

std::string Metrics::Text() const {
  const std::lock_guard lock(mutex_);
  std::vector<prometheus::MetricFamily> all;
  for (const auto& [name, family] : families_) {
    prometheus::MetricFamily out;
    out.name = name;
    out.help = family.help;
    switch (family.kind) {
      case Kind::kCounter:
        out.type = prometheus::MetricType::Counter;
        for (const auto& [labels, counter] : family.counters) {
          out.metric.push_back(WithLabels(labels));
          out.metric.back().counter.value = static_cast<double>(counter->value());
        }
        break;
      case Kind::kGauge:
        out.type = prometheus::MetricType::Gauge;
        for (const auto& [labels, read] : family.gauges) {
          out.metric.push_back(WithLabels(labels));
          out.metric.back().gauge.value = read();
        }
        break;
      case Kind::kHistogram:
        out.type = prometheus::MetricType::Summary;
        for (const auto& [labels, histogram] : family.histograms) {
          const Histogram::Snapshot snapshot = histogram->Take();
          prometheus::ClientMetric metric = WithLabels(labels);
          metric.summary.sample_count = snapshot.count;
          metric.summary.sample_sum = static_cast<double>(snapshot.sum);
          for (const double quantile : {0.5, 0.9, 0.99}) {
            metric.summary.quantile.push_back(
                {quantile, static_cast<double>(snapshot.Quantile(quantile))});
          }
          out.metric.push_back(std::move(metric));
        }
        break;
    }
    all.push_back(std::move(out));
  }
  return prometheus::TextSerializer().Serialize(all);
}

}  // namespace mooncake
