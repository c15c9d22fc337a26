#include "wire/rpc.h"

#include <fmt/format.h>
#include <google/protobuf/message_lite.h>

#include <algorithm>

#include "base/log.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr std::size_t kFramesPerWriteMax = 64;

std::uint32_t BudgetMs(Instant deadline, Instant now) {
  if (deadline == kNever) return 0;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 1, UINT32_MAX));
}

}  // namespace

Reply MakeReply(const google::protobuf::MessageLite& message) {
  return {message.SerializeAsString(), {}};
}

bool Parse(const std::string& body, google::protobuf::MessageLite& message) {
  return message.ParseFromString(body);
}

void RpcCall::OnCancel(std::function<void()> call) {
  if (cancelled_) {
    call();
  } else {
    on_cancel_ = std::move(call);
  }
}

void RpcCall::Cancel() {
  if (cancelled_) return;
  cancelled_ = true;
  if (timer_) timer_->Cancel();
  if (on_cancel_) std::exchange(on_cancel_, nullptr)();
}

const Identity& RpcCall::peer() const noexcept { return connection_->peer(); }

Task<Status> RpcCall::Send(Reply item) {
  if (cancelled_) co_return Fail(ErrorId::kCancelled, "nobody waits for this answer");
  const std::shared_ptr<RpcConnection> connection = connection_;
  const Status room = co_await connection->WaitForRoom();
  if (!room) co_return Fail(room.error());
  if (cancelled_) co_return Fail(ErrorId::kCancelled, "nobody waits for this answer");
  FrameHeader header;
  header.kind = FrameKind::kItem;
  header.id = id_;
  connection->Enqueue(header, std::move(item.body), std::move(item.payload));
  co_return Status{};
}

const RpcHandler* RpcRouter::Find(std::uint16_t method) const {
  const auto found = handlers_.find(method);
  return found == handlers_.end() ? nullptr : &found->second;
}

RpcConnection::RpcConnection(World& world, Executor executor, Handshake handshake,
                             const RpcRouter& router, RpcLimits limits)
    : world_(world),
      executor_(std::move(executor)),
      handshake_(std::move(handshake)),
      stream_(handshake_.reader->shared_stream()),
      router_(router),
      limits_(limits),
      last_heard_(world.clock.Now()),
      ping_timer_(world.clock.MakeTimer(executor_)) {}

RpcConnection::~RpcConnection() { stream_->Close(); }

void RpcConnection::Start() {
  const auto self = shared_from_this();
  Spawn(executor_,
        [](std::shared_ptr<RpcConnection> me) -> Task<void> { co_await me->ReadLoop(); }(self));
  Spawn(executor_,
        [](std::shared_ptr<RpcConnection> me) -> Task<void> { co_await me->WriteLoop(); }(self));
  Tick();
}

void RpcConnection::Tick() {
  if (closed_) return;
  const Instant now = world_.clock.Now();
  if (now - last_heard_ >= limits_.dead_after) {
    Close(Error{ErrorId::kConnectionClosed,
                fmt::format("{} has been silent for {:.0f} s", Describe(peer()),
                            std::chrono::duration<double>(now - last_heard_).count())});
    return;
  }
  if (now - last_heard_ >= limits_.ping_interval) {
    FrameHeader ping;
    ping.kind = FrameKind::kPing;
    Enqueue(ping, {});
  }
  ping_timer_->At(After(now, limits_.ping_interval), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Tick();
  });
}

std::optional<Duration> RpcConnection::Silence() const {
  const Duration silence = world_.clock.Now() - last_heard_;
  if (silence < limits_.suspect_after) return std::nullopt;
  return silence;
}

void RpcConnection::OnClose(std::function<void(const Error&)> call) {
  if (closed_) {
    call(*cause_);
  } else {
    on_close_.push_back(std::move(call));
  }
}

void RpcConnection::Close(const Error& cause) {
  if (closed_) return;
  const auto self = weak_from_this().lock();  // a callback may drop the last reference
  closed_ = true;
  cause_ = cause;
  ping_timer_->Cancel();
  stream_->Close();
  queue_filled_.Notify();
  for (const auto& room : std::exchange(waiting_for_room_, {})) room->Set(false);
  for (auto& [id, pending] : std::exchange(pending_, {})) pending->answer.Set(Fail(cause));
  for (auto& [id, call] : std::exchange(serving_, {})) call->Cancel();
  for (const auto& call : std::exchange(on_close_, {})) call(cause);
}

