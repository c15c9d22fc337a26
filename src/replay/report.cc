#include "replay/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <numeric>

#include "base/units.h"
#include "view/render.h"

namespace mooncake {
namespace {

namespace json = boost::json;

double Milliseconds(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}
double Seconds(Duration duration) {
  return std::max(1e-9, std::chrono::duration<double>(duration).count());
}
double Share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double Percent(double share) { return 100 * share; }

// The speed at which each transport moved what it moved: of its paths, weighted by their bytes.
std::map<std::string, double> SpeedByTransport(const ClusterView& moved) {
  std::map<std::string, double> weighted;
  std::map<std::string, double> bytes;
  for (const InstanceView& instance : moved.instances) {
    for (const PathView& path : instance.paths) {
      if (path.bytes == 0 || path.gigabytes_per_second <= 0) continue;
      weighted[path.transport] += static_cast<double>(path.bytes) * path.gigabytes_per_second;
      bytes[path.transport] += static_cast<double>(path.bytes);
    }
  }
  for (auto& [transport, speed] : weighted) speed /= bytes[transport];
  return weighted;
}

json::array PathsJson(const ClusterView& moved) {
  json::array rows;
  for (const InstanceView& instance : moved.instances) {
    for (const PathView& path : instance.paths) {
      rows.push_back({{"from", instance.label},
                      {"to", path.peer},
                      {"transport", path.transport},
                      {"bytes", path.bytes},
                      {"failures", path.failures},
                      {"gigabytes_per_second", path.gigabytes_per_second},
                      {"standing", StandingOf(path, instance)}});
    }
  }
  return rows;
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
  return values_ms.empty() ? 0
                           : std::accumulate(values_ms.begin(), values_ms.end(), 0.0) /
                                 static_cast<double>(values_ms.size());
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
    between_tokens_.values_ms.push_back(Milliseconds(outcome.whole - outcome.first_token) /
                                        (outcome.generated_tokens - 1));
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

std::string ReplayReport::Text(const ReplayFacts& facts) const {
  const double seconds = Seconds(facts.took);
  std::string text = "\n";
  const auto line = [&text](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<17} {}\n", name, value);
  };
  line("requests",
       fmt::format("{} of {} answered in {:.1f} s{}", answered_, answered_ + failed_, seconds,
                   facts.unsent == 0 ? std::string()
                                     : fmt::format("; {} more of the trace were not sent in time",
                                                   facts.unsent)));
  if (facts.verified) {
    line("answers",
         wrong_ == 0
             ? fmt::format("{} of {} equal to those of one undivided computation", right_, right_)
             : fmt::format("{} of {} WRONG: not those of one undivided computation", wrong_,
                           right_ + wrong_));
  }
  std::string moved;
  const std::map<std::string, double> speeds = SpeedByTransport(facts.moved);
  std::vector<std::pair<std::string, std::uint64_t>> by_bytes(bytes_by_path_.begin(),
                                                              bytes_by_path_.end());
  std::stable_sort(by_bytes.begin(), by_bytes.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [path, bytes] : by_bytes) {
    moved += fmt::format("{}{} over {}", moved.empty() ? "" : ", ", FormatBytes(bytes), path);
    if (const auto speed = speeds.find(path); speed != speeds.end())
      moved += fmt::format(" at {:.2f} GB/s", speed->second);
  }
  line("KV cache moved", moved.empty() ? "nothing" : moved);
  line("prefix hits", fmt::format("{:.1f} % of the prompt tokens were not computed again (a cache "
                                  "without limits: {:.1f} %)",
                                  Percent(Share(cached_tokens_, prompt_tokens_)),
                                  Percent(facts.trace.prefix_hit_ratio())));
  line("", fmt::format("{:.1f} % were at the decode side already and did not move",
                       Percent(Share(decode_cached_tokens_, prompt_tokens_))));
  line("throughput",
       fmt::format("{:.1f} requests/s, {:.0f} prompt tokens/s, {:.0f} generated tokens/s",
                   static_cast<double>(answered_) / seconds,
                   static_cast<double>(prompt_tokens_) / seconds,
                   static_cast<double>(generated_tokens_) / seconds));
  if (repeats_ > 0)
    line("back-pressure",
         fmt::format("{} times an instance was full and the request was sent again", repeats_));
  for (const auto& [name, kind] : errors_)
    line("failed", fmt::format("{} x {}", kind.count, kind.example));

  text += "\n  latency (ms)               p50       p90       p99     p99.9\n";
  const auto row = [&text](std::string_view name, const Percentiles& values) {
    text += fmt::format("  {:<20}", name);
    for (const double quantile : kQuantiles) text += fmt::format("{:>10.2f}", values.At(quantile));
    text += "\n";
  };
  row("time to first token", first_token_);
  row("between tokens", between_tokens_);
  row("whole answer", whole_);
  if (const std::string table = RenderMoved(facts.moved); !table.empty()) text += "\n" + table;
  return text;
}

std::string ReplayReport::Json(const ReplayFacts& facts) const {
  const auto latency = [](const Percentiles& values) {
    return json::object{{"mean", values.Mean()},
                        {"p50", values.At(0.5)},
                        {"p90", values.At(0.9)},
                        {"p99", values.At(0.99)},
                        {"p999", values.At(0.999)}};
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
      {"unsent", facts.unsent},
      {"verified", facts.verified},
      {"right", right_},
      {"wrong", wrong_},
      {"repeats", repeats_},
      {"duration_s", Seconds(facts.took)},
      {"latency_ms",
       {{"first_token", latency(first_token_)},
        {"between_tokens", latency(between_tokens_)},
        {"whole", latency(whole_)}}},
      {"throughput",
       {{"requests_per_s", static_cast<double>(answered_) / Seconds(facts.took)},
        {"prompt_tokens_per_s", static_cast<double>(prompt_tokens_) / Seconds(facts.took)},
        {"generated_tokens_per_s", static_cast<double>(generated_tokens_) / Seconds(facts.took)}}},
      {"prompt_tokens", prompt_tokens_},
      {"generated_tokens", generated_tokens_},
      {"moved_bytes", moved_bytes()},
      {"moved_bytes_by_path", std::move(paths)},
      {"prefix_hit_ratio", Share(cached_tokens_, prompt_tokens_)},
      {"prefix_hit_ratio_ideal", facts.trace.prefix_hit_ratio()},
      {"paths", PathsJson(facts.moved)},
      {"decode_hit_ratio", Share(decode_cached_tokens_, prompt_tokens_)},
  };
  return json::serialize(object) + "\n";
}

}  // namespace mooncake
