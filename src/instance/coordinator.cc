#include "instance/coordinator.h"

#include <fmt/format.h>

#include "base/log.h"
#include "instance/token_payload.h"

namespace mooncake {
namespace {

bool AnotherMayServe(const Error& error) {
  switch (error.code()) {
    case Errc::kPeerGone:
    case Errc::kUnavailable:
    case Errc::kTryAgain:
    case Errc::kNotFound:
      return true;
    default:
      return false;
  }
}

}  // namespace

// Tokens that a partner sends, on their way to the client. The connection delivers them without
// waiting; a task of its own hands them on, so that a slow client slows its request only.
struct Coordinator::Progress {
  std::vector<Token> all;  // made so far, by whichever partner
  std::size_t delivered = 0;
  std::size_t attempt = 0;  // tokens that the current partner has sent
  bool differs = false;     // a partner made another token than one before it
  bool ended = false;
  bool unwanted = false;
  Signal more;

  bool Receive(const pb::GenerateItem& item) {
    for (const Token token : item.tokens()) {
      if (attempt < all.size()) {
        differs = differs || all[attempt] != token;
      } else {
        all.push_back(token);
      }
      attempt += 1;
    }
    more.Notify();
    return !unwanted && !differs;
  }
};

Coordinator::Coordinator(InstanceCore& core, Partners& partners, DecodeService* decode)
    : core_(core),
      partners_(partners),
      decode_(decode),
      finished_(core.metrics.AddCounter("mooncake_requests_finished_total",
                                        "Requests answered in full.")),
      failed_(core.metrics.AddCounter("mooncake_requests_failed_total",
                                      "Requests that ended with an error.")),
      retries_(core.metrics.AddCounter("mooncake_requests_decode_retries_total",
                                       "Times a decode partner was lost and replaced.")),
      first_token_us_(core.metrics.AddHistogram("mooncake_request_first_token_microseconds",
                                                "Time to the first token.")),
      whole_us_(
          core.metrics.AddHistogram("mooncake_request_microseconds", "Time to the last token.")) {}

Task<Result<CompletionResult>> Coordinator::Complete(std::vector<Token> prompt,
                                                     std::uint32_t tokens_max, Instant deadline,
                                                     AbandonPtr abandon, TokenSink sink) {
  if (core_.draining) co_return Fail(ErrorId::kDraining, {});
  if (running_ >= core_.limits.queue_max) {
    co_return Fail(ErrorId::kQueueFull, fmt::format("{} requests are here already", running_));
  }
  running_ += 1;
  const Instant begin = core_.world.clock.Now();
  const auto us = [this, begin] {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(core_.world.clock.Now() - begin)
            .count());
  };
  bool first = true;
  TokenSink timed = [&](std::vector<Token> tokens) -> Task<bool> {
    if (std::exchange(first, false)) first_token_us_.Record(us());
    auto deliver = sink(std::move(tokens));
    co_return co_await std::move(deliver);
  };
  Result<CompletionResult> result;
  if (decode_ != nullptr) {
    auto generate =
        decode_->Generate(std::move(prompt), tokens_max, {}, deadline, abandon, std::move(timed));
    Result<Generation> generation = co_await std::move(generate);
    if (generation) {
      result = CompletionResult{std::move(*generation), core_.engine.identity().label};
    } else {
      result = Fail(generation.error());
    }
  } else {
    auto remote =
        CompleteRemotely(std::move(prompt), tokens_max, deadline, abandon, std::move(timed));
    result = co_await std::move(remote);
  }
  running_ -= 1;
  (result ? finished_ : failed_).Add();
  if (result) whole_us_.Record(us());
  co_return result;
}

