// Prefill: computes the KV cache of a prompt, and hands it to the decode side layer by layer while
// it computes.
#pragma once

#include <memory>

#include "instance/core.h"
#include "wire/messages.pb.h"

namespace mooncake {

struct PrefillOutcome {
  std::uint32_t tokens_cached = 0;  ///< Tokens whose rows were not computed again.
  std::uint64_t bytes_moved = 0;
  Duration compute{};
  Duration
      transfer{};  ///< Of the bytes, counted from the first layer's start to the last one's end.
  std::map<std::string, std::uint64_t> bytes_by_path;
};

/// Where the decode side wants the pages.
struct PrefillTarget {
  PeerPtr peer;
  RegionId region{};
  std::uint32_t first_page = 0;          ///< Pages of the prompt before it are there already.
  std::vector<std::uint32_t> pages;      ///< Page numbers at the target, from first_page on.
  std::uint64_t layer_stride_bytes = 0;  ///< At the target.
};

class PrefillService {
 public:
  explicit PrefillService(InstanceCore& core);
  /// Serves kPrefill and kProbe. Before the port serves.
  void AddTo(RpcRouter& router);

  /// Computes the prompt into this instance's pages and writes them to `target`. kQueueFull,
  /// kKvFull, kDeadline, kCancelled, and what the engine fails with.
  [[nodiscard]] Task<Result<PrefillOutcome>> Prefill(std::vector<Token> prompt,
                                                     PrefillTarget target, Instant deadline,
                                                     AbandonPtr abandon);
  /// Computes rows [first_token, end) of the sequence into its pages; for an instance that decodes
  /// them itself.
  [[nodiscard]] Task<Status> ComputeInPlace(const std::vector<Chain>& chains,
                                            const KvSequence& sequence, std::size_t first_token,
                                            Instant deadline, AbandonPtr abandon);
  [[nodiscard]] std::size_t queue_length() const noexcept {
    return turnstile_.inside() + turnstile_.waiting();
  }
  [[nodiscard]] std::uint64_t queued_tokens() const noexcept { return queued_tokens_; }
  [[nodiscard]] std::uint64_t computed_tokens() const noexcept { return computed_tokens_.value(); }
  [[nodiscard]] std::uint64_t cached_tokens() const noexcept { return cached_tokens_.value(); }

 private:
  struct Work;
  Task<Result<Reply>> Serve(RpcCall& call, Frame request);
  Result<Reply> Probe(const Frame& request);
  Task<void> Compute(Work& work);
  using LayersReady = std::function<Status(std::uint32_t first, std::uint32_t end)>;
  Task<Status> ComputeLayers(const std::vector<Chain>& chains, const KvSequence& sequence,
                             std::size_t first_token, Instant deadline, AbandonPtr abandon,
                             LayersReady ready);
  [[nodiscard]] std::vector<Copy> CopiesOf(std::uint32_t first_layer, std::uint32_t last_layer,
                                           std::size_t tokens, const KvSequence& sequence,
                                           const PrefillTarget& target) const;
  [[nodiscard]] std::uint32_t LayersPerStep(std::size_t tokens) const noexcept;

  InstanceCore& core_;
  Turnstile turnstile_;
  std::uint64_t queued_tokens_ = 0;
  Counter& computed_tokens_;
  Counter& cached_tokens_;
  Histogram& compute_us_;
  Histogram& transfer_us_;
};

}  // namespace mooncake
