// Traces of requests in the open format: one JSON object per line, with times and lengths, and
// instead of the text one id per block of 512 tokens. Equal ids mean equal blocks, so that what
// repeats in the traffic repeats in its replay.
//
//   {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, …,
//   2353, 2354]}
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/synthetic_model.h"

namespace mooncake {

inline constexpr std::uint32_t kTraceBlockTokens = 512;
inline constexpr std::size_t kTraceLineBytesMax = 1 << 20;
inline constexpr std::uint32_t kTraceTokensMax =
    1 << 24;  ///< Of one request's input, and of its output.

struct TraceRequest {
  std::uint64_t timestamp_ms = 0;  ///< Since the trace began.
  std::uint32_t input_tokens = 0;  ///< 1 to kTraceTokensMax.
  std::uint32_t output_tokens = 0;
  std::vector<std::uint64_t>
      hash_ids;  ///< One per block of the input; the last block may be partial.
  bool operator==(const TraceRequest&) const = default;
};

/// In the order of time.
using Trace = std::vector<TraceRequest>;

/// Blocks that `tokens` fill, the last one perhaps in part.
[[nodiscard]] constexpr std::size_t BlocksOf(std::uint32_t tokens) noexcept {
  return (std::size_t{tokens} + kTraceBlockTokens - 1) / kTraceBlockTokens;
}

/// One line. kBadTrace: names the field that is missing, negative, no whole number, too large, or
/// does not fit the others. Fields that are not ours are ignored.
[[nodiscard]] Result<TraceRequest> ParseTraceLine(std::string_view line);

/// The first `limit` requests of `text`; what comes after is not looked at. Empty lines are
/// skipped. kBadTrace: as above, or a timestamp goes backwards, or there is no request; the message
/// names `name` and the line.
[[nodiscard]] Result<Trace> ParseTrace(std::string_view text, std::string_view name,
                                       std::size_t limit = std::numeric_limits<std::size_t>::max());

/// The lines that ParseTrace() reads, each with its newline.
[[nodiscard]] std::string FormatTrace(const Trace& trace);

/// The prompt that stands for a request: input_tokens tokens below `vocabulary` (at least 1). Each
/// block is made from its hash id alone, so equal ids give equal tokens, in every trace and on
/// every machine.
[[nodiscard]] std::vector<Token> TokensOf(const TraceRequest& request, std::uint32_t vocabulary);

}  // namespace mooncake
