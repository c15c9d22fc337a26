// The queue pairs of one end of a rail: short transfers and messages have one of their own, so that
// they do not wait for what is posted of long ones, which share two.
#pragma once

#include <array>

#include "transport/rdma/rdma_device.h"

namespace mooncake::rdma {

/// What goes together over a rail.
enum class Lane : std::uint8_t {
  kShort,  ///< Transfers of a few milliseconds at most, and messages.
  kLong,
};
inline constexpr std::array kLanes = {Lane::kShort, Lane::kLong};
/// Indexed by Lane.
template <class T>
using OfEachLane = std::array<T, kLanes.size()>;

/// The queue pairs of a rail by their place. Two for long transfers: devices, and networks that
/// spread connections over several ways, carry what is posted on one as a single stream.
inline constexpr std::size_t kShortPair = 0;
inline constexpr std::array<std::size_t, 2> kLongPairs = {1, 2};
inline constexpr std::size_t kPairsOfRail = 1 + kLongPairs.size();
/// Indexed by that place.
template <class T>
using OfEachPair = std::array<T, kPairsOfRail>;

using RailEnds = OfEachPair<QueuePairEnd>;

/// All queue pairs of an end, which have one completion queue. One thread at a time.
class RailPairs {
 public:
  RailPairs(RailPairs&&) = default;
  RailPairs& operator=(RailPairs&&) = delete;  // it would end the queue before the pairs
  /// Their completions are told with `cookie`. Errors: kQueuePairBudget, kRdmaCall.
  [[nodiscard]] static Result<RailPairs> Make(const std::shared_ptr<RdmaDevice>& device,
                                              std::uint64_t cookie);
  /// What the peer must know of them; the numbers of their first packets are drawn from `random`.
  [[nodiscard]] RailEnds Describe(Random& random) const;
  /// Connects each with the peer's of the same place; `here` is what the peer was told. Receives
  /// are posted for messages. kRdmaCall.
  [[nodiscard]] Status Connect(const RailEnds& here, const RailEnds& there,
                               const AddressPair& addresses);
  /// Ends them: when this returns, the device touches no memory for them any more.
  void Reset() noexcept;

  [[nodiscard]] const std::shared_ptr<RdmaDevice>& device() const noexcept { return device_; }
  [[nodiscard]] ibv_cq& queue() const noexcept { return *queue_; }
  [[nodiscard]] ibv_qp& operator[](std::size_t place) const noexcept { return *pairs_[place].pair; }

 private:
  explicit RailPairs(std::shared_ptr<RdmaDevice> device) : device_(std::move(device)) {}

  std::shared_ptr<RdmaDevice> device_;
  CompletionQueue queue_;  // outlives the pairs
  OfEachPair<RdmaDevice::Owned> pairs_;
};

}  // namespace mooncake::rdma
