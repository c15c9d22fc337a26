#include "instance/decode_service.h"

#include <fmt/format.h>

#include "base/log.h"
#include "directory/record.h"
#include "engine/region_messages.h"
#include "instance/token_payload.h"

namespace mooncake {
namespace {

constexpr std::uint32_t kTokensPerStep = 32;  // decoded in one go: about a millisecond
constexpr std::size_t kTokensAbsorbedPerStep = 4096;

// After these, the prefill side has ended with the request and touches our pages no more.
bool HasAnswered(const Error& error) {
  return error.code() != Errc::kUnknownOutcome && error.id != ErrorId::kConnectionClosed &&
         error.id != ErrorId::kClosed && error.id != ErrorId::kNetwork &&
         error.code() != Errc::kCancelled;
}

// Whether another attempt, with this or another partner, may succeed.
bool IsWorthRetrying(const Error& error) {
  switch (error.code()) {
    case Errc::kPeerGone:
    case Errc::kUnavailable:
    case Errc::kTryAgain:
    case Errc::kUnsupported:
    case Errc::kNotFound:
      return true;
    case Errc::kUnknownOutcome:
    case Errc::kNoSpace:
    case Errc::kCancelled:
      return true;  // on the other side; our own deadline and our own cancel are looked at first
    default:
      return false;
  }
}

}  // namespace

struct DecodeService::Work {
  std::vector<Token> prompt;
  std::uint32_t tokens_max;
  InstanceId preferred;
  Instant deadline;
  AbandonPtr abandon;
  TokenSink sink;
  std::vector<Chain> chains;
  std::vector<Chain> page_ends;
  KvSequence sequence;
  Generation generation;
  std::set<InstanceId> avoid;
};

DecodeService::DecodeService(InstanceCore& core, Partners& partners, PrefillService& prefill)
    : core_(core),
      partners_(partners),
      prefill_(prefill),
      turnstile_(core.world, core.limits.running_max, core.limits.queue_max),
      generated_tokens_(
          core.metrics.AddCounter("mooncake_decode_generated_tokens_total", "Tokens generated.")),
      received_bytes_(
          core.metrics.AddCounter("mooncake_decode_received_bytes_total",
                                  "KV bytes that prefill instances put into this one's pages.")),
      retries_(
          core.metrics.AddCounter("mooncake_decode_prefill_retries_total",
                                  "Prefills asked for again because the first did not end well.")),
      quarantined_(core.metrics.AddCounter(
          "mooncake_decode_quarantines_total",
          "Times pages were set aside because a lost prefill might still write to them.")) {}

void DecodeService::AddTo(RpcRouter& router) {
  router.Add(Method::kGenerate, [this](RpcCall& call, Frame request) -> Task<Result<Reply>> {
    auto serve = Serve(call, std::move(request));
    co_return co_await std::move(serve);
  });
  if (!CanPrefill(core_.role)) {
    router.Add(Method::kProbe, [this](RpcCall&, Frame request) -> Task<Result<Reply>> {
      co_return Probe(request);
    });
  }
}

Result<Reply> DecodeService::Probe(const Frame& request) {
  pb::ProbeRequest body;
  if (!Parse(request.body, body)) return Fail(ErrorId::kBadFrame, "ProbeRequest");
  std::vector<Chain> chains;
  for (const std::uint64_t chain : body.page_chains()) chains.push_back(Chain{chain});
  pb::ProbeReply reply;
  reply.set_pages_cached(static_cast<std::uint32_t>(core_.cache.MatchLength(chains)));
  reply.set_queue_length(static_cast<std::uint32_t>(queue_length()));
  reply.set_queue_max(static_cast<std::uint32_t>(core_.limits.queue_max));
  reply.set_queued_tokens(queued_tokens_);
  reply.set_draining(core_.draining);
  return MakeReply(reply);
}

Task<Result<Reply>> DecodeService::Serve(RpcCall& call, Frame request) {
  const TaskGroup::Pass pass(core_.tasks);
  pb::GenerateRequest body;
  if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "GenerateRequest");
  if (core_.draining) co_return Fail(ErrorId::kDraining, {});
  if (body.model() != core_.model_id) {
    co_return Fail(ErrorId::kBadRequest,
                   fmt::format("this instance serves {}, the request is for {}", core_.model_id,
                               body.model()));
  }
  Result<std::vector<Token>> prompt = TokensFromPayload(request.payload, core_.shape().vocabulary);
  if (!prompt) co_return Fail(prompt.error());
  const auto abandon = std::make_shared<Abandon>();
  call.OnCancel([abandon] { abandon->flag = true; });
  TokenSink sink = [&call](std::vector<Token> tokens) -> Task<bool> {
    pb::GenerateItem item;
    for (const Token token : tokens) item.add_tokens(token);
    Reply reply = MakeReply(item);
    const Status sent = co_await call.Send(std::move(reply));
    co_return sent.has_value();
  };
  const InstanceId preferred{body.prefill_id_high(), body.prefill_id_low()};
  auto generate = Generate(std::move(*prompt), body.tokens_max(), preferred, call.deadline(),
                           abandon, std::move(sink));
  const Result<Generation> generation = co_await std::move(generate);
  if (!generation) co_return Fail(generation.error());
  pb::GenerateReply reply;
  const PrefillOutcome& prefill = generation->prefill;
  const auto us = [](Duration d) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(d).count());
  };
  reply.mutable_prefill()->set_tokens_cached(prefill.tokens_cached);
  reply.mutable_prefill()->set_bytes_moved(prefill.bytes_moved);
  reply.mutable_prefill()->set_compute_us(us(prefill.compute));
  reply.mutable_prefill()->set_transfer_us(us(prefill.transfer));
  for (const auto& [path, bytes] : prefill.bytes_by_path)
    (*reply.mutable_prefill()->mutable_bytes_by_path())[path] = bytes;
  reply.set_decode_tokens_cached(generation->tokens_cached);
  reply.set_prefill_label(generation->prefill_label);
  co_return MakeReply(reply);
}

