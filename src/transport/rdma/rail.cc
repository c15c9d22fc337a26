#include "transport/rdma/rail.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "transport/rdma/operation.h"

namespace mooncake::rdma {
namespace {

// Inline: the bytes go with the request, and the device need not fetch them. The processor does, so
// not from a GPU.
unsigned FlagsFor(const Request& request, std::uint32_t inline_bytes_max) {
  const bool fits = !request.on_gpu && request.piece.range.length_bytes <= inline_bytes_max;
  return fits ? static_cast<unsigned>(IBV_SEND_INLINE) : 0U;
}

// A completion says which request of which queue pair has ended.
constexpr std::uint64_t kIdStep = std::bit_ceil(kPairsOfRail);
constexpr std::uint64_t IdOf(std::size_t pair, std::uint64_t number) noexcept {
  return number * kIdStep + pair;
}
constexpr std::size_t PairOf(std::uint64_t id) noexcept { return id % kIdStep; }
constexpr std::uint64_t NumberOf(std::uint64_t id) noexcept { return id / kIdStep; }

}  // namespace

Instant Rail::oldest() const noexcept {
  Instant when = kNever;
  for (const SendQueue& queue : queues_) {
    if (queue.count() > 0) when = std::min(when, queue.At(queue.first).when);
  }
  return when;
}

[[gnu::always_inline]] inline int Rail::PostSend(std::size_t pair, ibv_send_wr& request,
                                                 ibv_send_wr*& bad) {
  return device().verbs().PostSend(&pairs_[pair], &request, &bad);
}

[[gnu::always_inline]] inline void Rail::Enqueue(std::size_t pair, Direction direction,
                                                 Request& request, ibv_send_wr* following) {
  const bool writes = direction == Direction::kWrite;
  SendQueue& queue = queues_[pair];
  queue.bytes += request.piece.range.length_bytes;
  queue.At(queue.next).piece = request.piece;
  ibv_send_wr& work = request.work;
  work.wr_id = IdOf(pair, queue.next++);
  work.next = following;
  work.sg_list = request.entries.data();
  work.opcode = writes ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
  work.send_flags = writes ? FlagsFor(request, device().inline_bytes_max()) : 0U;
  if (following == nullptr) work.send_flags |= IBV_SEND_SIGNALED;
}

void Rail::TakeBack(std::size_t pair, const Request& request) noexcept {
  queues_[pair].bytes -= request.piece.range.length_bytes;
  queues_[pair].next -= 1;
}

Status Rail::Post(std::size_t pair, Direction direction, std::span<Request> chain,
                  std::size_t& accepted) {
  MC_ASSERT(!chain.empty() && chain.size() <= room(pair));
  for (std::size_t i = 0; i < chain.size(); ++i)
    Enqueue(pair, direction, chain[i], i + 1 < chain.size() ? &chain[i + 1].work : nullptr);
  ibv_send_wr* bad = nullptr;
  const int failure = PostSend(pair, chain.front().work, bad);
  accepted = chain.size();
  if (failure == 0) return {};
  accepted = bad == nullptr ? 0 : NumberOf(bad->wr_id) - NumberOf(chain.front().work.wr_id);
  for (const Request& request : chain.subspan(accepted)) TakeBack(pair, request);
  return Fail(ErrorId::kRdmaCall, fmt::format("ibv_post_send on {}", device().name()), failure);
}

[[gnu::hot]] bool Rail::PostOne(Direction direction, Request& request) {
  Enqueue(kShortPair, direction, request, nullptr);
  ibv_send_wr* bad = nullptr;
  if (PostSend(kShortPair, request.work, bad) == 0) return true;
  TakeBack(kShortPair, request);
  return false;
}

void Rail::Stamp(std::size_t pair, std::size_t count, Instant when) noexcept {
  SendQueue& queue = queues_[pair];
  std::size_t waiting = 0;
  for (const SendQueue& one : queues_) waiting += one.count();
  if (waiting == count) pace_.Begin(when);
  for (std::uint64_t number = queue.next - count; number < queue.next; ++number)
    queue.At(number).when = when;
}

Result<bool> Rail::Send(std::string_view message, Outbox::Answered answered, Instant now) {
  if (room(kShortPair) == 0 || !outbox_.HasRoom()) return false;
  if (!outbox_.is_waiting()) silent_since_ = now;
  SendQueue& queue = queues_[kShortPair];
  ibv_send_wr request;
  ibv_sge entry;
  outbox_.Put(message, std::move(answered), request, entry);
  request.wr_id = IdOf(kShortPair, queue.next);
  request.send_flags = IBV_SEND_SIGNALED;
  if (message.size() <= device().inline_bytes_max()) request.send_flags |= IBV_SEND_INLINE;
  ibv_send_wr* bad = nullptr;
  if (const int failure = PostSend(kShortPair, request, bad)) {
    outbox_.Undo();
    return Fail(ErrorId::kRdmaCall, fmt::format("ibv_post_send on {}", device().name()), failure);
  }
  queue.At(queue.next++) = {{}, now};
  return true;
}

[[gnu::hot]] inline void Rail::Complete(SendQueue& queue, std::uint64_t up_to, Clock& clock,
                                        Polled& polled) {
  std::uint64_t bytes = 0;
  for (; queue.count() > 0 && queue.first <= up_to; ++queue.first) {
    const Piece& piece = queue.At(queue.first).piece;
    bytes += piece.range.length_bytes;
    if (piece.operation != nullptr) polled.done.push_back(piece.operation);
  }
  queue.bytes -= bytes;
  if (outbox_.is_waiting()) silent_since_ = clock.Now();
  if (!pace_.Count(bytes)) return;
  if (polled.when == Instant{}) polled.when = clock.Now();
  pace_.Measure(polled.when);
}

[[gnu::hot]] void Rail::Poll(Clock& clock, Polled& polled) {
  constexpr int kBatch = 16;
  std::array<ibv_wc, kBatch> completions;
  for (int count = kBatch; count == kBatch && is_awaited() && !polled.failed;) {
    count = device().verbs().PollCq(&pairs_.queue(), kBatch, completions.data());
    if (count == 0) return;
    polled.seen = true;
    if (count < 0) {
      polled.failed = IBV_WC_GENERAL_ERR;
      return;
    }
    for (int i = 0; i < count; ++i) {
      const ibv_wc& completion = completions[static_cast<std::size_t>(i)];
      if (completion.wr_id == kReceiveId) [[unlikely]] {
        Receive(completion, clock, polled);
        continue;
      }
      SendQueue& queue = queues_[PairOf(completion.wr_id)];
      const std::uint64_t number = NumberOf(completion.wr_id);
      if (completion.status == IBV_WC_SUCCESS) [[likely]] {
        Complete(queue, number, clock, polled);
        continue;
      }
      // What stood before it in the queue has ended well.
      if (number > 0) Complete(queue, number - 1, clock, polled);
      polled.failed = completion.status;
      if (queue.count() > 0) polled.culprit = queue.At(queue.first).piece;
      return;
    }
  }
}

void Rail::Receive(const ibv_wc& completion, Clock& clock, Polled& polled) {
  // Receives are flushed when another request has failed, whose completion says more.
  if (completion.status != IBV_WC_SUCCESS) {
    if (!polled.failed) polled.failed = completion.status;
    return;
  }
  if (!outbox_.Answer(completion.imm_data) || !device().PostReceives(pairs_[kShortPair], 1))
    polled.failed = IBV_WC_GENERAL_ERR;
  silent_since_ = clock.Now();
}

bool Rail::Carries(const Operation& operation) const noexcept {
  return std::any_of(queues_.begin(), queues_.end(), [&operation](const SendQueue& queue) {
    for (std::uint64_t number = queue.first; number < queue.next; ++number) {
      if (queue.At(number).piece.operation == &operation) return true;
    }
    return false;
  });
}

void Rail::Arm() {
  if (!std::exchange(armed_, true)) {
    if (device().verbs().ReqNotifyCq(&pairs_.queue()) != 0) armed_ = false;
  }
}

std::vector<Piece> Rail::Break() noexcept {
  pairs_.Reset();
  outbox_.Abandon();
  std::vector<Piece> left;
  for (SendQueue& queue : queues_) {
    for (; queue.first < queue.next; ++queue.first) {
      if (const Piece& piece = queue.At(queue.first).piece; piece.operation != nullptr)
        left.push_back(piece);
    }
    queue.bytes = 0;
  }
  return left;
}

}  // namespace mooncake::rdma
