#include "trace/generate_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace mooncake {
namespace {

constexpr std::uint32_t kRequestsMax = 10'000'000;
constexpr std::uint32_t kMeanTokensMax = 1 << 20;
constexpr double kConversationSpan =
    0.1;  // a conversation's mean length, as a share of the trace's

// SplitMix64: the same numbers everywhere, which the distributions of <random> do not promise.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(Mix(seed)) {}
  // In [0, 1).
  double Uniform() { return static_cast<double>(Mix(state_ += kGolden) >> 11) * 0x1p-53; }
  double Exponential(double mean) { return -std::log1p(-Uniform()) * mean; }
  // At least 1, with this mean (at least 1).
  std::uint32_t Length(double mean) {
    return 1 + static_cast<std::uint32_t>(
                   std::min(std::round(Exponential(mean - 1)), double{kTraceTokensMax - 1}));
  }

 private:
  std::uint64_t state_;
};

struct Conversation {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t answer_tokens = 0;
  std::vector<std::uint64_t> hash_ids{};
};

// The k-th of T turns has the system prompt, k messages and k - 1 answers; this solves for the mean
// message.
double MeanMessageTokens(const TraceOptions& options) {
  const double turns = static_cast<double>(options.requests) / options.conversations;
  const double system_tokens = static_cast<double>(options.system_blocks) * kTraceBlockTokens;
  const double answers = options.mean_output_tokens * (turns - 1) / 2;
  return (options.mean_input_tokens - system_tokens - answers) * 2 / (turns + 1);
}

Status CheckRange(std::string_view name, std::uint32_t value, std::uint32_t least,
                  std::uint32_t most) {
  if (value >= least && value <= most) return {};
  return Fail(ErrorId::kBadOptionValue,
              fmt::format("{} is {}, not {} to {}", name, value, least, most));
}

Status Check(const TraceOptions& options) {
  MC_TRY_STATUS(CheckRange("requests", options.requests, 1, kRequestsMax));
  MC_TRY_STATUS(CheckRange("conversations", options.conversations, 1, options.requests));
  MC_TRY_STATUS(CheckRange("mean_input_tokens", options.mean_input_tokens, 1, kMeanTokensMax));
  MC_TRY_STATUS(CheckRange("mean_output_tokens", options.mean_output_tokens, 1, kMeanTokensMax));
  if (!(options.requests_per_second > 0 && std::isfinite(options.requests_per_second))) {
    return Fail(ErrorId::kBadOptionValue,
                fmt::format("requests_per_second is {}, not above 0", options.requests_per_second));
  }
  if (MeanMessageTokens(options) >= 1) return {};
  return Fail(
      ErrorId::kBadOptionValue,
      fmt::format(
          "mean_input_tokens {} is too small for {} system blocks and the answers of {:.1f} turns; "
          "raise it, or raise conversations",
          options.mean_input_tokens, options.system_blocks,
          static_cast<double>(options.requests) / options.conversations));
}

// Which conversation each request belongs to, in the order of time: every conversation begins
// somewhere, and its turns follow at random distances.
std::vector<std::uint32_t> DrawTurns(const TraceOptions& options, Dice& dice) {
  struct Turn {
    double when;
    std::uint32_t conversation;
  };
  std::vector<Turn> turns;
  turns.reserve(options.requests);
  for (std::uint32_t conversation = 0; conversation < options.conversations; ++conversation) {
    const std::uint32_t count = options.requests / options.conversations +
                                (conversation < options.requests % options.conversations ? 1 : 0);
    double when = dice.Uniform();
    for (std::uint32_t turn = 0; turn < count; ++turn) {
      turns.push_back({when, conversation});
      when += dice.Exponential(kConversationSpan / count);
    }
  }
  std::stable_sort(turns.begin(), turns.end(),
                   [](const Turn& a, const Turn& b) { return a.when < b.when; });
  std::vector<std::uint32_t> order(turns.size());
  std::transform(turns.begin(), turns.end(), order.begin(),
                 [](const Turn& turn) { return turn.conversation; });
  return order;
}

// The blocks that stay full keep their ids; those after them get new ones.
void Extend(Conversation& conversation, std::uint32_t tokens, std::uint64_t& next_id) {
  conversation.hash_ids.resize(conversation.prompt_tokens / kTraceBlockTokens);
  conversation.prompt_tokens = std::min(conversation.prompt_tokens + tokens, kTraceTokensMax);
  while (conversation.hash_ids.size() < BlocksOf(conversation.prompt_tokens)) {
    conversation.hash_ids.push_back(next_id++);
  }
}

Conversation Opening(std::uint32_t system_blocks) {
  Conversation conversation{.prompt_tokens = system_blocks * kTraceBlockTokens};
  conversation.hash_ids.resize(system_blocks);
  std::iota(conversation.hash_ids.begin(), conversation.hash_ids.end(), std::uint64_t{0});
  return conversation;
}

}  // namespace

Result<Trace> GenerateTrace(const TraceOptions& options) {
  MC_TRY_STATUS(Check(options));
  Dice dice(options.seed);
  const double mean_message_tokens = MeanMessageTokens(options);
  std::vector<Conversation> conversations(options.conversations, Opening(options.system_blocks));
  std::uint64_t next_id = options.system_blocks;
  double now_ms = 0;
  Trace trace;
  trace.reserve(options.requests);
  for (const std::uint32_t chosen : DrawTurns(options, dice)) {
    Conversation& conversation = conversations[chosen];
    Extend(conversation, conversation.answer_tokens + dice.Length(mean_message_tokens), next_id);
    conversation.answer_tokens = dice.Length(options.mean_output_tokens);
    trace.push_back({static_cast<std::uint64_t>(now_ms), conversation.prompt_tokens,
                     conversation.answer_tokens, conversation.hash_ids});
    now_ms += dice.Exponential(1000.0 / options.requests_per_second);
  }
  return trace;
}

}  // namespace mooncake
