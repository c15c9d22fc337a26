// What a replay measured: collected request by request, told to people and written as JSON.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/world.h"
#include "trace/inspect_trace.h"
#include "view/cluster_view.h"

namespace mooncake {

/// One request as its client saw it.
struct ReplayOutcome {
  bool answered = false;  ///< In full.
  std::string error;      ///< Why not: an error id and its text.
  Duration first_token{};
  Duration whole{};
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated_tokens = 0;
  std::uint32_t cached_tokens = 0;  ///< Of the prompt, not computed again by the prefill side.
  std::uint32_t decode_cached_tokens = 0;  ///< Of the prompt, not moved again to the decode side.
  std::uint32_t repeats = 0;  ///< Times it was sent again because the instance was full.
  std::map<std::string, std::uint64_t> bytes_by_path;
  enum class Check { kNone, kRight, kWrong } check = Check::kNone;
};

/// What is known of a replay besides its requests' outcomes.
struct ReplayFacts {
  TraceStatistics
      trace;        ///< Of the requests that were sent: what an unbounded cache would have found.
  Duration took{};  ///< Until the last answer.
  bool verified = false;   ///< Every answer was compared.
  std::size_t unsent = 0;  ///< Requests of the trace for which there was no time.
  ClusterView moved;  ///< What each path moved meanwhile; empty if the cluster could not be asked.
};

class ReplayReport {
 public:
  void Add(const ReplayOutcome& outcome);
  void AddCheck(ReplayOutcome::Check check);
  [[nodiscard]] std::uint64_t finished() const noexcept { return answered_ + failed_; }
  [[nodiscard]] std::uint64_t failed() const noexcept { return failed_; }
  [[nodiscard]] std::uint64_t right() const noexcept { return right_; }
  [[nodiscard]] std::uint64_t wrong() const noexcept { return wrong_; }
  [[nodiscard]] std::uint64_t moved_bytes() const noexcept;
  [[nodiscard]] double first_token_ms(double quantile) const;

  [[nodiscard]] std::string Text(const ReplayFacts& facts) const;
  [[nodiscard]] std::string Json(const ReplayFacts& facts) const;

 private:
  struct Percentiles {
    std::vector<double> values_ms;  // in the order of arrival
    [[nodiscard]] double At(double quantile) const;
    [[nodiscard]] double Mean() const;
  };
  Percentiles first_token_;
  Percentiles between_tokens_;
  Percentiles whole_;
  std::uint64_t answered_ = 0;
  std::uint64_t failed_ = 0;
  std::uint64_t right_ = 0;
  std::uint64_t wrong_ = 0;
  std::uint64_t repeats_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t cached_tokens_ = 0;
  std::uint64_t decode_cached_tokens_ = 0;
  std::uint64_t generated_tokens_ = 0;
  std::map<std::string, std::uint64_t> bytes_by_path_;
  struct ErrorKind {
    std::uint64_t count = 0;
    std::string example;  // the first one
  };
  std::map<std::string, ErrorKind> errors_;  // by what stands before the first colon
};

}  // namespace mooncake