Task<Result<Generation>> DecodeService::Generate(std::vector<Token> prompt,
                                                 std::uint32_t tokens_max, InstanceId preferred,
                                                 Instant deadline, AbandonPtr abandon,
                                                 TokenSink sink) {
  Work work{std::move(prompt),
            tokens_max,
            preferred,
            std::min(deadline, After(core_.world.clock.Now(), core_.limits.request_timeout)),
            std::move(abandon),
            std::move(sink),
            {},
            {},
            KvSequence(core_.cache),
            {},
            {}};
  const std::uint64_t tokens = work.prompt.size();
  // The published context length is a promise about a real model's answers; what bounds this one is
  // its memory.
  if (core_.PagesFor(tokens + tokens_max) > core_.memory.pages()) {
    co_return Fail(ErrorId::kKvFull,
                   fmt::format("{} + {} tokens, there is room for {}", tokens, tokens_max,
                               std::uint64_t{core_.memory.pages()} * core_.shape().page_tokens));
  }
  queued_tokens_ += tokens;
  const Status entered = co_await turnstile_.Enter(work.deadline);
  if (!entered) {
    queued_tokens_ -= tokens;
    co_return Fail(entered.error());
  }
  Result<Generation> result = co_await GenerateInTurn(work);
  turnstile_.Leave();
  queued_tokens_ -= tokens;
  co_return result;
}

Task<Result<Generation>> DecodeService::GenerateInTurn(Work& work) {
  work.chains = core_.model.Chains(work.prompt);
  work.page_ends = PageEndChains(work.chains, core_.shape().page_tokens);
  for (;;) {
    if (work.abandon->is_set()) co_return Fail(core_.GivenUp(work.deadline, "before the prefill"));
    const Status got = co_await GetPages(work);
    if (got) break;
    const bool late = After(core_.world.clock.Now(), kRetryPause) >= work.deadline;
    if (work.abandon->is_set()) co_return Fail(core_.GivenUp(work.deadline, "during the prefill"));
    if (late || core_.closing || !IsWorthRetrying(got.error())) co_return Fail(got.error());
    retries_.Add();
    MC_LOG(debug, "prefill again: {}", got.error().Text());
    co_await core_.world.clock.SleepFor(core_.world.control, kRetryPause);
  }
  work.sequence.Publish(work.page_ends);
  const Status decoded = co_await Decode(work);
  if (!decoded) co_return Fail(decoded.error());
  co_return std::move(work.generation);
}

