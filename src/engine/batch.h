// A batch as the engine sees it: what to move, and the one outcome that everybody who waits gets.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/engine.h"
#include "engine/peer.h"

namespace mooncake {

/// The copies as a transfer without a deadline, counted through once.
[[nodiscard]] inline Transfer Summarise(Direction direction,
                                        std::span<const Copy> copies) noexcept {
  Transfer transfer;
  transfer.direction = direction;
  transfer.slices = copies;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    transfer.total_bytes += copies[i].length_bytes;
    if (i > 0 && copies[i].region != copies[i - 1].region) transfer.region_count += 1;
  }
  return transfer;
}
/// The regions that it touches, in order of their ids. Those of `regions` are this process's own.
[[nodiscard]] TransferNeeds NeedsOf(const Transfer& transfer, const RegionTable& regions);

class BatchImpl final : public Batch, public std::enable_shared_from_this<BatchImpl> {
 public:
  BatchImpl(World& world, std::shared_ptr<PeerImpl> peer, Direction direction,
            std::vector<Copy> copies, BatchOptions options);

  Status Wait() override;
  std::optional<Status> Poll() override;
  Task<Status> Done() override;
  void Cancel() noexcept override;
  void OnDone(std::function<void(const Status&)> call) override;
  std::uint64_t total_bytes() const noexcept override { return total_bytes_; }
  std::string transport() const override;

  // ---- for the engine ----
  void Finish(Status outcome);  ///< Once. Any thread.
  void SetTransport(std::string_view name);
  [[nodiscard]] bool is_cancelled() const noexcept { return cancelled_; }
  /// What Cancel() calls from now on; at once, if that has come before. Null: nothing. On the
  /// control loop, or before anybody else has the batch.
  void OnCancel(std::function<void()> call);
  [[nodiscard]] const std::shared_ptr<PeerImpl>& peer() const noexcept { return peer_; }
  [[nodiscard]] Direction direction() const noexcept { return direction_; }
  [[nodiscard]] const BatchOptions& options() const noexcept { return options_; }
  [[nodiscard]] std::vector<Copy>& copies() noexcept { return copies_; }
  [[nodiscard]] Transfer MakeTransfer(std::span<const Copy> copies) const noexcept;

 private:
  World& world_;
  std::shared_ptr<PeerImpl> peer_;
  Direction direction_;
  std::vector<Copy> copies_;
  BatchOptions options_;
  std::uint64_t total_bytes_ = 0;
  std::atomic<bool> cancelled_ = false;
  std::function<void()> on_cancel_;  // control loop
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<Status> outcome_;                            // written once, under mutex_
  std::atomic<bool> has_ended_ = false;                      // outcome_ is there, for good
  std::string transport_;                                    // guarded by mutex_
  std::vector<std::function<void(const Status&)>> on_done_;  // guarded by mutex_
};

}  // namespace mooncake