Task<Result<CompletionResult>> Coordinator::CompleteRemotely(std::vector<Token> prompt,
                                                             std::uint32_t tokens_max,
                                                             Instant deadline, AbandonPtr abandon,
                                                             TokenSink sink) {
  const std::vector<Chain> chains = core_.model.Chains(prompt);
  const std::vector<Chain> page_ends = PageEndChains(chains, core_.shape().page_tokens);
  const auto progress = std::make_shared<Progress>();
  OneShot<bool> drained;
  const auto deliver = [](std::shared_ptr<Progress> p, TokenSink& out,
                          OneShot<bool>& end) -> Task<void> {
    while (!p->unwanted) {
      if (p->delivered == p->all.size()) {
        if (p->ended) break;
        co_await p->more.Wait();
        continue;
      }
      std::vector<Token> tokens(p->all.begin() + static_cast<std::ptrdiff_t>(p->delivered),
                                p->all.end());
      p->delivered = p->all.size();
      auto send = out(std::move(tokens));
      const bool wanted = co_await std::move(send);
      if (!wanted) p->unwanted = true;
    }
    end.Set(true);
  };
  Spawn(core_.world.control, deliver(progress, sink, drained));

  std::set<InstanceId> avoid;
  Result<CompletionResult> result;
  for (;;) {
    auto choose =
        partners_.Choose(Role::kDecode, page_ends, prompt.size(), avoid, {}, deadline, abandon);
    Result<PeerPtr> peer = co_await std::move(choose);
    if (!peer) {
      result = Fail(peer.error());
      break;
    }
    progress->attempt = 0;
    auto attempt = Attempt(*peer, prompt, tokens_max, deadline, abandon, progress);
    result = co_await std::move(attempt);
    if (result) break;
    const bool late = After(core_.world.clock.Now(), kRetryPause) >= deadline;
    if (late || core_.closing || abandon->is_set() || progress->unwanted ||
        !AnotherMayServe(result.error()))
      break;
    MC_LOG(debug, "another decode partner: {}", result.error().Text());
    retries_.Add();
    avoid.insert((*peer)->identity().id);
    if (result.error().code() == Errc::kPeerGone) partners_.Suspect((*peer)->identity().id);
    co_await core_.world.clock.SleepFor(core_.world.control, kRetryPause);
  }
  progress->ended = true;
  progress->more.Notify();
  co_await drained.Get();
  if (result && progress->unwanted) co_return Fail(ErrorId::kClientGone, {});
  co_return result;
}

Task<Result<CompletionResult>> Coordinator::Attempt(PeerPtr peer, const std::vector<Token>& prompt,
                                                    std::uint32_t tokens_max, Instant deadline,
                                                    AbandonPtr abandon,
                                                    std::shared_ptr<Progress> progress) {
  pb::GenerateRequest request;
  request.set_tokens_max(tokens_max);
  request.set_model(core_.model_id);
  if (CanPrefill(core_.role)) {
    request.set_prefill_id_high(core_.engine.identity().id.high);
    request.set_prefill_id_low(core_.engine.identity().id.low);
  }
  std::string body = request.SerializeAsString();
  std::function<bool(Reply)> on_item = [progress, abandon](Reply reply) {
    pb::GenerateItem item;
    return Parse(reply.body, item) && progress->Receive(item) && !abandon->is_set();
  };
  auto call = peer->CallStream(Method::kGenerate, std::move(body), deadline, ToPayload(prompt),
                               std::move(on_item));
  const Result<Reply> reply = co_await std::move(call);
  if (progress->differs) {
    co_return Fail(ErrorId::kWrongAnswer,
                   fmt::format("{} made another token than the instance before it",
                               Describe(peer->identity())));
  }
  if (!reply) co_return Fail(Within(Describe(peer->identity()), reply.error()));
  pb::GenerateReply answer;
  if (!Parse(reply->body, answer)) co_return Fail(ErrorId::kBadFrame, "GenerateReply");
  if (progress->attempt != tokens_max) {
    co_return Fail(ErrorId::kWrongAnswer,
                   fmt::format("{} sent {} of {} tokens", Describe(peer->identity()),
                               progress->attempt, tokens_max));
  }
  CompletionResult result;
  result.decode_label = peer->identity().label;
  Generation& generation = result.generation;
  generation.tokens_cached = answer.decode_tokens_cached();
  generation.prefill_label = answer.prefill_label();
  generation.prefill.tokens_cached = answer.prefill().tokens_cached();
  generation.prefill.bytes_moved = answer.prefill().bytes_moved();
  generation.prefill.compute = std::chrono::microseconds(answer.prefill().compute_us());
  generation.prefill.transfer = std::chrono::microseconds(answer.prefill().transfer_us());
  for (const auto& [path, bytes] : answer.prefill().bytes_by_path())
    generation.prefill.bytes_by_path[path] = bytes;
  co_return result;
}

}  // namespace mooncake
