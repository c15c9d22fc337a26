#include "instance/prefill_service.h"

#include <fmt/format.h>

#include <cstring>

#include "directory/record.h"
#include "engine/region_messages.h"
#include "instance/token_payload.h"

namespace mooncake {
namespace {

constexpr std::size_t kStepBytes = 1 << 20;  // rows computed between two looks at the clock, about

std::uint64_t Microseconds(Duration duration) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
}

// Computes the rows of tokens [first, last) of one layer into the sequence's pages.
void FillPages(const InstanceCore& core, std::uint32_t layer, std::span<const Chain> chains,
               std::span<const PageNumber> pages, std::size_t first, std::size_t last) {
  const std::size_t page_tokens = core.shape().page_tokens;
  while (first < last) {
    const std::size_t page = first / page_tokens;
    const std::size_t in_page = first % page_tokens;
    const std::size_t count = std::min(last - first, page_tokens - in_page);
    core.model.FillRows(layer, chains.subspan(first, count),
                        core.memory.At(layer, pages[page]) + in_page * core.shape().row_bytes);
    first += count;
  }
}

}  // namespace

PrefillService::PrefillService(InstanceCore& core)
    : core_(core),
      turnstile_(core.world, 1, core.limits.queue_max),
      computed_tokens_(core.metrics.AddCounter("mooncake_prefill_computed_tokens_total",
                                               "Prompt tokens whose KV rows were computed.")),
      cached_tokens_(core.metrics.AddCounter("mooncake_prefill_cached_tokens_total",
                                             "Prompt tokens found in the prefix cache.")),
      compute_us_(core.metrics.AddHistogram("mooncake_prefill_compute_microseconds",
                                            "Time to compute a prompt.")),
      transfer_us_(core.metrics.AddHistogram(
          "mooncake_prefill_transfer_microseconds",
          "Time from the first layer handed over to the last byte in place.")) {}

void PrefillService::AddTo(RpcRouter& router) {
  router.Add(Method::kPrefill, [this](RpcCall& call, Frame request) -> Task<Result<Reply>> {
    auto serve = Serve(call, std::move(request));
    co_return co_await std::move(serve);
  });
  router.Add(Method::kProbe,
             [this](RpcCall&, Frame request) -> Task<Result<Reply>> { co_return Probe(request); });
}

Result<Reply> PrefillService::Probe(const Frame& request) {
  pb::ProbeRequest body;
  if (!Parse(request.body, body)) return Fail(ErrorId::kBadFrame, "ProbeRequest");
  std::vector<Chain> chains;
  chains.reserve(static_cast<std::size_t>(body.page_chains_size()));
  for (const std::uint64_t chain : body.page_chains()) chains.push_back(Chain{chain});
  pb::ProbeReply reply;
  reply.set_pages_cached(static_cast<std::uint32_t>(core_.cache.MatchLength(chains)));
  reply.set_queue_length(static_cast<std::uint32_t>(queue_length()));
  reply.set_queue_max(static_cast<std::uint32_t>(core_.limits.queue_max));
  reply.set_queued_tokens(queued_tokens_);
  reply.set_draining(core_.draining);
  return MakeReply(reply);
}

Task<Result<Reply>> PrefillService::Serve(RpcCall& call, Frame request) {
  const TaskGroup::Pass pass(core_.tasks);
  pb::PrefillRequest body;
  if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "PrefillRequest");
  if (core_.draining) co_return Fail(ErrorId::kDraining, {});
  if (body.model() != core_.model_id) {
    co_return Fail(ErrorId::kBadRequest,
                   fmt::format("this instance serves {}, the request is for {}", core_.model_id,
                               body.model()));
  }
  Result<std::vector<Token>> prompt = TokensFromPayload(request.payload, core_.shape().vocabulary);
  if (!prompt) co_return Fail(prompt.error());
  const std::size_t pages = core_.PagesFor(prompt->size());
  if (body.first_page() > pages ||
      static_cast<std::size_t>(body.pages_size()) != pages - body.first_page()) {
    co_return Fail(ErrorId::kBadRequest, fmt::format("{} target pages for pages {} to {}",
                                                     body.pages_size(), body.first_page(), pages));
  }
  const auto abandon = std::make_shared<Abandon>();
  call.OnCancel([abandon] { abandon->flag = true; });
  const Instant deadline =
      std::min(call.deadline(), After(core_.world.clock.Now(), core_.limits.request_timeout));

  Record caller = FromProto(body.caller());
  if (caller.identity.id != call.peer().id)
    co_return Fail(ErrorId::kBadRequest, "the caller's record is another's");
  auto connect = core_.engine.Connect(std::move(caller), deadline);
  Result<PeerPtr> peer = co_await std::move(connect);
  if (!peer) co_return Fail(Within("the decode side cannot be reached from here", peer.error()));
  const RegionInfo region = FromProto(body.target());
  (*peer)->AddRegion(region);
  PrefillTarget target{*peer,
                       region.id,
                       body.first_page(),
                       {body.pages().begin(), body.pages().end()},
                       body.layer_stride_bytes()};
  auto prefill = Prefill(std::move(*prompt), std::move(target), deadline, abandon);
  const Result<PrefillOutcome> outcome = co_await std::move(prefill);
  if (!outcome) co_return Fail(outcome.error());
  pb::PrefillReply reply;
  reply.set_tokens_cached(outcome->tokens_cached);
  reply.set_bytes_moved(outcome->bytes_moved);
  reply.set_compute_us(Microseconds(outcome->compute));
  reply.set_transfer_us(Microseconds(outcome->transfer));
  for (const auto& [path, bytes] : outcome->bytes_by_path)
    (*reply.mutable_bytes_by_path())[path] = bytes;
  co_return MakeReply(reply);
}

