#include "transport/tcp/tcp_path.h"

#include <fmt/format.h>

#include "base/log.h"
#include "transport/data_frames.h"
#include "wire/handshake.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kRoundTrip = std::chrono::microseconds(80);  // both sides are woken
constexpr double kNanosecondsPerRange = 60;
constexpr double kNanosecondsPerByte = 0.3;  // over loopback
// Between hosts a network card is the limit. Where RDMA goes over the same one it is to come first,
// until it is measured to be slower: it takes the bytes without the processors.
constexpr double kNanosecondsPerByteBetweenHosts = 1;

bool IsCancelled(const Transfer& transfer) noexcept {
  return transfer.cancelled != nullptr && *transfer.cancelled;
}

}  // namespace

TcpPath::TcpPath(World& world, std::shared_ptr<const PeerInfo> peer, const CopyEngine& copy,
                 const TcpOptions& options, Counter& sent_bytes, Counter& received_bytes)
    : world_(world),
      peer_(std::move(peer)),
      copy_(copy),
      options_(options),
      sent_bytes_(sent_bytes),
      received_bytes_(received_bytes),
      cost_(kRoundTrip, kNanosecondsPerRange,
            IsSameHost(world.network.host(), peer_->host) ? kNanosecondsPerByte
                                                          : kNanosecondsPerByteBetweenHosts) {}

void TcpPath::AddLane(std::unique_ptr<BufferedReader> reader) {
  const auto lane = std::make_shared<Lane>(std::move(reader));
  if (closed_) {
    lane->reader->stream().Close();
    return;
  }
  lanes_.push_back(lane);
  const auto self = shared_from_this();
  Spawn(world_.data, [](std::shared_ptr<TcpPath> me, LanePtr l) -> Task<void> {
    co_await me->SendLoop(l);
  }(self, lane));
  Spawn(world_.data, [](std::shared_ptr<TcpPath> me, LanePtr l) -> Task<void> {
    co_await me->ReceiveLoop(l);
  }(self, lane));
}

std::optional<Duration> TcpPath::Estimate(const Transfer& transfer) const {
  if (transfer.on_gpu) return std::nullopt;
  return cost_.Estimate(transfer);
}

bool TcpPath::MayRun(const Transfer&) const noexcept {
  for (const auto& lane : caller_lanes_) {
    if (!lane->usable() || !lane->turn.try_lock()) continue;
    lane->turn.unlock();
    return true;
  }
  return false;
}

Status TcpPath::Run(const Transfer& transfer) {
  const CallGate::Pass pass(callers_);
  MC_TRY_STATUS(CheckTransfer(transfer, *peer_->regions));
  std::unique_lock<std::mutex> turn;
  TcpCallerLane* mine = nullptr;
  for (const auto& lane : caller_lanes_) {
    if (!lane->usable()) continue;
    mine = lane.get();
    turn = std::unique_lock(lane->turn, std::try_to_lock);
    if (turn) break;
  }
  if (mine != nullptr && !turn) turn = std::unique_lock(mine->turn);
  if (callers_.closed() || mine == nullptr || !mine->usable())
    return Fail(ErrorId::kPathFailed, "the path is closed");
  const bool observe = CostModel::IsWorthObserving(transfer);
  const Instant begin = observe ? world_.clock.Now() : Instant{};
  Status status = mine->Run(transfer, *peer_->regions);
  if (!mine->usable()) on_lane_lost_(mine);
  if (status) {
    if (observe) cost_.Observe(transfer, world_.clock.Now() - begin);
    (transfer.direction == Direction::kWrite ? sent_bytes_ : received_bytes_)
        .Add(transfer.total_bytes);
  }
  return status;
}

void TcpPath::Start(const Transfer& transfer, std::function<void(Status)> done) {
  const auto operation = std::make_shared<Operation>();
  operation->transfer = &transfer;
  operation->done = std::move(done);
  operation->begun = world_.clock.Now();
  operations_.push_back(operation);
  operation->cursor.SkipEmpty(transfer);
  if (closed_) return Finish(operation, Fail(*closed_));
  if (operation->all_sent()) return Finish(operation, {});
  if (transfer.deadline != kNever) {
    operation->timer = world_.clock.MakeTimer(world_.data);
    operation->timer->At(transfer.deadline, [this, weak = std::weak_ptr<Operation>(operation)] {
      if (const auto late = weak.lock()) {
        Finish(late,
               Fail(ErrorId::kDeadline,
                    fmt::format("{} of {} slices were sent to {} over tcp", late->cursor.slice,
                                late->transfer->slices.size(), peer_->label)));
      }
    });
  }
  queue_.push_back(operation);
  WakeLanes();
}

void TcpPath::EndCancelled() {
  const std::vector<OperationPtr> operations = operations_;
  for (const OperationPtr& operation : operations) {
    if (!operation->outcome && IsCancelled(*operation->transfer))
      Finish(operation, Fail(ErrorId::kCancelled, {}));
  }
}

void TcpPath::WakeLanes() {
  for (const LanePtr& lane : lanes_) lane->wake.Notify();
}

