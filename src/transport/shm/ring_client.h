// The initiator's side of a ring: gathers slices into slots while the target scatters the ones
// before.
#pragma once

#include <memory>
#include <vector>

#include "base/local_socket.h"
#include "base/spin.h"
#include "memory/copy.h"
#include "memory/shared_segment.h"
#include "transport/shm/ring_layout.h"
#include "transport/transfer_check.h"

namespace mooncake::shm {

/// One batch at a time: Move() is called under a lock of the caller's. the rest from any thread.
class RingClient {
 public:
  /// With what the target must be given: borrowed descriptor of the memory, and the bell's other
  /// end.
  struct Made {
    std::shared_ptr<RingClient> client;
    UniqueFd target_bell;
  };
  /// Allocates 2 MiB and touches them. kMemoryShortage, kMapFailed, kNetwork.
  [[nodiscard]] static Result<Made> Make(World& world, const CopyEngine& copy);
  [[nodiscard]] int memory_fd() const noexcept { return memory_->fd(true); }

  /// The transfer has been checked against `regions`. After kDeadline, kPathFailed or kPeerGone,
  /// and after a cancelled transfer that the target does not finish, usable() is false: the ring
  /// may still be written by a late target, so it is never used again. Local memory is touched by
  /// this call only.
  [[nodiscard]] Status Move(const Transfer& transfer, const PeerRegions& regions);
  [[nodiscard]] bool usable() const noexcept { return usable_.load(std::memory_order_acquire); }
  /// Whether the target sleeps: then a batch waits for its wake-up.
  [[nodiscard]] bool target_parked() const noexcept {
    return header_.target_parked.load(std::memory_order_relaxed) != 0;
  }
  /// A Move() under way ends, with `error`.
  void Abandon(ErrorId error) noexcept;

 private:
  struct Piece {
    std::byte* local;
    std::uint32_t length_bytes;
  };
  struct Cursor {
    std::size_t slice = 0;
    std::uint64_t offset = 0;  // done of that slice
  };
  // Which region has which place in the list of the slot that is being filled. A collision costs a
  // repeated entry.
  struct KnownRegion {
    RegionId id{};
    std::uint64_t slot_number = UINT64_MAX;
    std::uint32_t index = 0;
  };
  enum class Waited { kCompleted, kCancelled, kDeadline, kGone, kMiscounted };

  RingClient(World& world, const CopyEngine& copy, std::unique_ptr<SharedSegment> memory,
             std::unique_ptr<Doorbell> bell);
  [[nodiscard]] std::uint32_t RegionIndex(RegionId id, const PeerRegions& regions, bool* added);
  void Fill(const Transfer& transfer, const PeerRegions& regions, bool first, Cursor& cursor);
  void ChooseRanges(const Transfer& transfer, const PeerRegions& regions, bool first,
                    Cursor& cursor);
  [[nodiscard]] Waited AwaitCompleted(const Transfer& transfer, Instant until,
                                      bool look_at_cancelled);
  [[nodiscard]] bool HasCompleted(Waited& outcome) const noexcept;
  [[nodiscard]] Status Reap(const Transfer& transfer, bool scatter);
  [[nodiscard]] Error Break(Waited why) noexcept;

  World& world_;
  const CopyEngine copy_;
  const std::unique_ptr<SharedSegment> memory_;
  const std::unique_ptr<Doorbell> bell_;
  RingHeader& header_;
  std::atomic<bool> usable_{true};
  std::atomic<ErrorId> abandoned_with_{ErrorId{}};
  SpinHabit habit_;
  std::uint64_t batch_ = 0;
  std::uint64_t posted_ = 0;
  std::uint64_t reaped_ = 0;
  std::vector<WireRegion> regions_;  // of the slot that is being filled
  std::vector<WireRange> ranges_;
  std::vector<KnownRegion> known_;
  std::size_t list_bytes_[kRingSlots] = {};  // where the bytes of each posted slot begin
  std::vector<Piece>
      pieces_[kRingSlots];  // what each posted slot moves here, in the order of its ranges
};

}  // namespace mooncake::shm
