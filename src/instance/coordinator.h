// The life of one request at the instance that its client reached: find who is missing, get the
// tokens, hide what broke on the way.
#pragma once

#include "instance/decode_service.h"

namespace mooncake {

struct CompletionResult {
  Generation generation;
  std::string decode_label;
};

class Coordinator {
 public:
  Coordinator(InstanceCore& core, Partners& partners, DecodeService* decode);

  /// As DecodeService::Generate, on this instance or on a decode partner. A partner that is lost
  /// half-way is replaced: the tokens are the same wherever they are made, and those that the sink
  /// has had are not sent again.
  [[nodiscard]] Task<Result<CompletionResult>> Complete(std::vector<Token> prompt,
                                                        std::uint32_t tokens_max, Instant deadline,
                                                        AbandonPtr abandon, TokenSink sink);
  [[nodiscard]] std::size_t running() const noexcept { return running_; }
  /// Since the start, of the requests that clients brought to this instance.
  struct Totals {
    std::uint64_t finished = 0;
    std::uint64_t failed = 0;
    Histogram::Snapshot first_token_us;
  };
  [[nodiscard]] Totals totals() const noexcept {
    return {finished_.value(), failed_.value(), first_token_us_.Take()};
  }

 private:
  struct Progress;
  Task<Result<CompletionResult>> CompleteRemotely(std::vector<Token> prompt,
                                                  std::uint32_t tokens_max, Instant deadline,
                                                  AbandonPtr abandon, TokenSink sink);
  Task<Result<CompletionResult>> Attempt(PeerPtr peer, const std::vector<Token>& prompt,
                                         std::uint32_t tokens_max, Instant deadline,
                                         AbandonPtr abandon, std::shared_ptr<Progress> progress);

  InstanceCore& core_;
  Partners& partners_;
  DecodeService* decode_;  // null where this instance does not decode
  std::size_t running_ = 0;
  Counter& finished_;
  Counter& failed_;
  Counter& retries_;
  Histogram& first_token_us_;
  Histogram& whole_us_;
};

}  // namespace mooncake
