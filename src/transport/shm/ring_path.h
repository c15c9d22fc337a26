// A path through a ring in shared memory: for memory that applications allocated themselves, and
// for many ranges.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "transport/shm/ring_client.h"
#include "transport/shm/service_link.h"

namespace mooncake::shm {

class RingPath final : public Path, public std::enable_shared_from_this<RingPath> {
 public:
  RingPath(World& world, const CopyEngine& copy, std::shared_ptr<const PeerInfo> peer,
           std::shared_ptr<ServiceLink> link);
  std::optional<Duration> Estimate(const Transfer& transfer) const override;
  bool IsPrepared(const Transfer& transfer) const override;
  /// Makes the ring, or a new one where a late target has spoiled the one before.
  Task<Status> Prepare(TransferNeeds needs, Instant deadline) override;
  bool is_synchronous() const noexcept override { return true; }
  Status Run(const Transfer& transfer) override;
  void Start(const Transfer& transfer, std::function<void(Status)> done) override;
  void Forget(RegionId) override {}  // the peer checks its own table at each slot
  void Close() noexcept override;

 private:
  [[nodiscard]] std::shared_ptr<RingClient> Current() const;
  [[nodiscard]] Task<Status> MakeRing(Instant deadline);

  World& world_;
  const CopyEngine copy_;
  const std::shared_ptr<const PeerInfo> peer_;
  const std::shared_ptr<ServiceLink> link_;
  CostModel cost_;
  CallGate gate_;
  mutable std::mutex current_mutex_;
  std::shared_ptr<RingClient> current_;  // guarded by current_mutex_
  std::mutex turn_;                      // held for a batch: one at a time
  std::atomic<int> queued_ = 0;          // callers that have or want the turn
  bool preparing_ = false;               // control loop
  std::vector<std::shared_ptr<OneShot<bool>>>
      waiting_;  // control loop: for the ring that is being made
};

}  // namespace mooncake::shm