TcpPath::OperationPtr TcpPath::NextToSend() {
  while (!queue_.empty()) {
    const OperationPtr operation = queue_.front();
    if (!operation->outcome && IsCancelled(*operation->transfer)) {
      Finish(operation, Fail(ErrorId::kCancelled, {}));
    }
    if (!operation->outcome && !operation->all_sent()) return operation;
    queue_.pop_front();
  }
  return nullptr;
}

Task<void> TcpPath::SendLoop(LanePtr lane) {
  const auto self = shared_from_this();
  while (lane->open) {
    const OperationPtr operation =
        lane->pending.size() < options_.frames_in_flight ? NextToSend() : nullptr;
    if (!operation) {
      co_await lane->wake.Wait();
      continue;
    }
    OutgoingFrame& frame = lane->frame;
    const Status built = CutFrame(*operation->transfer, *peer_->regions, copy_,
                                  options_.frame_bytes_max, operation->cursor, frame);
    if (!built) {
      Finish(operation, built);
      continue;
    }
    frame.header.id = lane->next_id++;
    operation->frames += 1;
    operation->io += 1;
    lane->sending = operation.get();
    lane->pending.emplace(frame.header.id, Pending{operation, operation->transfer->direction,
                                                   std::move(frame.local)});
    const FrameHeaderBytes header = Encode(frame.header);
    std::vector<Bytes> buffers = {Bytes(header), AsBytes(frame.body)};
    buffers.insert(buffers.end(), frame.payload.begin(), frame.payload.end());
    const Status written = co_await lane->reader->stream().Write(buffers);
    operation->io -= 1;
    lane->sending = nullptr;
    if (written && frame.header.kind == FrameKind::kWrite) sent_bytes_.Add(frame.payload_bytes);
    if (!written) CloseLane(lane, written.error());
    Report(operation);
  }
}

Task<void> TcpPath::ReceiveLoop(LanePtr lane) {
  const auto self = shared_from_this();
  for (;;) {
    const Status received = co_await ReceiveOne(*lane);
    if (!received) {
      CloseLane(lane, received.error());
      co_return;
    }
    lane->wake.Notify();
  }
}

Task<Status> TcpPath::ReceiveOne(Lane& lane) {
  const Result<FrameHeader> header = co_await lane.reader->ReadHeader();
  if (!header) co_return Fail(header.error());
  switch (header->kind) {
    case FrameKind::kAck:
      while (!lane.pending.empty() && lane.pending.begin()->first <= header->id) {
        const Pending first = std::move(lane.pending.begin()->second);
        lane.pending.erase(lane.pending.begin());
        if (first.direction == Direction::kRead)
          co_return Fail(ErrorId::kBadFrame, "a read was acknowledged without bytes");
        Answered(first.operation, {});
      }
      co_return Status{};
    case FrameKind::kData:
      co_return co_await ReceiveData(lane, *header);
    case FrameKind::kDataFailure:
      co_return co_await ReceiveFailure(lane, *header);
    default:
      co_return Fail(ErrorId::kBadFrame, fmt::format("frame kind {} on a data connection",
                                                     static_cast<int>(header->kind)));
  }
}

Task<Status> TcpPath::ReceiveData(Lane& lane, const FrameHeader& header) {
  std::string text(header.body_bytes, '\0');
  const Status read = co_await lane.reader->ReadExact(
      MutableBytes(reinterpret_cast<std::byte*>(text.data()), text.size()));
  if (!read) co_return read;
  const Result<DataBody> body = DecodeDataBody(AsBytes(text));
  if (!body) co_return Fail(body.error());
  const auto found = lane.pending.find(header.id);
  if (found == lane.pending.end() || found->second.direction != Direction::kRead) {
    co_return Fail(ErrorId::kBadFrame, "bytes that nobody asked for");
  }
  const Pending pending = std::move(found->second);
  lane.pending.erase(found);
  std::uint64_t expected = 0;
  for (const MutableBytes range : pending.local) expected += range.size();
  if (header.payload_bytes != expected)
    co_return Fail(ErrorId::kBadFrame, "another number of bytes than asked for");

  const OperationPtr& operation = pending.operation;
  const bool wanted = !operation->outcome.has_value();
  const bool direct = wanted && expected >= kReceiveDirectBytesMin * pending.local.size();
  std::uint32_t crc = 0;
  Status received;
  if (direct) {
    operation->io += 1;
    lane.receiving = operation.get();
    std::vector<MutableBytes> into = pending.local;
    auto read_all = lane.reader->ReadExactV(into);
    received = co_await std::move(read_all);
    if (received) {
      for (const MutableBytes range : pending.local)
        crc = copy_.Crc32c(range.data(), range.size(), crc);
    }
    operation->io -= 1;
    lane.receiving = nullptr;
  } else {
    lane.receive_staging.resize(std::max<std::size_t>(lane.receive_staging.size(), expected));
    const MutableBytes staged = MutableBytes(lane.receive_staging).first(expected);
    received = co_await lane.reader->ReadExact(staged);
    if (received) crc = copy_.Crc32c(staged.data(), staged.size(), 0);
    if (received && crc == body->payload_crc32c && !operation->outcome) {
      const std::byte* from = staged.data();
      for (const MutableBytes range : pending.local) {
        copy_.Copy(range.data(), from, range.size());
        from += range.size();
      }
    }
  }
  if (!received) {
    Answered(operation, Fail(ErrorId::kPathFailed, received.error().context));
    co_return received;
  }
  received_bytes_.Add(expected);
  if (crc != body->payload_crc32c) {
    Answered(operation, Fail(ErrorId::kChecksum, "a frame of a TCP read from " + peer_->label));
  } else {
    Answered(operation, {});
  }
  co_return Status{};
}