// Fills the sequence's pages with the prompt's rows. On failure the sequence is empty again.
Task<Status> DecodeService::GetPages(Work& work) {
  const std::size_t reused = work.sequence.Reuse(work.page_ends);
  const Status grown = work.sequence.GrowTo(core_.PagesFor(work.prompt.size() + work.tokens_max));
  if (!grown) {
    work.sequence.Clear();
    co_return grown;
  }
  work.generation.tokens_cached = static_cast<std::uint32_t>(reused * core_.shape().page_tokens);
  if (work.generation.tokens_cached == work.prompt.size()) co_return Status{};  // all of it is here
  if (CanPrefill(core_.role)) {
    auto compute = prefill_.ComputeInPlace(
        work.chains, work.sequence, work.generation.tokens_cached, work.deadline, work.abandon);
    const Status computed = co_await std::move(compute);
    work.generation.prefill.tokens_cached = work.generation.tokens_cached;
    if (!computed) work.sequence.Clear();
    co_return computed;
  }
  auto choose = partners_.Choose(Role::kPrefill, work.page_ends, work.prompt.size(), work.avoid,
                                 work.preferred, work.deadline, work.abandon);
  Result<PeerPtr> peer = co_await std::move(choose);
  if (!peer) {
    work.sequence.Clear();
    co_return Fail(peer.error());
  }
  const Status remote = co_await Remote(work, *peer);
  if (remote) co_return Status{};
  const InstanceId id = (*peer)->identity().id;
  work.avoid.insert(id);
  if (remote.error().code() != Errc::kTryAgain) partners_.Suspect(id);
  if (HasAnswered(remote.error())) {
    // What it had sent before may still be on its way, unless it never began.
    if (remote.error().code() != Errc::kTryAgain) {
      auto end = core_.engine.EndTransfersOf(id);
      co_await std::move(end);
    }
    work.sequence.Clear();
  } else {
    // It may still be writing: nobody else gets these pages until it cannot any more.
    quarantined_.Add();
    Spawn(core_.world.control, Quarantine(*peer, std::move(work.sequence), work.deadline));
    work.sequence = KvSequence(core_.cache);
  }
  co_return Fail(Within(Describe((*peer)->identity()), remote.error()));
}

Task<Status> DecodeService::Remote(Work& work, PeerPtr peer) {
  const std::size_t first_page = work.generation.tokens_cached / core_.shape().page_tokens;
  const std::size_t prompt_pages = core_.PagesFor(work.prompt.size());
  pb::PrefillRequest request;
  request.set_model(core_.model_id);
  request.set_first_page(static_cast<std::uint32_t>(first_page));
  *request.mutable_target() = ToProto(core_.memory.region());
  for (std::size_t page = first_page; page < prompt_pages; ++page)
    request.add_pages(IndexOf(work.sequence.pages()[page]));
  request.set_layer_stride_bytes(core_.memory.layer_stride_bytes());
  *request.mutable_caller() = ToProto(record_);
  std::string body = request.SerializeAsString();
  auto call = peer->CallStream(Method::kPrefill, std::move(body), work.deadline,
                               ToPayload(work.prompt), std::function<bool(Reply)>());
  const Result<Reply> reply = co_await std::move(call);
  if (!reply) co_return Fail(reply.error());
  pb::PrefillReply answer;
  if (!Parse(reply->body, answer)) co_return Fail(ErrorId::kBadFrame, "PrefillReply");
  PrefillOutcome& outcome = work.generation.prefill;
  outcome.tokens_cached = answer.tokens_cached();
  outcome.bytes_moved = answer.bytes_moved();
  outcome.compute = std::chrono::microseconds(answer.compute_us());
  outcome.transfer = std::chrono::microseconds(answer.transfer_us());
  for (const auto& [path, bytes] : answer.bytes_by_path()) outcome.bytes_by_path[path] = bytes;
  work.generation.prefill_label = peer->identity().label;
  received_bytes_.Add(outcome.bytes_moved);
  co_return Status{};
}