// A prompt from its turn to its last byte in place.
struct PrefillService::Work {
  std::vector<Token> prompt;
  PrefillTarget target;
  Instant deadline;
  AbandonPtr abandon;
  KvSequence sequence;
  std::vector<Chain> page_ends;
  std::size_t missing = 0;  // tokens to compute
  Instant begin{};
  std::deque<std::shared_ptr<Batch>> in_flight;  // they read the sequence's pages
  PrefillOutcome outcome;
  Status status;  // the first error

  void Settle(const Batch& batch, const Status& ended) {
    if (ended) {
      outcome.bytes_moved += batch.total_bytes();
      outcome.bytes_by_path[batch.transport()] += batch.total_bytes();
    } else if (status) {
      status = ended;
    }
  }
};

Task<Result<PrefillOutcome>> PrefillService::Prefill(std::vector<Token> prompt,
                                                     PrefillTarget target, Instant deadline,
                                                     AbandonPtr abandon) {
  Work work{std::move(prompt),
            std::move(target),
            deadline,
            std::move(abandon),
            KvSequence(core_.cache),
            {},
            0,
            {},
            {},
            {},
            {}};
  const std::uint64_t tokens = work.prompt.size();
  queued_tokens_ += tokens;
  work.status = co_await turnstile_.Enter(deadline);
  if (work.status) {
    co_await Compute(work);
    turnstile_
        .Leave();  // a target that takes its bytes slowly, or not at all, holds up nobody else
  }
  queued_tokens_ -= tokens;
  // Whatever happens, the pages stay ours until no batch reads them.
  for (const std::shared_ptr<Batch>& batch : work.in_flight) {
    if (!work.status) batch->Cancel();
    const Status ended = co_await batch->Done();
    work.Settle(*batch, ended);
  }
  if (!work.status) co_return Fail(work.status.error());
  work.outcome.transfer = core_.world.clock.Now() - work.begin;
  computed_tokens_.Add(work.missing);
  compute_us_.Record(Microseconds(work.outcome.compute));
  transfer_us_.Record(Microseconds(work.outcome.transfer));
  work.sequence.Publish(work.page_ends);
  co_return std::move(work.outcome);
}

std::uint32_t PrefillService::LayersPerStep(std::size_t tokens) const noexcept {
  const std::uint64_t layer_bytes = std::max<std::uint64_t>(1, tokens * core_.shape().row_bytes);
  const std::uint32_t few =
      std::max(1U, core_.shape().layers / 4);  // at least four hand-overs for each prompt
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(kStepBytes / layer_bytes, 1, few));
}

std::vector<Copy> PrefillService::CopiesOf(std::uint32_t first_layer, std::uint32_t last_layer,
                                           std::size_t tokens, const KvSequence& sequence,
                                           const PrefillTarget& target) const {
  const ScaledShape& shape = core_.shape();
  std::vector<Copy> copies;
  copies.reserve((last_layer - first_layer) * target.pages.size());
  for (std::uint32_t layer = first_layer; layer < last_layer; ++layer) {
    for (std::size_t i = 0; i < target.pages.size(); ++i) {
      const std::size_t page = target.first_page + i;
      const std::size_t rows =
          std::min<std::size_t>(shape.page_tokens, tokens - page * shape.page_tokens);
      const std::uint64_t offset =
          layer * target.layer_stride_bytes + target.pages[i] * shape.page_bytes();
      const std::uint64_t length = rows * shape.row_bytes;
      std::byte* const local = core_.memory.At(layer, sequence.pages()[page]);
      Copy* const last = copies.empty() ? nullptr : &copies.back();
      if (last != nullptr && last->local + last->length_bytes == local &&
          last->offset + last->length_bytes == offset) {
        last->length_bytes += length;  // neighbours at both ends: one range
      } else {
        copies.push_back({local, target.region, offset, length});
      }
    }
  }
  return copies;
}

