// What joins a device here to a device of the peer: its queue pairs, with the requests that
// are posted on them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <boost/container/small_vector.hpp>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "transport/rdma/link_pace.h"
#include "transport/rdma/mailbox.h"
#include "transport/transport.h"

namespace mooncake::rdma {

struct Operation;

inline constexpr std::size_t kChainMax = 32;  ///< Requests posted together.

/// A part of a transfer, from a place in its slices on.
struct Range {
  std::size_t slice = 0;
  std::uint64_t offset = 0;  ///< In that slice.
  std::uint64_t length_bytes = 0;
};

/// What one request carries. The operation lives as long as it has pieces; a message has none.
struct Piece {
  Operation* operation = nullptr;
  Range range;
};

/// A request as it is being put together: neighbours at the peer, from one or several places here.
struct Request {
  static constexpr std::size_t kEntriesMax = 8;
  std::array<ibv_sge, kEntriesMax> entries;
  ibv_send_wr work{};   ///< Its entries are counted, and its place at the peer is set.
  bool on_gpu = false;  ///< The processor must not read what it sends.
  Piece piece;
};

/// One thread at a time: whoever holds the path's mutex.
class Rail {
 public:
  /// `pairs` are connected.
  Rail(std::uint64_t number, RailPairs pairs, Outbox outbox, std::size_t peer_device)
      : number_(number),
        outbox_(std::move(outbox)),
        pairs_(std::move(pairs)),
        peer_device_(peer_device),
        depth_(device().queue_depth()),
        queues_{SendQueue(depth_), SendQueue(depth_), SendQueue(depth_)},
        pace_(device().port().gigabits_per_second / 8, device().piece_bytes_max()) {}

  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }
  [[nodiscard]] RdmaDevice& device() const noexcept { return *pairs_.device(); }
  [[nodiscard]] std::size_t peer_device() const noexcept { return peer_device_; }
  /// The queue pair that the next requests of a lane go on.
  [[nodiscard]] std::size_t PairFor(Lane lane) const noexcept {
    if (lane == Lane::kShort) return kShortPair;
    const auto [one, other] = kLongPairs;
    return queues_[other].bytes < queues_[one].bytes ? other : one;
  }
  [[nodiscard]] std::size_t room(std::size_t pair) const noexcept {
    return depth_ - queues_[pair].count();
  }
  [[nodiscard]] bool is_idle() const noexcept {
    return std::all_of(queues_.begin(), queues_.end(),
                       [](const SendQueue& queue) { return queue.count() == 0; });
  }
  /// Whether completions will come.
  [[nodiscard]] bool is_awaited() const noexcept { return !is_idle() || outbox_.is_waiting(); }
  [[nodiscard]] std::uint64_t bytes_in_flight() const noexcept {
    std::uint64_t bytes = 0;
    for (const SendQueue& queue : queues_) bytes += queue.bytes;
    return bytes;
  }
  [[nodiscard]] const LinkPace& pace() const noexcept { return pace_; }
  /// Whether PairFor() has a place, and the link is not busy for long enough already.
  [[nodiscard]] bool HasRoom(Lane lane) const noexcept {
    const std::size_t pair = PairFor(lane);
    return room(pair) > 0 && queues_[pair].bytes < pace_.window_bytes();
  }
  /// Since when the oldest request waits. Not idle.
  [[nodiscard]] Instant oldest() const noexcept;
  /// Since when messages have been waiting for an answer and the peer's end has given no sign of
  /// life; kNever: none waits.
  [[nodiscard]] Instant silent_since() const noexcept {
    return outbox_.is_waiting() ? silent_since_ : kNever;
  }

  /// Posts a chain in order, one completion for all of it. Error: kRdmaCall, the rail is broken;
  /// requests from `accepted` on have not been posted. Then Stamp().
  [[nodiscard]] Status Post(std::size_t pair, Direction direction, std::span<Request> chain,
                            std::size_t& accepted);
  /// A chain of one on kShortPair; false: it has not been posted, and a Post() would say why.
  [[nodiscard]] bool PostOne(Direction direction, Request& request);
  /// When the last `count` requests of the queue pair were posted. Before Poll(): looking at the
  /// clock need not hold up the request.
  void Stamp(std::size_t pair, std::size_t count, Instant when) noexcept;
  /// As LinkPace::NotePosting().
  void NotePosting(std::uint64_t bytes, Duration took) noexcept { pace_.NotePosting(bytes, took); }
  /// Posts a message of at most kMessageBytesMax bytes; false: there is no room for it, and
  /// `answered` is not called. Error as Post(): nobody is told.
  [[nodiscard]] Result<bool> Send(std::string_view message, Outbox::Answered answered, Instant now);
  struct Polled {
    boost::container::small_vector<Operation*, 16> done;  ///< One for each piece.
    std::optional<ibv_wc_status> failed;  ///< Then the rail is broken; `culprit` is why.
    std::optional<Piece> culprit;
    bool seen = false;  ///< Something has ended, well or not.
    Instant when{};     ///< The look at the clock, if it took one.
  };
  /// What has ended since the last call, answers included, which are told. Appends to
  /// `polled.done`; looks at the clock only to measure the link.
  void Poll(Clock& clock, Polled& polled);
  [[nodiscard]] bool Carries(const Operation& operation) const noexcept;
  /// Wakes the completion channel at the next completion. Once until Heard().
  void Arm();
  [[nodiscard]] bool is_armed() const noexcept { return armed_; }
  void Heard() noexcept { armed_ = false; }
  /// Ends the queue pairs: when this returns, the device touches no memory for them any more. What
  /// was not completed; who waits for an answer is told. Nothing is posted after that.
  [[nodiscard]] std::vector<Piece> Break() noexcept;

 private:
  struct Posted {
    Piece piece;
    Instant when;
  };
  // What is posted on a queue pair, in order.
  struct SendQueue {
    explicit SendQueue(std::size_t depth) : ring(std::bit_ceil(depth)), mask(ring.size() - 1) {}
    [[nodiscard]] Posted& At(std::uint64_t number) noexcept { return ring[number & mask]; }
    [[nodiscard]] const Posted& At(std::uint64_t number) const noexcept {
      return ring[number & mask];
    }
    [[nodiscard]] std::size_t count() const noexcept { return next - first; }
    std::vector<Posted> ring;  // by number: a power of two
    std::uint64_t mask;
    std::uint64_t first = 0;  // the number of the oldest,
    std::uint64_t next = 0;   // and of the next one
    std::uint64_t bytes = 0;
  };
  [[nodiscard]] int PostSend(std::size_t pair, ibv_send_wr& request, ibv_send_wr*& bad);
  void Enqueue(std::size_t pair, Direction direction, Request& request, ibv_send_wr* following);
  void TakeBack(std::size_t pair, const Request& request) noexcept;
  void Complete(SendQueue& queue, std::uint64_t up_to, Clock& clock, Polled& polled);
  void Receive(const ibv_wc& completion, Clock& clock, Polled& polled);

  const std::uint64_t number_;
  Outbox outbox_;  // whose page outlives the pairs
  RailPairs pairs_;
  const std::size_t peer_device_;
  Instant silent_since_{};
  bool armed_ = false;
  const std::size_t depth_;  // of each queue
  OfEachPair<SendQueue> queues_;
  LinkPace pace_;
};

}  // namespace mooncake::rdma
