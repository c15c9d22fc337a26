// The target's side of a ring: scatters what peers post into this process's regions, gathers what
// they ask for.
#pragma once

#include <memory>
#include <vector>

#include "base/local_socket.h"
#include "base/spin.h"
#include "memory/copy.h"
#include "memory/region_table.h"
#include "memory/shared_segment.h"
#include "transport/shm/ring_layout.h"
#include "transport/transport.h"

namespace mooncake::shm {

/// Lives as long as its Serve() runs or somebody holds it.
class RingServer : public std::enable_shared_from_this<RingServer> {
 public:
  /// `memory` and `bell` come from a peer: checked here. kBadFrame, kMapFailed.
  [[nodiscard]] static Result<std::shared_ptr<RingServer>> Attach(
      World& world, std::shared_ptr<const RegionTable> regions, const CopyEngine& copy,
      UniqueFd memory, UniqueFd bell);
  /// Works until the peer goes, misbehaves, or Close(). On the data loop.
  [[nodiscard]] static Task<void> Serve(std::shared_ptr<RingServer> self);
  /// When this returns, no region is touched any more. Any thread; idempotent.
  void Close() noexcept;
  /// Close(), if the initiator has given the ring up.
  void CloseIfAbandoned() noexcept {
    if (header_.abandoned.load(std::memory_order_seq_cst) != 0) Close();
  }
  [[nodiscard]] bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }

 private:
  struct Piece {
    std::byte* local;
    std::uint32_t length_bytes;
  };
  struct SlotFacts {
    std::uint64_t batch;
    Direction direction;
    std::uint32_t region_count;
    std::uint32_t range_count;
    std::uint32_t payload_bytes;
  };
  enum class Progress { kSome, kNone, kEnd };

  RingServer(World& world, std::shared_ptr<const RegionTable> regions, const CopyEngine& copy,
             std::unique_ptr<MappedView> memory, std::unique_ptr<Doorbell> bell);
  [[nodiscard]] Task<bool> WorkUntilQuiet();
  [[nodiscard]] Progress WorkSome();
  void AwaitPosted(Duration patience);
  [[nodiscard]] Result<SlotFacts> ReadFacts(const RingSlot& slot) const;
  [[nodiscard]] Status WorkSlot(const RingSlot& slot, std::byte* bytes);
  [[nodiscard]] Status ResolvePieces(const SlotFacts& facts, const std::byte* list);
  void MovePieces(const SlotFacts& facts, std::byte* payload) const;

  World& world_;
  const std::shared_ptr<const RegionTable> regions_;
  const CopyEngine copy_;
  const std::unique_ptr<MappedView> memory_;
  const std::unique_ptr<Doorbell> bell_;
  RingHeader& header_;
  SpinHabit habit_;                 // on the data loop
  std::uint64_t served_ = 0;        // on the data loop
  std::uint64_t failed_batch_ = 0;  // on the data loop; batches count from 1
  ErrorId failed_with_{};
  std::vector<PinnedRange> pins_;
  std::vector<Piece> pieces_;
  std::mutex working_;   // held for a slot, so that Close() knows that none is being worked
  bool closed_ = false;  // guarded by working_
  std::atomic<bool> ended_ = false;
};

}  // namespace mooncake::shm