Task<Status> TcpPath::ReceiveFailure(Lane& lane, const FrameHeader& header) {
  std::string text(header.body_bytes, '\0');
  const Status read = co_await lane.reader->ReadExact(
      MutableBytes(reinterpret_cast<std::byte*>(text.data()), text.size()));
  if (!read) co_return read;
  pb::Failure failure;
  if (header.payload_bytes != 0 || !failure.ParseFromString(text))
    co_return Fail(ErrorId::kBadFrame, "a failure that cannot be read");
  const auto found = lane.pending.find(header.id);
  if (found == lane.pending.end())
    co_return Fail(ErrorId::kBadFrame, "the failure of nothing that was asked");
  const OperationPtr operation = found->second.operation;
  lane.pending.erase(found);
  Answered(operation, Fail(Within(peer_->label, FromProto(failure))));
  co_return Status{};
}

void TcpPath::Answered(const OperationPtr& operation, Status status) {
  operation->frames -= 1;
  if (operation->outcome) {
    Report(operation);  // its transfer may be gone already
  } else if (!status) {
    Finish(operation, std::move(status));
  } else if (operation->frames == 0 && operation->all_sent()) {
    Finish(operation, {});
  } else {
    Report(operation);
  }
}

// Settles the outcome. A lane that is reading or writing the operation's memory is closed if it
// failed: nothing else ends that access in bounded time.
void TcpPath::Finish(const OperationPtr& operation, Status status) {
  if (!operation->outcome) {
    const bool failed = !status;
    operation->outcome = std::move(status);
    if (failed && operation->io > 0) {
      const std::vector<LanePtr> lanes = lanes_;
      for (const LanePtr& lane : lanes) {
        if (lane->sending == operation.get() || lane->receiving == operation.get()) {
          CloseLane(lane, Error{ErrorId::kPathFailed, "a transfer over it was given up half-way"});
        }
      }
    }
  }
  Report(operation);
}

void TcpPath::Report(const OperationPtr& operation) {
  if (!operation->outcome || operation->io > 0 || !operation->done) return;
  operation->timer = nullptr;
  const auto done = std::exchange(operation->done, nullptr);
  if (*operation->outcome && CostModel::IsWorthObserving(*operation->transfer)) {
    cost_.Observe(*operation->transfer, world_.clock.Now() - operation->begun);
  }
  std::erase(operations_, operation);
  done(std::move(*operation->outcome));
}

void TcpPath::CloseLane(const LanePtr& lane, const Error& cause) {
  if (!lane->open) return;
  lane->open = false;
  lane->reader->stream().Close();
  lane->wake.Notify();
  std::erase(lanes_, lane);
  const Error failed{ErrorId::kPathFailed,
                     fmt::format("tcp to {}: {}", peer_->label, cause.context), cause.os_error};
  for (const auto& [id, pending] : std::exchange(lane->pending, {})) {
    pending.operation->frames -= 1;
    Finish(pending.operation, Fail(failed));
  }
  if (lanes_.empty()) CloseNow(failed);
  if (!closed_) on_lane_lost_(nullptr);
}

void TcpPath::CloseNow(const Error& cause) {
  if (closed_) return;
  closed_ = cause;
  ended_ = true;
  const std::vector<LanePtr> lanes = lanes_;
  for (const LanePtr& lane : lanes) CloseLane(lane, cause);
  queue_.clear();
  const std::vector<OperationPtr> operations = operations_;
  for (const OperationPtr& operation : operations) Finish(operation, Fail(cause));
}

void TcpPath::Revive(TcpCallerLane& lane, std::unique_ptr<ThreadStream> stream) {
  const CallGate::Pass pass(callers_);
  if (callers_.closed()) return;
  const std::lock_guard turn(lane.turn);  // nobody keeps the turn of a lane that is not usable
  lane.Revive(std::move(stream));
}

void TcpPath::Close() noexcept {
  ended_ = true;
  callers_.Close();
  for (const auto& lane : caller_lanes_) lane->Close();
  callers_.AwaitEmpty();
  for (const auto& lane : caller_lanes_) lane->Close();  // one may have been revived meanwhile
  Post(world_.data, [self = shared_from_this()] {
    self->CloseNow(Error{ErrorId::kPathFailed, "the path was closed"});
  });
}

}  // namespace mooncake
