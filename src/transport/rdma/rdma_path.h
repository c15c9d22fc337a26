// All rails to one peer: cuts transfers into pieces, posts each where it will be done first, and
// sends again what a broken rail has not completed.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "base/light_mutex.h"
#include "base/metrics.h"
#include "transport/rdma/rdma_link.h"
#include "transport/rdma/request_poster.h"
#include "transport/transfer_check.h"

namespace mooncake::rdma {

struct RdmaCounters {
  Counter& sent_bytes;
  Counter& received_bytes;
  Counter& resent_pieces;
  Counter& broken_rails;
  Counter& sent_messages;
};

class RdmaPath final : public Path, public std::enable_shared_from_this<RdmaPath> {
 public:
  RdmaPath(World& world, std::shared_ptr<const PeerInfo> peer, std::shared_ptr<RdmaLink> link,
           std::shared_ptr<RdmaMemory> memory, RdmaCounters counters, double nanoseconds_per_byte);

  /// What is called when a rail has gone, once its pieces are elsewhere. Any thread. Before the
  /// path is used.
  void OnRailLost(std::function<void()> call) { on_rail_lost_ = std::move(call); }
  /// A rail that has been proven. Any thread.
  void AddRail(std::unique_ptr<Rail> rail);
  /// Why a device here has no rail, as far as is known. Any thread.
  void SetMissing(const RdmaDevice& device, std::string reason);
  /// Gives its queue pairs back until the next transfer, if nothing is on its way. Any thread.
  bool Park();
  /// How a parked path gets its rails again. Before the path is used.
  void OnUnpark(std::function<Task<Status>(Instant deadline)> call) { unpark_ = std::move(call); }
  /// When the last transfer began. Any thread.
  [[nodiscard]] Instant last_used() const noexcept { return last_used_.load(); }
  /// Breaks the rails over a device here, or over one of the peer's. Any thread.
  void BreakRailsOf(const RdmaDevice& device, const std::string& reason);
  void BreakRailsTo(std::size_t peer_device, const std::string& reason);
  /// Whether a rail leaves this device. Any thread.
  [[nodiscard]] bool HasRailFrom(const RdmaDevice& device) const;
  /// A completion queue of it has something. On the data loop.
  void OnCompletion();
  [[nodiscard]] bool is_closed() const noexcept { return closed_.load(); }
  [[nodiscard]] bool has_rails() const;
  // For whoever connects its rails, on the control loop: the ranks of devices here.
  std::set<std::size_t> in_repair;
  std::set<std::size_t> connecting;
  [[nodiscard]] const std::shared_ptr<const PeerInfo>& peer() const noexcept { return peer_; }
  [[nodiscard]] const std::shared_ptr<RdmaLink>& link() const noexcept { return link_; }

  std::optional<Duration> Estimate(const Transfer& transfer) const override;
  bool IsPrepared(const Transfer& transfer) const override;
  Task<Status> Prepare(TransferNeeds needs, Instant deadline) override;
  bool is_synchronous() const noexcept override { return false; }
  bool MayRun(const Transfer&) const noexcept override { return true; }
  Status Run(const Transfer& transfer) override;
  std::optional<Status> TryRun(const Transfer& transfer) override;
  void Start(const Transfer& transfer, std::function<void(Status)> done) override;
  void EndCancelled() override;
  bool Send(std::string_view message, std::function<void(bool taken)> answered) override;
  void Forget(RegionId region) override;
  std::string Describe() const override;
  void Close() noexcept override;

 private:
  using Lock = LightLock;
  void Begin(const OperationPtr& operation, Instant now, const Lock& lock);
  [[nodiscard]] Lane LaneFor(const Transfer& transfer, const Lock& lock) const noexcept;
  /// All of it is still to be posted.
  void LeaveAll(Operation& operation, const Lock& lock);
  void Spin(const Operation& operation);
  /// Asleep, not far beyond its deadline.
  void AwaitEnd(Operation& operation);
  template <class IsOver>
  bool Sleep(IsOver is_over, Instant until, const Lock& lock);
  /// A turn: posts what there is room for, polls, reports what has ended, and posts into the room
  /// that this made. `now` may have been looked at already.
  void Progress(const Lock& lock, Instant now = {});
  void Poll(const Lock& lock);
  void PostAll(const Lock& lock);
  void PostAllOn(Lane lane, const Lock& lock);
  [[nodiscard]] bool PostNext(Operation& operation, const Lock& lock);
  [[gnu::cold]] void Break(std::size_t place, const std::string& reason, const Lock& lock);
  void Confirm(std::uint64_t rail, std::vector<OperationPtr> touched);
  void Settle(Operation& operation, Status status, const Lock& lock);
  void ReportIfEnded(Operation& operation, const Lock& lock);
  /// Its deadline has passed: nothing more of it is posted.
  [[gnu::cold]] void Expire(Operation& operation, const Lock& lock);
  /// What is posted of it ends now, with the rails that carry it.
  [[gnu::cold]] void Tear(const Operation& operation, const Lock& lock);
  /// Whether anything is on its way.
  [[nodiscard]] bool IsAwaited(const Lock& lock) const;
  void LeaveToEvents(const Lock& lock);
  void Watch();
  void Look();
  [[gnu::cold]] void FailAll(const Error& cause, const Lock& lock);
  void BreakLate(const Lock& lock);
  [[gnu::cold]] void Blame(const Piece& culprit, ibv_wc_status status, const Lock& lock);

  World& world_;
  const std::shared_ptr<const PeerInfo> peer_;
  const std::shared_ptr<RdmaLink> link_;
  PathRegions regions_;
  const RdmaCounters counters_;
  std::function<void()> on_rail_lost_;
  std::function<Task<Status>(Instant)> unpark_;
  CostModel cost_;
  std::atomic<std::int64_t> round_trip_;  // nanoseconds that short transfers take
  std::atomic<unsigned> short_transfers_ = 0;
  std::atomic<Instant> last_used_;
  std::atomic<bool> parked_ = false;  // written under mutex_
  std::atomic<bool> closed_ = false;
  CallGate callers_;
  mutable LightMutex mutex_;
  RailGroup rails_;                    // guarded by mutex_
  OperationList operations_;           // guarded by mutex_
  TurnClock turn_;                     // guarded by mutex_
  RequestPoster poster_;               // guarded by mutex_
  std::condition_variable_any ended_;  // an operation has been reported
  std::size_t sleepers_ = 0;           // guarded by mutex_; who wait for that
  unsigned short_ended_ = 0;           // guarded by mutex_
  bool some_left_ = false;             // guarded by mutex_; an operation may have something to post
  std::optional<Error> failure_;       // guarded by mutex_; set: closed
  std::atomic<bool> watching_ = false;
  std::unique_ptr<Timer> watch_;           // data loop
  std::atomic<bool> some_cannot_ = false;  // a region was found that no rail can carry
};

}  // namespace mooncake::rdma
