// Decode: gets the KV cache of a prompt into its own pages, from a prefill instance or by computing
// it, and turns it into tokens.
#pragma once

#include <functional>

#include "instance/core.h"
#include "instance/partners.h"
#include "instance/prefill_service.h"
#include "wire/messages.pb.h"

namespace mooncake {

struct Generation {
  PrefillOutcome prefill;
  std::string prefill_label;        ///< Who computed the prompt; empty: this instance.
  std::uint32_t tokens_cached = 0;  ///< Prompt tokens that this instance had already.
};

/// Gets new tokens as they come, in order; returns false when nobody wants more.
using TokenSink = std::function<Task<bool>(std::vector<Token>)>;

class DecodeService {
 public:
  /// `self` is the record under which this instance can be reached.
  DecodeService(InstanceCore& core, Partners& partners, PrefillService& prefill);
  /// Serves kGenerate, and kProbe where this instance does not prefill. Before the port serves.
  void AddTo(RpcRouter& router);
  void SetRecord(Record record) { record_ = std::move(record); }

  /// The `tokens_max` tokens that follow `prompt`. kQueueFull, kKvFull, kNoPartner, kPrefillFailed,
  /// kDeadline, kCancelled.
  [[nodiscard]] Task<Result<Generation>> Generate(std::vector<Token> prompt,
                                                  std::uint32_t tokens_max, InstanceId preferred,
                                                  Instant deadline, AbandonPtr abandon,
                                                  TokenSink sink);
  [[nodiscard]] std::size_t queue_length() const noexcept {
    return turnstile_.inside() + turnstile_.waiting();
  }
  [[nodiscard]] std::uint64_t generated_tokens() const noexcept {
    return generated_tokens_.value();
  }

 private:
  struct Work;
  Task<Result<Reply>> Serve(RpcCall& call, Frame request);
  Result<Reply> Probe(const Frame& request);
  Task<Result<Generation>> GenerateInTurn(Work& work);
  Task<Status> GetPages(Work& work);
  Task<Status> Remote(Work& work, PeerPtr peer);
  Task<Status> Decode(Work& work);
  Task<void> Quarantine(PeerPtr peer, KvSequence pages, Instant until);

  InstanceCore& core_;
  Partners& partners_;
  PrefillService& prefill_;
  Record record_;
  Turnstile turnstile_;
  std::uint64_t queued_tokens_ = 0;
  Counter& generated_tokens_;
  Counter& received_bytes_;
  Counter& retries_;
  Counter& quarantined_;
};

}  // namespace mooncake
