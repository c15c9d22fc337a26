#include "transport/tcp/tcp_caller_lane.h"

#include <fmt/format.h>

#include <cstring>

#include "wire/handshake.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr std::size_t kAheadBytes = 4096;
constexpr std::uint64_t kUnansweredWritesMax = 128;
constexpr std::uint64_t kAcknowledgeEvery = 64;
// Lists of reads on their way while the peer may be busy sending: they must fit into what the
// kernel holds.
constexpr std::uint64_t kListBytesAheadMax = 32 << 10;

}  // namespace

TcpCallerLane::TcpCallerLane(World& world, const CopyEngine& copy, std::uint64_t frame_bytes_max,
                             std::unique_ptr<ThreadStream> stream)
    : world_(world), copy_(copy), frame_bytes_max_(frame_bytes_max), stream_(std::move(stream)) {}

void TcpCallerLane::Close() noexcept {
  usable_.store(false, std::memory_order_release);
  const std::lock_guard lock(replacing_);
  stream_->Close();
}

void TcpCallerLane::Revive(std::unique_ptr<ThreadStream> stream) {
  const std::lock_guard lock(replacing_);
  stream_ = std::move(stream);
  sent_ = settled_ = 0;
  begin_ = end_ = 0;
  usable_.store(true, std::memory_order_release);
}

Status TcpCallerLane::Run(const Transfer& transfer, const PeerRegions& regions) {
  MC_TRY_STATUS(CheckPace(transfer, world_.clock));
  refused_ = {};
  ahead_.resize(kAheadBytes);  // not before: idle connections are many
  Status status =
      transfer.direction == Direction::kWrite ? Write(transfer, regions) : Read(transfer, regions);
  if (status) return std::exchange(refused_, {});
  // Something may still be on its way: nobody could tell its answer from that to the next call.
  Close();
  const ErrorId id = status.error().id;
  const bool told = id == ErrorId::kDeadline || id == ErrorId::kCancelled;
  return Fail(told ? id : ErrorId::kPathFailed, "tcp: " + status.error().context,
              status.error().os_error);
}

Status TcpCallerLane::Write(const Transfer& transfer, const PeerRegions& regions) {
  FrameCursor cursor;
  cursor.SkipEmpty(transfer);
  while (!cursor.AtEnd(transfer)) {
    MC_TRY_STATUS(CheckPace(transfer, world_.clock));
    MC_TRY_STATUS(CutFrame(transfer, regions, copy_, frame_bytes_max_, cursor, frame_));
    const bool more = !cursor.AtEnd(transfer) && (sent_ + 1) % kAcknowledgeEvery != 0;
    frame_.header.flags = more ? kFrameMoreFollows : 0;
    MC_TRY_STATUS(Send(transfer.deadline));
    while (sent_ - settled_ > kUnansweredWritesMax)
      MC_TRY_STATUS(ReceiveAcknowledgement(transfer.deadline));
  }
  while (settled_ < sent_) MC_TRY_STATUS(ReceiveAcknowledgement(transfer.deadline));
  return {};
}

Status TcpCallerLane::Read(const Transfer& transfer, const PeerRegions& regions) {
  FrameCursor cursor;
  cursor.SkipEmpty(transfer);
  std::uint64_t list_bytes = 0;
  bool cut = false;  // a frame waits to be sent
  while (settled_ < sent_ || cut || !cursor.AtEnd(transfer)) {
    if (!cut && !cursor.AtEnd(transfer)) {
      MC_TRY_STATUS(CheckPace(transfer, world_.clock));
      MC_TRY_STATUS(CutFrame(transfer, regions, copy_, frame_bytes_max_, cursor, frame_));
      cut = true;
    }
    const std::uint64_t unanswered = sent_ - settled_;
    if (cut && (unanswered == 0 || (unanswered < kReadsAheadMax &&
                                    list_bytes + frame_.body.size() <= kListBytesAheadMax))) {
      Asked& asked = asked_[(sent_ + 1) % kReadsAheadMax];
      asked.local.swap(frame_.local);
      asked.payload_bytes = frame_.payload_bytes;
      asked.list_bytes = frame_.body.size();
      list_bytes += asked.list_bytes;
      MC_TRY_STATUS(Send(transfer.deadline));
      asked.id = sent_;
      cut = false;
      continue;
    }
    Asked& asked = asked_[(settled_ + 1) % kReadsAheadMax];
    MC_TRY_STATUS(ReceiveData(asked, transfer.deadline));
    list_bytes -= asked.list_bytes;
    settled_ += 1;
  }
  return {};
}

Status TcpCallerLane::Send(Instant deadline) {
  frame_.header.id = sent_ + 1;
  const FrameHeaderBytes header = Encode(frame_.header);
  buffers_.assign({Bytes(header), AsBytes(frame_.body)});
  buffers_.insert(buffers_.end(), frame_.payload.begin(), frame_.payload.end());
  MC_TRY_STATUS(stream_->Write(buffers_, deadline));
  sent_ += 1;
  return {};
}

