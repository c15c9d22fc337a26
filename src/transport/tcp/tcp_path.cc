#include "transport/tcp/tcp_path.h"

#include <fmt/format.h>

#include "base/log.h"
#include "transport/tcp/tcp_frames.h"
#include "wire/handshake.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kRoundTrip = std::chrono::microseconds(80);  // both sides are woken
constexpr double kNanosecondsPerRange = 60;
constexpr double kNanosecondsPerByte = 0.3;

// Slices longer than this go from where they lie into the socket; shorter ones are gathered in a
// buffer first, because a system call with many short pieces costs more than copying them.
constexpr std::size_t kDirectBytesMin = 16 << 10;

}  // namespace

struct TcpPath::OutgoingFrame {
  FrameHeader header;
  std::string body;
  std::vector<Bytes> payload;
  std::vector<MutableBytes> local;
  std::uint64_t payload_bytes = 0;
};

TcpPath::TcpPath(World& world, std::shared_ptr<const PeerInfo> peer, const CopyEngine& copy,
                 const TcpOptions& options, Counter& sent_bytes, Counter& received_bytes)
    : world_(world),
      peer_(std::move(peer)),
      copy_(copy),
      options_(options),
      sent_bytes_(sent_bytes),
      received_bytes_(received_bytes),
      cost_(kRoundTrip, kNanosecondsPerRange, kNanosecondsPerByte) {}

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
  return cost_.Estimate(transfer);
}

Status TcpPath::Run(const Transfer&) {
  MC_ASSERT(!"TcpPath is not synchronous");
  return {};
}

void TcpPath::Start(const Transfer& transfer, std::function<void(Status)> done) {
  const auto operation = std::make_shared<Operation>();
  operation->transfer = &transfer;
  operation->done = std::move(done);
  operation->begun = world_.clock.Now();
  operations_.push_back(operation);
  while (operation->slice < transfer.slices.size() &&
         transfer.slices[operation->slice].length_bytes == 0) {
    operation->slice += 1;
  }
  if (closed_) return Finish(operation, Fail(*closed_));
  if (operation->all_sent()) return Finish(operation, {});
  if (transfer.deadline != kNever) {
    operation->timer = world_.clock.MakeTimer(world_.data);
    operation->timer->At(transfer.deadline, [this, weak = std::weak_ptr<Operation>(operation)] {
      if (const auto late = weak.lock()) {
        Finish(late, Fail(ErrorId::kDeadline,
                          fmt::format("{} of {} slices were sent to {} over tcp", late->slice,
                                      late->transfer->slices.size(), peer_->label)));
      }
    });
  }
  queue_.push_back(operation);
  WakeLanes();
}

void TcpPath::WakeLanes() {
  for (const LanePtr& lane : lanes_) lane->wake.Notify();
}

TcpPath::OperationPtr TcpPath::NextToSend() {
  while (!queue_.empty()) {
    const OperationPtr operation = queue_.front();
    if (!operation->outcome && operation->transfer->cancelled != nullptr &&
        *operation->transfer->cancelled) {
      Finish(operation, Fail(ErrorId::kCancelled, {}));
    }
    if (!operation->outcome && !operation->all_sent()) return operation;
    queue_.pop_front();
  }
  return nullptr;
}

