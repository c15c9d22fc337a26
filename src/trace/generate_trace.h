// Traces to replay where no recorded one fits: conversations whose turns continue each other, as
// chat traffic does.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "trace/trace.h"

namespace mooncake {

struct TraceOptions {
  std::uint32_t requests = 1000;
  std::uint64_t seed = 1;
  double requests_per_second = 1.0;   ///< Arrivals are Poisson.
  std::uint32_t conversations = 200;  ///< They share the requests evenly; 1 to `requests`.
  std::uint32_t system_blocks = 2;    ///< Blocks at the start of every prompt, the same for all.
  std::uint32_t mean_input_tokens = 4096;
  std::uint32_t mean_output_tokens = 256;
};

/// Every conversation has its time in the trace. Each turn's prompt is the one before it, its
/// answer, and a new message; the lengths of messages and answers are exponential, so that the
/// means are met over many requests, not exactly. Full blocks keep their ids from turn to turn; a
/// partial one that is continued becomes another. Equal options give equal traces. kBadOptionValue:
/// a value out of range, or a mean input too small for the system prompt and the answers that a
/// conversation gathers.
[[nodiscard]] Result<Trace> GenerateTrace(const TraceOptions& options);

}  // namespace mooncake