Status TcpCallerLane::ReceiveExact(std::span<MutableBytes> into, Instant deadline) {
  for (;;) {
    while (!into.empty() && into.front().empty()) into = into.subspan(1);
    if (into.empty()) return {};
    std::size_t count = std::min(into.front().size(), end_ - begin_);
    if (count > 0) {
      std::memcpy(into.front().data(), ahead_.data() + begin_, count);
      begin_ += count;
    } else {
      MC_TRY(count, stream_->ReadSomeV(into, deadline));
    }
    while (count > 0) {
      const std::size_t part = std::min(count, into.front().size());
      into.front() = into.front().subspan(part);
      count -= part;
      if (into.front().empty()) into = into.subspan(1);
    }
  }
}

Result<FrameHeader> TcpCallerLane::ReceiveHeader(Instant deadline) {
  std::memmove(ahead_.data(), ahead_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  while (end_ < kFrameHeaderBytes) {
    const std::array<MutableBytes, 1> rest = {MutableBytes(ahead_).subspan(end_)};
    MC_TRY(const std::size_t count, stream_->ReadSomeV(rest, deadline));
    end_ += count;
  }
  begin_ = kFrameHeaderBytes;
  return DecodeFrameHeader(Bytes(ahead_).first(kFrameHeaderBytes));
}

Status TcpCallerLane::ReceiveAcknowledgement(Instant deadline) {
  MC_TRY(const FrameHeader header, ReceiveHeader(deadline));
  if (header.id <= settled_ || header.id > sent_)
    return Fail(ErrorId::kBadFrame, "an answer to nothing that was sent");
  if (header.kind == FrameKind::kDataFailure) {
    MC_TRY_STATUS(ReceiveFailure(header, deadline));
  } else if (header.kind != FrameKind::kAck || header.body_bytes != 0 ||
             header.payload_bytes != 0) {
    return Fail(ErrorId::kBadFrame, fmt::format("frame kind {} as the answer to a write",
                                                static_cast<int>(header.kind)));
  }
  settled_ = header.id;
  return {};
}

// The peer's refusal of one frame: the others go on, so that the connection stays in step.
Status TcpCallerLane::ReceiveFailure(const FrameHeader& header, Instant deadline) {
  std::string text(header.body_bytes, '\0');
  std::array<MutableBytes, 1> into = {
      MutableBytes(reinterpret_cast<std::byte*>(text.data()), text.size())};
  MC_TRY_STATUS(ReceiveExact(into, deadline));
  pb::Failure failure;
  if (header.payload_bytes != 0 || !failure.ParseFromString(text))
    return Fail(ErrorId::kBadFrame, "a failure that cannot be read");
  if (refused_) refused_ = Fail(FromProto(failure));
  return {};
}

Status TcpCallerLane::ReceiveData(Asked& asked, Instant deadline) {
  MC_TRY(const FrameHeader header, ReceiveHeader(deadline));
  if (header.id != asked.id) return Fail(ErrorId::kBadFrame, "bytes that nobody asked for");
  if (header.kind == FrameKind::kDataFailure) return ReceiveFailure(header, deadline);
  if (header.kind != FrameKind::kData || header.payload_bytes != asked.payload_bytes) {
    return Fail(ErrorId::kBadFrame, "another number of bytes than asked for");
  }
  std::string text(header.body_bytes, '\0');
  std::array<MutableBytes, 1> into = {
      MutableBytes(reinterpret_cast<std::byte*>(text.data()), text.size())};
  MC_TRY_STATUS(ReceiveExact(into, deadline));
  MC_TRY(const DataBody body, DecodeDataBody(AsBytes(text)));
  std::uint32_t crc = 0;
  if (asked.payload_bytes >= kReceiveDirectBytesMin * asked.local.size()) {
    spans_.assign(asked.local.begin(), asked.local.end());
    MC_TRY_STATUS(ReceiveExact(spans_, deadline));
    for (const MutableBytes range : asked.local)
      crc = copy_.Crc32c(range.data(), range.size(), crc);
  } else {
    staging_.resize(std::max<std::size_t>(staging_.size(), asked.payload_bytes));
    into = {MutableBytes(staging_).first(asked.payload_bytes)};
    MC_TRY_STATUS(ReceiveExact(into, deadline));
    crc = copy_.Crc32c(staging_.data(), asked.payload_bytes, 0);
    if (crc == body.payload_crc32c) {
      const std::byte* from = staging_.data();
      for (std::size_t i = 0; i < asked.local.size(); ++i) {
        const MutableBytes range = asked.local[i];
        if (i + kPrefetchAhead < asked.local.size())
          __builtin_prefetch(asked.local[i + kPrefetchAhead].data(), 1);
        copy_.Copy(range.data(), from, range.size());
        from += range.size();
      }
    }
  }
  if (crc != body.payload_crc32c && refused_)
    refused_ = Fail(ErrorId::kChecksum, "a frame of a TCP read");
  return {};
}

}  // namespace mooncake