// Cuts the next frame out of the operation's slices.
Status TcpPath::BuildFrame(Lane& lane, Operation& operation, OutgoingFrame& frame) const {
  const Transfer& transfer = *operation.transfer;
  DataBody body;
  const RegionInfo* region = nullptr;
  const std::uint64_t frame_bytes_max = options_.frame_bytes_max;
  lane.staging.resize(
      std::max(lane.staging.size(), std::min(frame_bytes_max, transfer.total_bytes)));
  std::size_t staged = 0;
  const bool write = transfer.direction == Direction::kWrite;
  const Access needed = write ? Access::kWrite : Access::kRead;
  while (!operation.all_sent() && frame.payload_bytes < frame_bytes_max &&
         body.ranges.size() < kWireRangesMax) {
    const Slice& slice = transfer.slices[operation.slice];
    if (region == nullptr || region->id != slice.region) {
      if (body.regions.size() == kWireRegionsMax) break;
      region = peer_->regions->Find(slice.region);
      if (region == nullptr) {
        return Fail(ErrorId::kRegionUnknown, fmt::format("{} has no region {}", peer_->label,
                                                         static_cast<std::uint64_t>(slice.region)));
      }
      if (!Allows(region->access, needed)) {
        return Fail(ErrorId::kBadRegionKey, fmt::format("region {} does not allow this access",
                                                        static_cast<std::uint64_t>(slice.region)));
      }
      body.regions.push_back(
          {static_cast<std::uint64_t>(region->id), static_cast<std::uint64_t>(region->key)});
    }
    if (slice.offset > region->length_bytes ||
        slice.length_bytes > region->length_bytes - slice.offset) {
      return Fail(ErrorId::kOutOfRegion,
                  fmt::format("{} bytes at offset {} of a region of {} bytes", slice.length_bytes,
                              slice.offset, region->length_bytes));
    }
    const std::uint64_t left = slice.length_bytes - operation.slice_offset;
    const std::uint64_t length = std::min(left, frame_bytes_max - frame.payload_bytes);
    std::byte* const local = slice.local + operation.slice_offset;
    body.ranges.push_back({slice.offset + operation.slice_offset,
                           static_cast<std::uint32_t>(length),
                           static_cast<std::uint32_t>(body.regions.size() - 1)});
    if (!write) {
      frame.local.emplace_back(local, length);
    } else if (length >= kDirectBytesMin) {
      body.payload_crc32c = copy_.Crc32c(local, length, body.payload_crc32c);
      frame.payload.emplace_back(local, length);
    } else {
      std::byte* const to = lane.staging.data() + staged;
      body.payload_crc32c = copy_.CopyCrc32c(to, local, length, body.payload_crc32c);
      const bool joins =
          !frame.payload.empty() && frame.payload.back().data() + frame.payload.back().size() == to;
      if (joins) {
        frame.payload.back() =
            Bytes(frame.payload.back().data(), frame.payload.back().size() + length);
      } else {
        frame.payload.emplace_back(to, length);
      }
      staged += length;
    }
    frame.payload_bytes += length;
    operation.slice_offset += length;
    while (!operation.all_sent() &&
           operation.slice_offset == transfer.slices[operation.slice].length_bytes) {
      operation.slice += 1;
      operation.slice_offset = 0;
    }
  }
  frame.header.kind = write ? FrameKind::kWrite : FrameKind::kRead;
  frame.body = Encode(body);
  frame.header.body_bytes = static_cast<std::uint32_t>(frame.body.size());
  frame.header.payload_bytes = write ? static_cast<std::uint32_t>(frame.payload_bytes) : 0;
  return {};
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
    OutgoingFrame frame;
    const Status built = BuildFrame(*lane, *operation, frame);
    if (!built) {
      Finish(operation, built);
      continue;
    }
    frame.header.id = lane->next_id++;
    operation->frames += 1;
    operation->io += 1;
    lane->touching.insert(operation.get());
    lane->pending.emplace(frame.header.id, Pending{operation, operation->transfer->direction,
                                                   std::move(frame.local)});
    const FrameHeaderBytes header = Encode(frame.header);
    std::vector<Bytes> buffers = {Bytes(header), AsBytes(frame.body)};
    buffers.insert(buffers.end(), frame.payload.begin(), frame.payload.end());
    const Status written = co_await lane->reader->stream().Write(buffers);
    operation->io -= 1;
    lane->touching.erase(operation.get());
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
  const bool direct = wanted && expected >= kDirectBytesMin * pending.local.size();
  std::uint32_t crc = 0;
  Status received;
  if (direct) {
    operation->io += 1;
    lane.touching.insert(operation.get());
    for (const MutableBytes range : pending.local) {
      received = co_await lane.reader->ReadExact(range);
      if (!received) break;
      crc = copy_.Crc32c(range.data(), range.size(), crc);
    }
    operation->io -= 1;
    lane.touching.erase(operation.get());
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
        if (lane->touching.contains(operation.get())) {
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
}

void TcpPath::CloseNow(const Error& cause) {
  if (closed_) return;
  closed_ = cause;
  const std::vector<LanePtr> lanes = lanes_;
  for (const LanePtr& lane : lanes) CloseLane(lane, cause);
  queue_.clear();
  const std::vector<OperationPtr> operations = operations_;
  for (const OperationPtr& operation : operations) Finish(operation, Fail(cause));
}

void TcpPath::Close() noexcept {
  Post(world_.data, [self = shared_from_this()] {
    self->CloseNow(Error{ErrorId::kPathFailed, "the path was closed"});
  });
}

}  // namespace mooncake
