// The initiator's side of "cuda": opens the peer's GPU memory where it may, and sends frames over
// lanes of its own where it may not.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/metrics.h"
#include "transport/cuda/local_memory.h"
#include "transport/cuda/peer_memory.h"
#include "transport/cuda/staged_lane.h"
#include "wire/handshake.h"

namespace mooncake::cuda {

/// What the paths of one transport share.
struct CudaPathContext {
  World& world;
  std::shared_ptr<const LocalMemory> memory;
  std::shared_ptr<DeviceMemory> gpus;
  std::shared_ptr<Stager> stager;
  /// A connection of purpose "cuda". On the control loop.
  std::function<Task<Result<std::shared_ptr<BufferedReader>>>(std::shared_ptr<const PeerInfo>,
                                                              Instant)>
      dial;
  Counter& sent_bytes;
  Counter& received_bytes;
};

class CudaPath final : public Path, public std::enable_shared_from_this<CudaPath> {
 public:
  CudaPath(std::shared_ptr<const CudaPathContext> context, std::shared_ptr<const PeerInfo> peer);

  std::optional<Duration> Estimate(const Transfer& transfer) const override;
  bool IsPrepared(const Transfer& transfer) const override;
  /// Opens regions, and lanes for what cannot be opened.
  Task<Status> Prepare(TransferNeeds needs, Instant deadline) override;
  bool is_synchronous() const noexcept override { return false; }
  /// Where all of the peer's regions are open.
  bool MayRun(const Transfer& transfer) const noexcept override { return IsOpen(transfer); }
  Status Run(const Transfer& transfer) override;
  void Start(const Transfer& transfer, std::function<void(Status)> done) override;
  void EndCancelled() override;
  void Forget(RegionId region) override { opened_.Forget(region); }
  void Close() noexcept override;

 private:
  struct Operation {
    const Transfer* transfer;
    std::function<void(Status)> done;
    Instant begun;
    std::unique_ptr<Timer> timer;
    std::shared_ptr<StagedLane> lane;  // that moves it; null: it waits for one, or is done
  };
  using OperationPtr = std::shared_ptr<Operation>;
  struct Lane {
    std::shared_ptr<StagedLane> lane;
    Signal wake;
  };
  using LanePtr = std::shared_ptr<Lane>;

  // ---- regions that are opened; any thread unless said otherwise ----
  [[nodiscard]] bool IsOpen(const Transfer& transfer) const;
  [[nodiscard]] bool MayOpen() const;
  [[nodiscard]] std::vector<RegionInfo> Undecided(const TransferNeeds& needs) const;
  [[nodiscard]] Task<Status> PrepareAll(TransferNeeds needs, Instant deadline);  // control loop
  [[nodiscard]] Task<Status> OpenRegions(std::vector<RegionInfo> regions, Instant deadline);
  [[nodiscard]] Task<Result<pb::CudaExportReply>> AskForHandles(std::vector<RegionInfo> regions,
                                                                Instant deadline);
  void OpenOnThread(const std::vector<RegionInfo>& regions, const pb::CudaExportReply& reply);
  [[nodiscard]] Status Prove(const pb::CudaExportReply& reply) const;
  [[nodiscard]] Status CopyAll(const Transfer& transfer, CopyQueue& queue);
  [[nodiscard]] Status AddCopies(const Transfer& transfer, CopyQueue& queue,
                                 std::map<RegionId, std::shared_ptr<OpenedRegion>>& used);
  [[nodiscard]] Status CheckGoing(const Transfer& transfer, const OpenedRegion& region) const;
  [[nodiscard]] Result<std::unique_ptr<CopyQueue>> TakeQueue();

  // ---- staged; data loop ----
  [[nodiscard]] Task<Status> OpenLanes(Instant deadline);  // control loop
  void AddLane(std::shared_ptr<BufferedReader> reader);
  [[nodiscard]] Task<void> Work(LanePtr lane);
  void GiveUp(const OperationPtr& operation, const Error& cause);
  void End(const OperationPtr& operation, Status status);
  void CloseNow();

  const std::shared_ptr<const CudaPathContext> shared_;
  const CudaPathContext& context_;
  const std::shared_ptr<const PeerInfo> peer_;
  const bool same_host_;
  CallGate gate_;
  PeerMemory opened_;
  std::atomic<bool> way_refused_ = false;  // no handle of this peer can be opened
  CostModel opened_cost_;
  CostModel staged_cost_;
  std::mutex queues_mutex_;
  std::vector<std::unique_ptr<CopyQueue>> queues_;  // guarded by queues_mutex_; not in use
  std::atomic<std::size_t> lane_count_ = 0;
  // Control loop.
  bool preparing_ = false;
  std::vector<std::shared_ptr<OneShot<bool>>> waiting_;
  // Data loop.
  bool closed_ = false;
  std::vector<LanePtr> lanes_;
  std::deque<OperationPtr> queue_;        // waiting for a lane
  std::vector<OperationPtr> operations_;  // not yet reported
};

}  // namespace mooncake::cuda
