#include "transport/rdma/rail.h"

#include <fmt/format.h>

#include <algorithm>

namespace mooncake::rdma {
namespace {

// Inline: the bytes go with the request, and the device need not fetch them. The processor does, so
// not from a GPU.
unsigned FlagsFor(const Request& request, std::uint32_t inline_bytes_max) {
  const bool fits = !request.on_gpu && request.piece.range.length_bytes <= inline_bytes_max;
  return fits ? static_cast<unsigned>(IBV_SEND_INLINE) : 0U;
}

}  // namespace

Status Rail::Post(Direction direction, std::span<Request> chain, Instant now,
                  std::size_t& accepted) {
  MC_ASSERT(!chain.empty() && chain.size() <= room());
  const bool writes = direction == Direction::kWrite;
  const std::uint64_t next = first_ + posted_.size();
  if (posted_.empty()) pace_.Begin(now);
  for (std::size_t i = 0; i < chain.size(); ++i) {
    bytes_in_flight_ += chain[i].piece.range.length_bytes;
    posted_.push_back({chain[i].piece, now});
    ibv_send_wr& work = chain[i].work;
    work.wr_id = next + i;
    work.next = i + 1 < chain.size() ? &chain[i + 1].work : nullptr;
    work.sg_list = chain[i].entries.data();
    work.opcode = writes ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
    work.send_flags = writes ? FlagsFor(chain[i], device().inline_bytes_max()) : 0U;
  }
  chain.back().work.send_flags |= IBV_SEND_SIGNALED;
  ibv_send_wr* bad = nullptr;
  const int failure = device().verbs().PostSend(pair_.pair.get(), &chain.front().work, &bad);
  accepted = chain.size();
  if (failure == 0) return {};
  accepted = bad == nullptr ? 0 : bad->wr_id - next;
  for (std::size_t i = accepted; i < chain.size(); ++i) {
    bytes_in_flight_ -= chain[i].piece.range.length_bytes;
    posted_.pop_back();
  }
  return Fail(ErrorId::kRdmaCall, fmt::format("ibv_post_send on {}", device().name()), failure);
}

Result<bool> Rail::Send(std::string_view message, Outbox::Answered answered, Instant now) {
  if (room() == 0 || !outbox_.HasRoom()) return false;
  if (!outbox_.is_waiting()) silent_since_ = now;
  ibv_send_wr request;
  ibv_sge entry;
  outbox_.Put(message, std::move(answered), request, entry);
  request.wr_id = first_ + posted_.size();
  request.send_flags = IBV_SEND_SIGNALED;
  if (message.size() <= device().inline_bytes_max()) request.send_flags |= IBV_SEND_INLINE;
  ibv_send_wr* bad = nullptr;
  if (const int failure = device().verbs().PostSend(pair_.pair.get(), &request, &bad)) {
    outbox_.Undo();
    return Fail(ErrorId::kRdmaCall, fmt::format("ibv_post_send on {}", device().name()), failure);
  }
  posted_.push_back({{}, now});
  return true;
}

inline void Rail::Complete(std::uint64_t up_to, Clock& clock, Polled& polled) {
  std::uint64_t bytes = 0;
  for (; !posted_.empty() && first_ <= up_to; ++first_) {
    const Piece& piece = posted_.front().piece;
    bytes += piece.range.length_bytes;
    if (piece.operation != nullptr) polled.done.push_back(piece.operation);
    posted_.pop_front();
  }
  bytes_in_flight_ -= bytes;
  if (outbox_.is_waiting()) silent_since_ = clock.Now();
  if (!pace_.Count(bytes)) return;
  if (polled.when == Instant{}) polled.when = clock.Now();
  pace_.Measure(polled.when);
}

void Rail::Poll(Clock& clock, Polled& polled) {
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
      if (completion.wr_id == kReceiveId) {
        Receive(completion, clock, polled);
        continue;
      }
      if (completion.status == IBV_WC_SUCCESS) {
        Complete(completion.wr_id, clock, polled);
        continue;
      }
      // What stood before it in the queue has ended well.
      if (completion.wr_id > 0) Complete(completion.wr_id - 1, clock, polled);
      polled.failed = completion.status;
      if (!posted_.empty()) polled.culprit = posted_.front().piece;
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
  return std::any_of(posted_.begin(), posted_.end(), [&operation](const Posted& posted) {
    return posted.piece.operation == &operation;
  });
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
  left.reserve(posted_.size());
  for (Posted& posted : posted_) {
    if (posted.piece.operation != nullptr) left.push_back(std::move(posted.piece));
  }
  posted_.clear();
  bytes_in_flight_ = 0;
  return left;
}

}  // namespace mooncake::rdma