// Keeps pages out of use until the peer is known to be dead, or its own deadline for the request
// has passed: then it sends nothing any more, and what it had sent is dropped. A network may have
// held that up for longer, and the kernel of a dead process still sends it.
Task<void> DecodeService::Quarantine(PeerPtr peer, KvSequence pages, Instant until) {
  const TaskGroup::Pass pass(core_.tasks);
  constexpr Duration kSlack = std::chrono::seconds(1);
  constexpr Duration kLook = std::chrono::milliseconds(100);
  const Instant end = After(until, kSlack);
  while (core_.world.clock.Now() < end && !core_.closing) {
    auto call =
        peer->Call(Method::kProbe, {}, std::min(end, After(core_.world.clock.Now(), kLook)), {});
    const Result<Reply> reply = co_await std::move(call);
    if (!reply && reply.error().id == ErrorId::kPeerGone) break;
    co_await core_.world.clock.SleepFor(core_.world.control, kLook);
  }
  auto end_transfers = core_.engine.EndTransfersOf(peer->identity().id);
  co_await std::move(end_transfers);
  pages.Clear();
}

Task<Status> DecodeService::Decode(Work& work) {
  const ScaledShape& shape = core_.shape();
  SequenceDigest digest(shape);
  const auto row = [&](std::uint64_t position, std::uint32_t layer) -> std::byte* {
    const PageNumber page = work.sequence.pages()[position / shape.page_tokens];
    return core_.memory.At(layer, page) + (position % shape.page_tokens) * shape.row_bytes;
  };
  const auto absorb = [&](std::size_t first, std::size_t last) {
    while (first < last) {
      const std::size_t count =
          std::min(last - first, shape.page_tokens - first % shape.page_tokens);
      for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
        digest.Absorb(layer, row(first, layer), static_cast<std::uint32_t>(count));
      first += count;
    }
  };
  for (std::size_t first = 0; first < work.prompt.size(); first += kTokensAbsorbedPerStep) {
    const std::size_t last = std::min(work.prompt.size(), first + kTokensAbsorbedPerStep);
    std::function<void()> read = [&] { absorb(first, last); };
    co_await core_.decode_compute.Run(std::move(read));
    if (work.abandon->is_set())
      co_return Fail(core_.GivenUp(work.deadline, "while reading the prompt's cache"));
  }

  const double rate = core_.limits.decode_tokens_per_second;
  const Instant begin = core_.world.clock.Now();
  std::vector<Chain>& chains = work.chains;
  std::uint32_t made = 0;
  while (made < work.tokens_max) {
    const std::uint32_t count = std::min(work.tokens_max - made, rate > 0 ? 1U : kTokensPerStep);
    std::vector<Token> tokens;
    std::function<void()> step = [&] {
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint64_t position = chains.size();
        const Token token = core_.model.NextToken(digest, position, row);
        tokens.push_back(token);
        chains.push_back(Advance(chains.back(), token, position));
        for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
          core_.model.FillRow(layer, chains.back(), row(position, layer));
        absorb(position, position + 1);
      }
    };
    co_await core_.decode_compute.Run(std::move(step));
    made += count;
    generated_tokens_.Add(count);
    if (rate > 0) {
      const Duration paced(static_cast<std::int64_t>(1e9 * static_cast<double>(made) / rate));
      co_await core_.Pause(std::min(work.deadline, After(begin, paced)), *work.abandon);
    }
    if (work.abandon->is_set() || core_.closing)
      co_return Fail(core_.GivenUp(work.deadline, fmt::format("after {} tokens", made)));
    if (core_.world.clock.Now() >= work.deadline)
      co_return Fail(ErrorId::kDeadline,
                     fmt::format("{} of {} tokens were generated", made, work.tokens_max));
    auto deliver = work.sink(std::move(tokens));
    const bool wanted = co_await std::move(deliver);
    if (!wanted) co_return Fail(ErrorId::kCancelled, "nobody takes the tokens");
  }
  co_return Status{};
}

}  // namespace mooncake
