// The initiator's side of TCP: cuts transfers into frames, sends them over the lanes to one peer,
// and completes a transfer when all its frames are acknowledged.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/metrics.h"
#include "memory/copy.h"
#include "transport/tcp/tcp_caller_lane.h"
#include "transport/tcp/tcp_transport.h"
#include "transport/transfer_check.h"
#include "wire/frame.h"

namespace mooncake {

class TcpPath final : public Path, public std::enable_shared_from_this<TcpPath> {
 public:
  TcpPath(World& world, std::shared_ptr<const PeerInfo> peer, const CopyEngine& copy,
          const TcpOptions& options, Counter& sent_bytes, Counter& received_bytes);

  /// Connections for calling threads. Before the path is used.
  void SetCallerLanes(std::vector<std::unique_ptr<TcpCallerLane>> lanes) {
    caller_lanes_ = std::move(lanes);
  }
  /// Called when a transfer that was given up half-way has taken a connection with it, of calling
  /// threads (then with that lane) or of the data loop (null). Any thread. Before the path is used.
  void OnLaneLost(std::function<void(TcpCallerLane*)> call) { on_lane_lost_ = std::move(call); }
  /// A connection over which the peer has agreed to carry data. On the data loop.
  void AddLane(std::unique_ptr<BufferedReader> reader);
  /// The same for a lane of this path that was lost. Any thread but the callers' own.
  void Revive(TcpCallerLane& lane, std::unique_ptr<ThreadStream> stream);
  /// Nothing can be sent over it any more. Any thread.
  [[nodiscard]] bool is_closed() const noexcept { return ended_; }

  std::optional<Duration> Estimate(const Transfer& transfer) const override;
  bool IsPrepared(const Transfer&) const override { return true; }
  Task<Status> Prepare(TransferNeeds, Instant) override { co_return Status{}; }
  bool is_synchronous() const noexcept override { return false; }
  bool MayRun(const Transfer& transfer) const noexcept override;
  Status Run(const Transfer& transfer) override;
  void Start(const Transfer& transfer, std::function<void(Status)> done) override;
  void EndCancelled() override;
  void Forget(RegionId) override {}  // the peer checks its own table at each frame
  void Close() noexcept override;

 private:
  // A transfer on its way. It is finished once it has an outcome; it is reported once, after that,
  // nothing touches its memory any more (io == 0).
  struct Operation {
    const Transfer* transfer;
    std::function<void(Status)> done;
    Instant begun;
    std::unique_ptr<Timer> timer;
    FrameCursor cursor;
    std::size_t frames = 0;  // sent, unanswered
    std::size_t io = 0;      // lanes that read or write its memory right now
    std::optional<Status> outcome;
    [[nodiscard]] bool all_sent() const { return cursor.AtEnd(*transfer); }
  };
  using OperationPtr = std::shared_ptr<Operation>;
  struct Pending {
    OperationPtr operation;
    Direction direction;
    std::vector<MutableBytes> local;  // where a read's bytes go
  };
  struct Lane {
    explicit Lane(std::unique_ptr<BufferedReader> r) : reader(std::move(r)) {}
    std::unique_ptr<BufferedReader> reader;
    std::map<std::uint64_t, Pending> pending;
    std::uint64_t next_id = 1;
    Signal wake;
    bool open = true;
    // Whose memory this lane reads and writes right now.
    const Operation* sending = nullptr;
    const Operation* receiving = nullptr;
    OutgoingFrame frame;  // that is being sent
    std::vector<std::byte> receive_staging;
  };
  using LanePtr = std::shared_ptr<Lane>;

  Task<void> SendLoop(LanePtr lane);
  Task<void> ReceiveLoop(LanePtr lane);
  Task<Status> ReceiveData(Lane& lane, const FrameHeader& header);
  Task<Status> ReceiveFailure(Lane& lane, const FrameHeader& header);
  Task<Status> ReceiveOne(Lane& lane);
  [[nodiscard]] OperationPtr NextToSend();
  void Answered(const OperationPtr& operation, Status status);
  void Finish(const OperationPtr& operation, Status status);
  void Report(const OperationPtr& operation);
  void CloseLane(const LanePtr& lane, const Error& cause);
  void WakeLanes();
  void CloseNow(const Error& cause);

  World& world_;
  std::shared_ptr<const PeerInfo> peer_;
  CopyEngine copy_;
  TcpOptions options_;
  Counter& sent_bytes_;
  Counter& received_bytes_;
  std::function<void(TcpCallerLane*)> on_lane_lost_;
  std::atomic<bool> ended_ = false;
  std::vector<std::unique_ptr<TcpCallerLane>> caller_lanes_;
  CallGate callers_;
  std::vector<LanePtr> lanes_;
  CostModel cost_;
  std::deque<OperationPtr> queue_;        // with slices left to send, in order of arrival
  std::vector<OperationPtr> operations_;  // not yet reported, in order of arrival
  std::optional<Error> closed_;
};

}  // namespace mooncake
