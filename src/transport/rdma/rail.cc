#include "transport/rdma/rail.h"

#include <fmt/format.h>

#include <utility>

namespace mooncake::rdma {
namespace {

// Inline: the bytes go with the request, and the device need not fetch them. The processor does, so
// not from a GPU.
unsigned FlagsFor(const Request& request, std::uint32_t inline_bytes_max) {
  const bool fits = !request.on_gpu && request.piece.range.length_bytes <= inline_bytes_max;
  return fits ? static_cast<unsigned>(IBV_SEND_INLINE) : 0U;
}

}  // namespace

[[gnu::always_inline]] inline void Rail::Enqueue(Direction direction, Request& request,
                                                 ibv_send_wr* following) {
  const bool writes = direction == Direction::kWrite;
  bytes_in_flight_ += request.piece.range.length_bytes;
  At(next_).piece = request.piece;
  ibv_send_wr& work = request.work;
  work.wr_id = next_++;
  work.next = following;
  work.sg_list = request.entries.data();
  work.opcode = writes ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
  work.send_flags = writes ? FlagsFor(request, device().inline_bytes_max()) : 0U;
  if (following == nullptr) work.send_flags |= IBV_SEND_SIGNALED;
}

void Rail::TakeBack(const Request& request) noexcept {
  bytes_in_flight_ -= request.piece.range.length_bytes;
  next_ -= 1;
}

Status Rail::Post(Direction direction, std::span<Request> chain, std::size_t& accepted) {
  MC_ASSERT(!chain.empty() && chain.size() <= room());
  const std::uint64_t first = next_;
  for (std::size_t i = 0; i < chain.size(); ++i)
    Enqueue(direction, chain[i], i + 1 < chain.size() ? &chain[i + 1].work : nullptr);
  ibv_send_wr* bad = nullptr;
  const int failure = device().verbs().PostSend(pair_.pair.get(), &chain.front().work, &bad);
  accepted = chain.size();
  if (failure == 0) return {};
  accepted = bad == nullptr ? 0 : bad->wr_id - first;
  for (const Request& request : chain.subspan(accepted)) TakeBack(request);
  return Fail(ErrorId::kRdmaCall, fmt::format("ibv_post_send on {}", device().name()), failure);
}

[[gnu::hot]] bool Rail::PostOne(Direction direction, Request& request) {
  Enqueue(direction, request, nullptr);
  ibv_send_wr* bad = nullptr;
  if (device().verbs().PostSend(pair_.pair.get(), &request.work, &bad) == 0) return true;
  TakeBack(request);
  return false;
}

void Rail::Stamp(std::size_t count, Instant when) noexcept {
  const std::uint64_t first = next_ - count;
  if (first == first_) pace_.Begin(when);
  for (std::uint64_t number = first; number < next_; ++number) At(number).when = when;
}

Result<bool> Rail::Send(std::string_view message, Outbox::Answered answered, Instant now) {
  if (room() == 0 || !outbox_.HasRoom()) return false;
  if (!outbox_.is_waiting()) silent_since_ = now;
  ibv_send_wr request;
  ibv_sge entry;
  outbox_.Put(message, std::move(answered), request, entry);
  request.wr_id = next_;
  request.send_flags = IBV_SEND_SIGNALED;
  if (message.size() <= device().inline_bytes_max()) request.send_flags |= IBV_SEND_INLINE;
  ibv_send_wr* bad = nullptr;
  if (const int failure = device().verbs().PostSend(pair_.pair.get(), &request, &bad)) {
    outbox_.Undo();
    return Fail(ErrorId::kRdmaCall, fmt::format("ibv_post_send on {}", device().name()), failure);
  }
  At(next_++) = {{}, now};
  return true;
}

[[gnu::hot]] inline void Rail::Complete(std::uint64_t up_to, Clock& clock, Polled& polled) {
  std::uint64_t bytes = 0;
  for (; !is_idle() && first_ <= up_to; ++first_) {
    const Piece& piece = At(first_).piece;
    bytes += piece.range.length_bytes;
    if (piece.operation != nullptr) polled.done.push_back(piece.operation);
  }
  bytes_in_flight_ -= bytes;
  if (outbox_.is_waiting()) silent_since_ = clock.Now();
  if (!pace_.Count(bytes)) return;
  if (polled.when == Instant{}) polled.when = clock.Now();
  pace_.Measure(polled.when);
}

[[gnu::hot]] void Rail::Poll(Clock& clock, Polled& polled) {
  constexpr int kBatch = 16;
  std::array<ibv_wc, kBatch> completions;
  for (int count = kBatch; count == kBatch && is_awaited() && !polled.failed;) {
    count = device().verbs().PollCq(queue_.get(), kBatch, completions.data());
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
      if (completion.status == IBV_WC_SUCCESS) [[likely]] {
        Complete(completion.wr_id, clock, polled);
        continue;
      }
      // What stood before it in the queue has ended well.
      if (completion.wr_id > 0) Complete(completion.wr_id - 1, clock, polled);
      polled.failed = completion.status;
      if (!is_idle()) polled.culprit = At(first_).piece;
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
  if (!outbox_.Answer(completion.imm_data) || !device().PostReceives(*pair_.pair, 1))
    polled.failed = IBV_WC_GENERAL_ERR;
  silent_since_ = clock.Now();
}

bool Rail::Carries(const Operation& operation) const noexcept {
  for (std::uint64_t number = first_; number < next_; ++number) {
    if (At(number).piece.operation == &operation) return true;
  }
  return false;
}

void Rail::Arm() {
  if (!std::exchange(armed_, true)) {
    if (device().verbs().ReqNotifyCq(queue_.get()) != 0) armed_ = false;
  }
}

std::vector<Piece> Rail::Break() noexcept {
  pair_.Reset();
  outbox_.Abandon();
  std::vector<Piece> left;
  left.reserve(next_ - first_);
  for (; first_ < next_; ++first_) {
    if (const Piece& piece = At(first_).piece; piece.operation != nullptr) left.push_back(piece);
  }
  bytes_in_flight_ = 0;
  return left;
}

}  // namespace mooncake::rdma
