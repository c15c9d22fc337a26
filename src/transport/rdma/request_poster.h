// Cuts what is left of operations into requests and posts each where it will be done first.
#pragma once

#include <array>

#include "transport/rdma/rail_group.h"
#include "transport/rdma/request_cutter.h"
#include "transport/rdma/turn_clock.h"

namespace mooncake::rdma {

/// One thread at a time: whoever holds the path's mutex.
class RequestPoster {
 public:
  /// They outlive it.
  RequestPoster(RailGroup& rails, const PathRegions& regions, TurnClock& turn) noexcept
      : rails_(rails), regions_(regions), turn_(turn) {}

  enum class Outcome {
    kPosted,
    kNoRoom,   ///< No rail that can carry it has room.
    kNowhere,  ///< It is registered on no device of a rail.
    kRefused,  ///< refusal() says by which rail, and why; what was not accepted is left.
  };
  struct Refusal {
    std::size_t place = 0;
    std::string reason;
  };
  /// The next requests of what is left of the operation, which is something.
  [[nodiscard]] Outcome PostNext(Operation& operation);
  [[nodiscard]] const Refusal& refusal() const noexcept { return refusal_; }

  /// What most short transfers are, without what others need: one request, at once. Then
  /// StampWhole(), before anything else. False: it is not that, no rail has room, or the device has
  /// refused it, and nothing was done.
  [[nodiscard]] bool PostWhole(Operation& operation);
  /// When that was posted: looking at the clock need not hold it up.
  void StampWhole(Instant when) noexcept { whole_rail_->Stamp(kShortPair, 1, when); }

 private:
  [[nodiscard]] std::optional<std::size_t> Choose(Operation& operation, const Slice& slice,
                                                  std::uint64_t offset) const;
  [[nodiscard]] std::uint64_t ChainBytesFor(const Operation& operation, const Rail& rail);
  [[nodiscard]] std::size_t Cut(Operation& operation, const Rail& rail);
  [[nodiscard]] Outcome PostChain(Operation& operation, std::size_t place, std::size_t count);

  RailGroup& rails_;
  const PathRegions& regions_;
  TurnClock& turn_;
  std::array<Request, kChainMax> chain_;  // of the post in progress
  WholeCutter whole_;
  Rail* whole_rail_ = nullptr;  // of the last PostWhole()
  Refusal refusal_;
};

}  // namespace mooncake::rdma
