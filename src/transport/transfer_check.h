// What every path does with a transfer before and while it moves bytes: bounds, deadline,
// cancellation, and the time it will probably take.
#pragma once

#include <atomic>

#include "transport/transport.h"

namespace mooncake {

[[nodiscard]] constexpr Access WantedAccess(Direction direction) noexcept {
  return direction == Direction::kWrite ? Access::kWrite : Access::kRead;
}

/// Whether `region`, one of the peer's, is the slice's and has that range.
[[nodiscard]] inline bool HasRange(const RegionInfo& region, const Slice& slice) noexcept {
  return region.id == slice.region && slice.offset <= region.length_bytes &&
         slice.length_bytes <= region.length_bytes - slice.offset;
}

/// Every slice against what is known of the peer's regions, before the first byte moves. Errors:
/// kRegionUnknown, kBadRegionKey (the region does not allow this direction), kOutOfRegion.
[[nodiscard]] Status CheckSlices(const Transfer& transfer, const PeerRegions& regions);
[[nodiscard]] inline Status CheckTransfer(const Transfer& transfer, const PeerRegions& regions) {
  // A short transfer has one slice mostly, whose region has been looked up.
  const RegionInfo* const region = transfer.region;
  if (transfer.slices.size() == 1 && region != nullptr &&
      Allows(region->access, WantedAccess(transfer.direction)) &&
      HasRange(*region, transfer.slices.front())) [[likely]]
    return {};
  return CheckSlices(transfer, regions);
}

/// Longest piece between two looks at the deadline and at `cancelled`.
inline constexpr std::uint64_t kPieceBytesMax = 2 << 20;

/// kCancelled, kDeadline, or success: go on with the next piece.
[[nodiscard]] Status CheckPace(const Transfer& transfer, Clock& clock);

/// Expected time of a transfer, corrected by the times that were seen. Any thread.
class CostModel {
 public:
  CostModel(Duration fixed, double nanoseconds_per_range, double nanoseconds_per_byte)
      : fixed_nanoseconds_(static_cast<double>(fixed.count())),
        nanoseconds_per_range_(nanoseconds_per_range),
        nanoseconds_per_byte_(nanoseconds_per_byte) {}
  [[nodiscard]] Duration Estimate(const Transfer& transfer) const noexcept {
    const double correction = static_cast<double>(correction_.load(std::memory_order_relaxed));
    return Duration(static_cast<std::int64_t>(Uncorrected(transfer) * correction));
  }
  /// Whether a transfer is long enough to learn from: the shortest ones should not pay for two
  /// looks at the clock.
  [[nodiscard]] static bool IsWorthObserving(const Transfer& transfer) noexcept {
    return transfer.total_bytes >= (64 << 10) || transfer.slices.size() >= 64;
  }
  void Observe(const Transfer& transfer, Duration actual) noexcept;

 private:
  [[nodiscard]] double Uncorrected(const Transfer& transfer) const noexcept {
    return fixed_nanoseconds_ +
           nanoseconds_per_range_ * static_cast<double>(transfer.slices.size()) +
           nanoseconds_per_byte_ * static_cast<double>(transfer.total_bytes);
  }
  const double fixed_nanoseconds_;
  const double nanoseconds_per_range_;
  const double nanoseconds_per_byte_;
  std::atomic<float> correction_{1};
};

/// Counts the calls inside, so that Close() can wait until the last one has left. Callers see
/// closed() soon: they look at it between pieces.
class CallGate {
 public:
  class Pass {
   public:
    explicit Pass(CallGate& gate) noexcept : gate_(gate) {
      gate_.inside_.fetch_add(1, std::memory_order_seq_cst);
    }
    ~Pass() { gate_.inside_.fetch_sub(1, std::memory_order_release); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    CallGate& gate_;
  };
  [[nodiscard]] bool closed() const noexcept { return closed_.load(std::memory_order_seq_cst); }
  void Close() noexcept { closed_.store(true, std::memory_order_seq_cst); }
  /// After Close(). Not from inside.
  void AwaitEmpty() const noexcept;

 private:
  std::atomic<std::uint32_t> inside_{0};
  std::atomic<bool> closed_{false};
};

}  // namespace mooncake
