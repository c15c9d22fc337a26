#include "replay/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <numeric>

#include "base/units.h"

namespace mooncake {
namespace {

namespace json = boost::json;

double Milliseconds(Duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }
double Seconds(Duration duration) { return std::max(1e-9, std::chrono::duration<double>(duration).count()); }
double Share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

constexpr std::array<double, 4> kQuantiles = {0.5, 0.9, 0.99, 0.999};

}  // namespace

double ReplayReport::Percentiles::At(double quantile) const {
  if (values_ms.empty()) return 0;
  std::vector<double> sorted = values_ms;
  const auto rank = static_cast<std::ptrdiff_t>(quantile * static_cast<double>(sorted.size() - 1));
  std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.end());
  return sorted[static_cast<std::size_t>(rank)];
}

double ReplayReport::Percentiles::Mean() const {
  return values_ms.empty() ? 0 : std::accumulate(values_ms.begin(), values_ms.end(), 0.0) / static_cast<double>(values_ms.size());
}

void ReplayReport::Add(const ReplayOutcome& outcome) {
  repeats_ += outcome.repeats;
  if (!outcome.answered) {
    failed_ += 1;
    ErrorKind& kind = errors_[outcome.error.substr(0, outcome.error.find(':'))];
    if (kind.count++ == 0) kind.example = outcome.error;
    return;
  }
  answered_ += 1;
  first_token_.values_ms.push_back(Milliseconds(outcome.first_token));
  whole_.values_ms.push_back(Milliseconds(outcome.whole));
  if (outcome.generated_tokens > 1) {
    between_tokens_.values_ms.push_back(Milliseconds(outcome.whole - outcome.first_token) / (outcome.generated_tokens - 1));
  }
  prompt_tokens_ += outcome.prompt_tokens;
  cached_tokens_ += outcome.cached_tokens;
  decode_cached_tokens_ += outcome.decode_cached_tokens;
  generated_tokens_ += outcome.generated_tokens;
  for (const auto& [path, bytes] : outcome.bytes_by_path) bytes_by_path_[path] += bytes;
}

void ReplayReport::AddCheck(ReplayOutcome::Check check) {
  right_ += check == ReplayOutcome::Check::kRight ? 1 : 0;
  wrong_ += check == ReplayOutcome::Check::kWrong ? 1 : 0;
}

std::uint64_t ReplayReport::moved_bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& [path, bytes] : bytes_by_path_) sum += bytes;
  return sum;
}

double ReplayReport::first_token_ms(double quantile) const { return first_token_.At(quantile); }

std::string ReplayReport::Text(const TraceStatistics& trace, Duration took, bool verified) const {
  std::string text = fmt::format("\n{} of {} requests answered in {:.1f} s", answered_, answered_ + failed_, Seconds(took));
  if (verified) {
    text += wrong_ == 0 ? fmt::format(", {} compared with one undivided computation: all equal", right_)
                        : fmt::format(", {} compared with one undivided computation: {} WRONG", right_ + wrong_, wrong_);
  }
  text += "\n\n  latency (ms)             p50       p90       p99     p99.9\n";
  const auto row = [&text](std::string_view name, const Percentiles& values) {
    text += fmt::format("  {:<18}", name);
    for (const double quantile : kQuantiles) text += fmt::format("{:>10.2f}", values.At(quantile));
    text += "\n";
  };
  row("first token", first_token_);
  row("between tokens", between_tokens_);
  row("whole answer", whole_);
  text += fmt::format("\n  throughput         {:.1f} requests/s, {:.0f} prompt tokens/s, {:.0f} generated tokens/s\n",
                      static_cast<double>(answered_) / Seconds(took), static_cast<double>(prompt_tokens_) / Seconds(took),
                      static_cast<double>(generated_tokens_) / Seconds(took));
  text += "  KV cache moved     ";
  if (bytes_by_path_.empty()) text += "nothing";
  bool first = true;
  for (const auto& [path, bytes] : bytes_by_path_) {
    text += fmt::format("{}{} over {}", std::exchange(first, false) ? "" : ", ", FormatBytes(bytes), path);
  }
  text += fmt::format("\n  prefix hits        {:.1f} % of the prompt tokens were not computed again; a cache without limits would reach {:.1f} %\n",
                      100 * Share(cached_tokens_, prompt_tokens_), 100 * trace.prefix_hit_ratio());
  text += fmt::format("                     {:.1f} % were at the decode side already and did not move\n", 100 * Share(decode_cached_tokens_, prompt_tokens_));
  if (repeats_ > 0) text += fmt::format("  back-pressure      {} times an instance was full and the request was sent again\n", repeats_);
  for (const auto& [name, kind] : errors_) text += fmt::format("  {:>6} x {}\n", kind.count, kind.example);
  return text;
}

std::string ReplayReport::Json(const TraceStatistics& trace, Duration took, bool verified) const {
  const auto latency = [](const Percentiles& values) {
    return json::object{{"mean", values.Mean()}, {"p50", values.At(0.5)}, {"p90", values.At(0.9)},
                        {"p99", values.At(0.99)}, {"p999", values.At(0.999)}};
  };
  json::object paths;
  for (const auto& [path, bytes] : bytes_by_path_) paths[path] = bytes;
  json::object errors;
  for (const auto& [name, kind] : errors_) errors[kind.example] = kind.count;
  const json::object object{
      {"requests", answered_ + failed_},
      {"answered", answered_},
      {"failed", failed_},
      {"errors", std::move(errors)},
      {"verified", verified},
      {"right", right_},
      {"wrong", wrong_},
      {"repeats", repeats_},
      {"duration_s", Seconds(took)},
      {"latency_ms", {{"first_token", latency(first_token_)}, {"between_tokens", latency(between_tokens_)}, {"whole", latency(whole_)}}},
      {"throughput",
       {{"requests_per_s", static_cast<double>(answered_) / Seconds(took)},
        {"prompt_tokens_per_s", static_cast<double>(prompt_tokens_) / Seconds(took)},
        {"generated_tokens_per_s", static_cast<double>(generated_tokens_) / Seconds(took)}}},
      {"prompt_tokens", prompt_tokens_},
      {"generated_tokens", generated_tokens_},
      {"moved_bytes", moved_bytes()},
      {"moved_bytes_by_path", std::move(paths)},
      {"prefix_hit_ratio", Share(cached_tokens_, prompt_tokens_)},
      {"prefix_hit_ratio_ideal", trace.prefix_hit_ratio()},
      {"decode_hit_ratio", Share(decode_cached_tokens_, prompt_tokens_)},
  };
  return json::serialize(object) + "\n";
}

}  // namespace mooncake
