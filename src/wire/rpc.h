// Remote calls over one connection: many at a time, each with a deadline, cancellable, answered
// once or item by item. Everything here happens on the connection's loop.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/metrics.h"
#include "base/world.h"
#include "wire/frame.h"
#include "wire/handshake.h"

namespace google::protobuf {
class MessageLite;
}

namespace mooncake {

/// Numbers on the wire: never reused.
enum class Method : std::uint16_t {
  kListRegions = 1,
  kForgetRegions = 2,
  kNotify = 3,
  kEndTransfers = 4,
  kRdmaConnect = 8,
  kRdmaDisconnect = 9,
  kRdmaKeys = 10,
  kRdmaDevice = 11,
  kRdmaPark = 12,
  kCudaExport = 13,  ///< On connections of the purpose "cuda".
  kRegister = 16,
  kWithdraw = 17,
  kListRecords = 18,
  kStatus = 32,
  kProbe = 48,
  kPrefill = 49,
  kGenerate = 50,
  kBench = 64,
};

struct Reply {
  std::string body;
  std::vector<std::byte> payload;
};
[[nodiscard]] Reply MakeReply(const google::protobuf::MessageLite& message);
[[nodiscard]] bool Parse(const std::string& body, google::protobuf::MessageLite& message);

/// Upper bounds of one connection.
struct RpcLimits {
  std::size_t requests_in_flight_max = 1024;  ///< Served at once; more are refused with kPeerBusy.
  std::size_t queued_bytes_max =
      32 << 20;  ///< Waiting to be written; calls beyond are refused with kPeerBusy.
  Duration ping_interval = std::chrono::seconds(2);
  Duration suspect_after =
      std::chrono::seconds(5);  ///< Silence that long is shown, and changes nothing else.
  Duration dead_after = std::chrono::seconds(60);  ///< Silence that long ends the connection.
};

class RpcConnection;

/// What a handler knows of the call it serves. Lives as long as the handler's coroutine.
class RpcCall {
 public:
  [[nodiscard]] Instant deadline() const noexcept { return deadline_; }
  /// The caller cancelled, its deadline passed, or the connection broke: nobody waits for the
  /// answer.
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_; }
  /// Called once when that happens; replaced by a second call.
  void OnCancel(std::function<void()> call);
  /// One of several answers. Waits while the connection's queue is full. kCancelled,
  /// kConnectionClosed.
  [[nodiscard]] Task<Status> Send(Reply item);
  [[nodiscard]] const Identity& peer() const noexcept;
  [[nodiscard]] const std::shared_ptr<RpcConnection>& connection() const noexcept {
    return connection_;
  }

 private:
  friend class RpcConnection;
  std::shared_ptr<RpcConnection> connection_;
  std::uint64_t id_ = 0;
  Instant deadline_ = kNever;
  bool cancelled_ = false;
  std::function<void()> on_cancel_;
  std::unique_ptr<Timer> timer_;
  void Cancel();
};

using RpcHandler = std::function<Task<Result<Reply>>(RpcCall& call, Frame request)>;

/// Which handler serves which method. Filled before the first connection, then only read.
class RpcRouter {
 public:
  void Add(Method method, RpcHandler handler) {
    handlers_[static_cast<std::uint16_t>(method)] = std::move(handler);
  }
  [[nodiscard]] const RpcHandler* Find(std::uint16_t method) const;

 private:
  std::unordered_map<std::uint16_t, RpcHandler> handlers_;
};

class RpcConnection : public std::enable_shared_from_this<RpcConnection> {
 public:
  /// `router` outlives the connection. Start() once, right after.
  RpcConnection(World& world, Executor executor, Handshake handshake, const RpcRouter& router,
                RpcLimits limits);
  ~RpcConnection();
  void Start();

  /// Errors: what the peer's handler failed with, kDeadline, kConnectionClosed, kPeerBusy, kClosed.
  [[nodiscard]] Task<Result<Reply>> Call(Method method, std::string body, Instant deadline,
                                         std::vector<std::byte> payload = {});
  /// As Call; `on_item` sees each item in order. It returns false to cancel the call (kCancelled).
  [[nodiscard]] Task<Result<Reply>> CallStream(Method method, std::string body, Instant deadline,
                                               std::vector<std::byte> payload,
                                               std::function<bool(Reply)> on_item);
  /// Ends every call in flight, ours with `cause`, and the connection. Idempotent.
  void Close(const Error& cause);
  [[nodiscard]] bool is_open() const noexcept { return !closed_; }
  /// Called once when the connection ends, with the cause.
  void OnClose(std::function<void(const Error&)> call);
  [[nodiscard]] const Identity& peer() const noexcept { return handshake_.peer; }
  [[nodiscard]] const Handshake& handshake() const noexcept { return handshake_; }
  [[nodiscard]] Endpoint remote() const { return stream_->remote(); }
  /// Since when the peer has said nothing, if that is longer than RpcLimits::suspect_after.
  [[nodiscard]] std::optional<Duration> Silence() const;

 private:
  friend class RpcCall;
  struct Pending {
    OneShot<Result<Reply>> answer;
    std::function<bool(Reply)> on_item;
    std::unique_ptr<Timer> timer;
  };
  struct Outgoing {
    FrameHeader header;
    std::string body;
    std::vector<std::byte> payload;
  };
  Task<void> ReadLoop();
  Task<void> WriteLoop();
  void Tick();
  void Dispatch(Frame frame);
  void Serve(Frame frame);
  Task<void> RunHandler(std::shared_ptr<RpcCall> call, const RpcHandler& handler, Frame frame);
  void Enqueue(FrameHeader header, std::string body, std::vector<std::byte> payload = {});
  void EnqueueFailure(std::uint64_t id, const Error& error);
  Task<Status> WaitForRoom();

  World& world_;
  Executor executor_;
  Handshake handshake_;
  std::shared_ptr<Stream> stream_;
  const RpcRouter& router_;
  RpcLimits limits_;
  bool closed_ = false;
  std::vector<std::function<void(const Error&)>> on_close_;
  std::optional<Error> cause_;
  std::uint64_t next_id_ = 1;
  std::unordered_map<std::uint64_t, std::shared_ptr<Pending>> pending_;
  std::unordered_map<std::uint64_t, std::shared_ptr<RpcCall>> serving_;
  std::deque<Outgoing> queue_;
  std::size_t queued_bytes_ = 0;
  Signal queue_filled_;
  std::vector<std::shared_ptr<OneShot<bool>>> waiting_for_room_;
  Instant last_heard_;
  std::unique_ptr<Timer> ping_timer_;
};

}  // namespace mooncake