Task<void> RpcConnection::ReadLoop() {
  const auto self = shared_from_this();
  while (!closed_) {
    Result<Frame> frame = co_await handshake_.reader->ReadFrame();
    if (!frame) {
      Close(Within(Describe(peer()), frame.error()));
      co_return;
    }
    last_heard_ = world_.clock.Now();
    Dispatch(std::move(*frame));
  }
}

Task<void> RpcConnection::WriteLoop() {
  const auto self = shared_from_this();
  std::vector<Outgoing> batch;
  std::vector<FrameHeaderBytes> headers;
  std::vector<Bytes> buffers;
  while (!closed_) {
    if (queue_.empty()) {
      co_await queue_filled_.Wait();
      continue;
    }
    batch.clear();
    headers.clear();
    buffers.clear();
    while (!queue_.empty() && batch.size() < kFramesPerWriteMax) {
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    std::size_t bytes = 0;
    headers.reserve(batch.size());
    for (const Outgoing& frame : batch) {
      buffers.emplace_back(headers.emplace_back(Encode(frame.header)));
      if (!frame.body.empty()) buffers.push_back(AsBytes(frame.body));
      if (!frame.payload.empty()) buffers.emplace_back(frame.payload);
      bytes += frame.body.size() + frame.payload.size();
    }
    const Status written = co_await stream_->Write(buffers);
    queued_bytes_ -= bytes;
    if (!written) {
      Close(Within(Describe(peer()), written.error()));
      co_return;
    }
    if (queued_bytes_ < limits_.queued_bytes_max) {
      for (const auto& room : std::exchange(waiting_for_room_, {})) room->Set(true);
    }
  }
}

Task<Status> RpcConnection::WaitForRoom() {
  while (!closed_ && queued_bytes_ >= limits_.queued_bytes_max) {
    const auto room = std::make_shared<OneShot<bool>>();
    waiting_for_room_.push_back(room);
    co_await room->Get();
  }
  if (closed_) co_return Fail(*cause_);
  co_return Status{};
}

void RpcConnection::Enqueue(FrameHeader header, std::string body, std::vector<std::byte> payload) {
  if (closed_) return;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  MC_ASSERT(body.size() <= kBodyBytesMax);
  MC_ASSERT(payload.size() <= kPayloadBytesMax);
  queued_bytes_ += body.size() + payload.size();
  queue_.push_back({header, std::move(body), std::move(payload)});
  queue_filled_.Notify();
}

void RpcConnection::EnqueueFailure(std::uint64_t id, const Error& error) {
  FrameHeader header;
  header.kind = FrameKind::kFailure;
  header.id = id;
  Enqueue(header, ToProto(error).SerializeAsString());
}

void RpcConnection::Dispatch(Frame frame) {
  const std::uint64_t id = frame.header.id;
  switch (frame.header.kind) {
    case FrameKind::kRequest:
      Serve(std::move(frame));
      return;
    case FrameKind::kPing: {
      FrameHeader pong;
      pong.kind = FrameKind::kPong;
      pong.id = id;
      Enqueue(pong, {});
      return;
    }
    case FrameKind::kPong:
      return;
    case FrameKind::kCancel:
      if (const auto found = serving_.find(id); found != serving_.end()) found->second->Cancel();
      return;
    case FrameKind::kReply:
    case FrameKind::kFailure:
    case FrameKind::kItem: {
      const auto found = pending_.find(id);
      if (found == pending_.end()) return;  // its caller gave up before
      const std::shared_ptr<Pending> pending = found->second;
      if (frame.header.kind == FrameKind::kItem) {
        if (!pending->on_item ||
            pending->on_item({std::move(frame.body), std::move(frame.payload)}))
          return;
        FrameHeader cancel;
        cancel.kind = FrameKind::kCancel;
        cancel.id = id;
        Enqueue(cancel, {});
        pending->answer.Set(Fail(ErrorId::kCancelled, "the caller wants no more items"));
      } else if (frame.header.kind == FrameKind::kReply) {
        pending->answer.Set(Reply{std::move(frame.body), std::move(frame.payload)});
      } else {
        pb::Failure failure;
        if (!failure.ParseFromString(frame.body))
          failure.set_context("a failure that cannot be read");
        pending->answer.Set(Fail(FromProto(failure)));
      }
      return;
    }
    default:
      Close(Error{ErrorId::kBadFrame,
                  fmt::format("{} sent a frame of kind {} on an RPC connection", Describe(peer()),
                              static_cast<int>(frame.header.kind))});
  }
}

void RpcConnection::Serve(Frame frame) {
  const std::uint64_t id = frame.header.id;
  const RpcHandler* const handler = router_.Find(frame.header.method);
  if (handler == nullptr) {
    EnqueueFailure(id,
                   Error{ErrorId::kUnknownMethod, fmt::format("method {}", frame.header.method)});
    return;
  }
  if (serving_.size() >= limits_.requests_in_flight_max ||
      queued_bytes_ >= limits_.queued_bytes_max) {
    EnqueueFailure(id,
                   Error{ErrorId::kPeerBusy,
                         fmt::format("{} calls in progress on this connection", serving_.size())});
    return;
  }
  if (serving_.contains(id)) {
    Close(Error{ErrorId::kBadFrame,
                fmt::format("{} used the call id {} twice at once", Describe(peer()), id)});
    return;
  }
  const auto call = std::make_shared<RpcCall>();
  call->connection_ = shared_from_this();
  call->id_ = id;
  if (frame.header.budget_ms > 0) {
    call->deadline_ = After(world_.clock.Now(), std::chrono::milliseconds(frame.header.budget_ms));
    call->timer_ = world_.clock.MakeTimer(executor_);
    call->timer_->At(call->deadline_, [weak = std::weak_ptr<RpcCall>(call)] {
      if (const auto late = weak.lock()) late->Cancel();
    });
  }
  serving_.emplace(id, call);
  Spawn(executor_, RunHandler(call, *handler, std::move(frame)));
}

Task<void> RpcConnection::RunHandler(std::shared_ptr<RpcCall> call, const RpcHandler& handler,
                                     Frame frame) {
  const auto self = call->connection_;
  Result<Reply> result = co_await handler(*call, std::move(frame));
  serving_.erase(call->id_);
  call->on_cancel_ = nullptr;
  if (closed_) co_return;
  if (!result) {
    EnqueueFailure(call->id_, result.error());
    co_return;
  }
  FrameHeader header;
  header.kind = FrameKind::kReply;
  header.id = call->id_;
  Enqueue(header, std::move(result->body), std::move(result->payload));
}

Task<Result<Reply>> RpcConnection::Call(Method method, std::string body, Instant deadline,
                                        std::vector<std::byte> payload) {
  auto call = CallStream(method, std::move(body), deadline, std::move(payload), nullptr);
  co_return co_await std::move(call);
}

Task<Result<Reply>> RpcConnection::CallStream(Method method, std::string body, Instant deadline,
                                              std::vector<std::byte> payload,
                                              std::function<bool(Reply)> on_item) {
  const auto self = shared_from_this();
  if (closed_) co_return Fail(*cause_);
  if (body.size() > kBodyBytesMax || payload.size() > kPayloadBytesMax) {
    co_return Fail(ErrorId::kFrameTooLarge,
                   fmt::format("a request of {} + {} bytes", body.size(), payload.size()));
  }
  if (queued_bytes_ >= limits_.queued_bytes_max) {
    co_return Fail(ErrorId::kPeerBusy,
                   fmt::format("{} bytes wait to be sent to {}", queued_bytes_, Describe(peer())));
  }
  const Instant now = world_.clock.Now();
  if (deadline <= now) co_return Fail(ErrorId::kDeadline, "before the call to " + Describe(peer()));
  const std::uint64_t id = next_id_++;
  const auto pending = std::make_shared<Pending>();
  pending->on_item = std::move(on_item);
  if (deadline != kNever) {
    pending->timer = world_.clock.MakeTimer(executor_);
    pending->timer->At(deadline, [weak = weak_from_this(), pending, id] {
      const auto connection = weak.lock();
      if (!connection) return;
      const std::optional<Duration> silence = connection->Silence();
      std::string context = "no answer from " + Describe(connection->peer());
      if (silence)
        context +=
            fmt::format(", silent for {:.1f} s", std::chrono::duration<double>(*silence).count());
      if (pending->answer.Set(Fail(ErrorId::kDeadline, std::move(context)))) {
        FrameHeader cancel;
        cancel.kind = FrameKind::kCancel;
        cancel.id = id;
        connection->Enqueue(cancel, {});
      }
    });
  }
  pending_.emplace(id, pending);
  FrameHeader header;
  header.kind = FrameKind::kRequest;
  header.method = static_cast<std::uint16_t>(method);
  header.id = id;
  header.budget_ms = BudgetMs(deadline, now);
  Enqueue(header, std::move(body), std::move(payload));
  Result<Reply> answer = co_await pending->answer.Get();
  if (pending->timer) pending->timer->Cancel();
  pending->timer.reset();  // its callback holds `pending`: break the circle
  pending->on_item = nullptr;
  pending_.erase(id);
  co_return answer;
}

}  // namespace mooncake