// In its turn: each layer is on its way while the next is computed.
Task<void> PrefillService::Compute(Work& work) {
  const std::size_t tokens = work.prompt.size();
  if (work.abandon->is_set()) {
    work.status = Fail(core_.GivenUp(work.deadline, "before its turn"));
    co_return;
  }
  const std::vector<Chain> chains = core_.model.Chains(work.prompt);
  work.page_ends = PageEndChains(chains, core_.shape().page_tokens);
  const std::size_t first = work.sequence.Reuse(work.page_ends) * core_.shape().page_tokens;
  work.status = work.sequence.GrowTo(core_.PagesFor(tokens));
  if (!work.status) co_return;
  work.outcome.tokens_cached = static_cast<std::uint32_t>(first);
  cached_tokens_.Add(first);
  work.missing = tokens - first;
  work.begin = core_.world.clock.Now();
  LayersReady hand_over = [&](std::uint32_t layer, std::uint32_t end) -> Status {
    while (!work.in_flight.empty()) {  // one that has failed ends the computing
      const std::optional<Status> ended = work.in_flight.front()->Poll();
      if (!ended) break;
      work.Settle(*work.in_flight.front(), *ended);
      work.in_flight.pop_front();
    }
    if (work.status && !work.target.pages.empty()) {
      work.in_flight.push_back(core_.engine.Submit(
          work.target.peer, Direction::kWrite,
          CopiesOf(layer, end, tokens, work.sequence, work.target), {.deadline = work.deadline}));
    }
    return work.status;
  };
  auto compute = ComputeLayers(chains, work.sequence, first, work.deadline, work.abandon,
                               std::move(hand_over));
  work.status = co_await std::move(compute);
  work.outcome.compute = core_.world.clock.Now() - work.begin;
}

Task<Status> PrefillService::ComputeInPlace(const std::vector<Chain>& chains,
                                            const KvSequence& sequence, std::size_t first_token,
                                            Instant deadline, AbandonPtr abandon) {
  const Status entered = co_await turnstile_.Enter(deadline);
  if (!entered) co_return entered;
  const Instant begin = core_.world.clock.Now();
  auto compute = ComputeLayers(chains, sequence, first_token, deadline, std::move(abandon), {});
  const Status status = co_await std::move(compute);
  turnstile_.Leave();
  cached_tokens_.Add(first_token);
  if (status) {
    computed_tokens_.Add(chains.size() - first_token);
    compute_us_.Record(Microseconds(core_.world.clock.Now() - begin));
  }
  co_return status;
}

// The rows of tokens from first_token on, a few layers at a time, as fast as the model is said to
// be. Each time `ready`, if there is one, is told which layers; its error ends the computing.
Task<Status> PrefillService::ComputeLayers(const std::vector<Chain>& chains,
                                           const KvSequence& sequence, std::size_t first_token,
                                           Instant deadline, AbandonPtr abandon,
                                           LayersReady ready) {
  const ScaledShape& shape = core_.shape();
  const std::size_t missing = chains.size() - first_token;
  const Instant begin = core_.world.clock.Now();
  const double rate = core_.limits.prefill_tokens_per_second;
  const Duration model_time(
      rate > 0 ? static_cast<std::int64_t>(1e9 * static_cast<double>(missing) / rate) : 0);
  const std::uint32_t step = LayersPerStep(chains.size());
  for (std::uint32_t layer = 0; layer < shape.layers; layer += step) {
    const std::uint32_t end = std::min(shape.layers, layer + step);
    if (abandon->is_set() || core_.closing)
      co_return Fail(core_.GivenUp(deadline, fmt::format("at layer {}", layer)));
    if (core_.world.clock.Now() >= deadline)
      co_return Fail(ErrorId::kDeadline, fmt::format("prefill at layer {}", layer));
    if (missing > 0) {
      std::function<void()> fill = [&, layer, end] {
        for (std::uint32_t l = layer; l < end; ++l)
          FillPages(core_, l, chains, sequence.pages(), first_token, chains.size());
      };
      co_await core_.prefill_compute.Run(std::move(fill));
      const Instant paced = After(begin, model_time * end / shape.layers);
      co_await core_.Pause(std::min(paced, deadline), *abandon);
    }
    if (!ready) continue;
    const Status handed = ready(layer, end);
    if (!handed) co_return handed;
  }
  co_return Status{};
}

}  // namespace mooncake
