#include "shrink.h"

#include <fmt/format.h>

#include <algorithm>

namespace mooncake {
namespace {

class Shrinker {
 public:
  Shrinker(Plan plan, Rule rule, const std::function<SimOutcome(const Plan&, bool)>& run,
           std::size_t attempts_max)
      : plan_(std::move(plan)), rule_(rule), run_(run), attempts_left_(attempts_max) {}

  Shrunk Run(std::size_t attempts_max) {
    bool smaller = true;
    while (smaller && attempts_left_ > 0) {  // what could not go before may go now
      smaller = Reduce(&Plan::faults);
      smaller = Reduce(&Plan::actions) || smaller;
      smaller = Simplify() || smaller;
    }
    SimOutcome outcome = run_(plan_, true);
    return {std::move(plan_), std::move(outcome), attempts_max - attempts_left_};
  }

 private:
  // Takes the candidate if it fails as the original did.
  bool Try(const Plan& candidate) {
    if (attempts_left_ == 0) return false;
    attempts_left_ -= 1;
    const SimOutcome outcome = run_(candidate, false);
    const bool fails = std::any_of(outcome.violations.begin(), outcome.violations.end(),
                                   [this](const Violation& v) { return v.rule == rule_; });
    if (fails) plan_ = candidate;
    return fails;
  }

  // Leaves out halves, quarters, …, single ones.
  template <class T>
  bool Reduce(std::vector<T> Plan::* list) {
    bool reduced = false;
    for (std::size_t chunk = (plan_.*list).size(); chunk > 0; chunk /= 2) {
      for (std::size_t at = 0; at < (plan_.*list).size() && attempts_left_ > 0;) {
        Plan candidate = plan_;
        std::vector<T>& items = candidate.*list;
        const auto first = items.begin() + static_cast<std::ptrdiff_t>(at);
        items.erase(first, first + static_cast<std::ptrdiff_t>(std::min(chunk, items.size() - at)));
        if (Try(candidate)) {
          reduced = true;
        } else {
          at += chunk;
        }
      }
    }
    return reduced;
  }

  bool Simplify() {
    bool simpler = false;
    const auto attempt = [&](auto&& change) {
      Plan candidate = plan_;
      if (change(candidate.shape) && Try(candidate)) simpler = true;
    };
    // Sets a value to a simpler one; false where it is that already.
    const auto set = [](auto& value, auto simple) {
      if (value == simple) return false;
      value = simple;
      return true;
    };
    while (plan_.shape.nodes > 2) {
      Plan candidate = plan_;
      candidate.shape.nodes -= 1;
      if (!Try(candidate)) break;
      simpler = true;
    }
    attempt([&](Shape& s) { return set(s.link.loss, 0.0); });
    attempt([&](Shape& s) { return set(s.link.jitter, Duration(0)); });
    attempt([&](Shape& s) { return set(s.streams.lag_max, Duration(0)); });
    attempt([&](Shape& s) { return set(s.streams.odd_reads, 0.0); });
    attempt([&](Shape& s) { return set(s.streams.pauses, 0.0); });
    attempt([&](Shape& s) { return set(s.clock_drift_ppm_max, std::uint64_t{0}); });
    attempt([&](Shape& s) { return set(s.share_hosts, false); });
    attempt([&](Shape& s) { return s.tcp && set(s.fake, false); });
    attempt([&](Shape& s) { return s.fake && set(s.tcp, false); });
    attempt([&](Shape& s) { return set(s.fake_options.repeats, 0.0); });
    attempt([&](Shape& s) { return set(s.fake_options.failures, 0.0); });
    attempt([&](Shape& s) { return set(s.fake_options.refusals, 0.0); });
    attempt([&](Shape& s) { return set(s.fake_options.reorder, false); });
    attempt([&](Shape& s) { return set(s.tcp_options.lanes, std::size_t{1}); });
    const SimStreamOptions plain;
    attempt([&](Shape& s) {
      const bool sending = set(s.streams.send_buffer_bytes, plain.send_buffer_bytes);
      const bool receiving = set(s.streams.receive_buffer_bytes, plain.receive_buffer_bytes);
      return set(s.streams.segment_bytes_max, plain.segment_bytes_max) || sending || receiving;
    });
    attempt([&](Shape& s) { return set(s.link.latency, SimLink{}.latency); });
    attempt([&](Shape& s) { return set(s.link.bytes_per_second, SimLink{}.bytes_per_second); });
    return simpler;
  }

  Plan plan_;
  const Rule rule_;
  const std::function<SimOutcome(const Plan&, bool)>& run_;
  std::size_t attempts_left_;
};

}  // namespace

Shrunk Shrink(Plan plan, Rule rule, const std::function<SimOutcome(const Plan&, bool)>& run,
              std::size_t attempts_max) {
  return Shrinker(std::move(plan), rule, run, attempts_max).Run(attempts_max);
}

std::string Listing(const Plan& plan) {
  std::string text = Describe(plan) + "\n";
  const auto seconds = [](Duration d) { return std::chrono::duration<double>(d).count(); };
  for (const Fault& fault : plan.faults)
    text += fmt::format("  fault at {:.6f}: {}\n", seconds(fault.at), ToString(fault.kind));
  return text;
}

}  // namespace mooncake
