#include "transport/tcp/tcp_server.h"

#include <cstring>

#include "base/log.h"
#include "transport/data_frames.h"
#include "wire/handshake.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

// Ranges that long on average are sent from where they lie; shorter ones by way of a buffer, as a
// system call with many short pieces costs more than copying them.
constexpr std::size_t kSendDirectBytesMin = 32 << 10;

class DataServer {
 public:
  DataServer(World& world, std::shared_ptr<ServedLane> lane,
             std::shared_ptr<const TcpServerContext> context)
      : world_(world),
        lane_(std::move(lane)),
        reader_(lane_->stream, kDataAheadBytes),
        shared_(std::move(context)),
        context_(*shared_) {}

  Task<Status> Run() {
    for (;;) {
      const Result<FrameHeader> header = co_await reader_.ReadHeader();
      if (!header) co_return Fail(header.error());
      lane_->frame_begun = world_.clock.Now();
      std::string text;
      const Status read = co_await reader_.ReadGrowing(text, header->body_bytes);
      if (!read) co_return Fail(read.error());
      const Result<DataBody> body = DecodeDataBody(AsBytes(text));
      if (!body) co_return Fail(body.error());
      if (lane_->ended) co_return Fail(Ended());
      Status handled = Fail(ErrorId::kBadFrame, "neither a write nor a read");
      if (header->kind == FrameKind::kWrite) {
        if (body->total_bytes != header->payload_bytes)
          co_return Fail(ErrorId::kBadFrame, "payload and gather list differ");
        handled = co_await Write(*header, *body);
      } else if (header->kind == FrameKind::kRead && header->payload_bytes == 0) {
        handled = co_await Read(*header, *body);
      }
      if (!handled) co_return handled;
      lane_->frame_begun.reset();
    }
  }

 private:
  Task<Status> Write(const FrameHeader& header, const DataBody& body) {
    const Result<ServedRanges> served =
        ServeRanges(*context_.regions, body, Access::kWrite, Reach::kHost);
    if (!served) {
      const Status skipped = co_await Skip(header.payload_bytes);
      if (!skipped) co_return skipped;
      co_return co_await Refuse(header.id, served.error());
    }
    const bool direct =
        body.total_bytes >= kReceiveDirectBytesMin * std::max<std::size_t>(1, body.ranges.size());
    std::uint32_t crc = 0;
    if (direct) {
      std::vector<MutableBytes> into = served->ranges;
      auto read_all = reader_.ReadExactV(into);
      const Status read = co_await std::move(read_all);
      if (!read) co_return Fail(read.error());
      for (const MutableBytes range : served->ranges)
        crc = context_.copy.Crc32c(range.data(), range.size(), crc);
    } else {
      Stage(body.total_bytes);
      const MutableBytes staged = MutableBytes(staging_).first(body.total_bytes);
      const Status read = co_await reader_.ReadExact(staged);
      if (!read) co_return Fail(read.error());
      if (lane_->ended) co_return Fail(Ended());
      crc = context_.copy.Crc32c(staged.data(), staged.size(), 0);
      if (crc == body.payload_crc32c) {
        const std::byte* from = staged.data();
        for (std::size_t i = 0; i < served->ranges.size(); ++i) {
          const MutableBytes range = served->ranges[i];
          if (i + kPrefetchAhead < served->ranges.size())
            __builtin_prefetch(served->ranges[i + kPrefetchAhead].data(), 1);
          context_.copy.Copy(range.data(), from, range.size());
          from += range.size();
        }
      }
    }
    if (crc != body.payload_crc32c) {
      context_.corrupt_frames.Add();
      const Error changed{ErrorId::kChecksum, "a frame of a TCP write"};
      co_return co_await Refuse(header.id, changed);
    }
    context_.received_bytes.Add(body.total_bytes);
    co_return co_await Acknowledge(header);
  }

  // One acknowledgement covers every frame before it, so a frame whose successor is already here,
  // or is said to follow, sends none.
  Task<Status> Acknowledge(const FrameHeader& header) {
    constexpr std::uint32_t kUnacknowledgedMax = 4;
    unacknowledged_ += 1;
    written_ = header.id;
    if ((header.flags & kFrameMoreFollows) != 0) co_return Status{};
    if (reader_.buffered().size() >= kFrameHeaderBytes && unacknowledged_ < kUnacknowledgedMax)
      co_return Status{};
    co_return co_await Flush();
  }

  Task<Status> Flush() {
    if (unacknowledged_ == 0) co_return Status{};
    unacknowledged_ = 0;
    FrameHeader ack;
    ack.kind = FrameKind::kAck;
    ack.id = written_;
    co_return co_await WriteFrame(reader_.stream(), ack, {}, {});
  }

  Task<Status> Read(const FrameHeader& header, const DataBody& body) {
    const Status flushed = co_await Flush();
    if (!flushed) co_return flushed;
    const Result<ServedRanges> served =
        ServeRanges(*context_.regions, body, Access::kRead, Reach::kHost);
    if (!served) co_return co_await Refuse(header.id, served.error());
    const bool direct =
        body.total_bytes >= kSendDirectBytesMin * std::max<std::size_t>(1, body.ranges.size());
    DataBody answer;
    std::vector<Bytes> buffers(2);
    if (direct) {
      for (const MutableBytes range : served->ranges) {
        answer.payload_crc32c =
            context_.copy.Crc32c(range.data(), range.size(), answer.payload_crc32c);
        buffers.emplace_back(range);
      }
    } else {
      Stage(body.total_bytes);
      answer.payload_crc32c = Gather(served->ranges, staging_.data());
      buffers.emplace_back(Bytes(staging_).first(body.total_bytes));
    }
    const std::string text = Encode(answer);
    FrameHeader data;
    data.kind = FrameKind::kData;
    data.id = header.id;
    data.body_bytes = static_cast<std::uint32_t>(text.size());
    data.payload_bytes = static_cast<std::uint32_t>(body.total_bytes);
    const FrameHeaderBytes encoded = Encode(data);
    buffers[0] = Bytes(encoded);
    buffers[1] = AsBytes(text);
    const Status written = co_await reader_.stream().Write(buffers);
    if (written) context_.sent_bytes.Add(body.total_bytes);
    co_return written;
  }

  // Copies the ranges one behind the other and returns their checksum. Short ones are summed at the
  // end, together: a call for each would cost more than its bytes.
  std::uint32_t Gather(std::span<const MutableBytes> ranges, std::byte* to) const {
    constexpr std::size_t kSumTogetherBytesMax = 1 << 10;
    std::uint32_t crc = 0;
    const std::byte* summed = to;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const MutableBytes range = ranges[i];
      if (i + kPrefetchAhead < ranges.size()) __builtin_prefetch(ranges[i + kPrefetchAhead].data());
      if (range.size() >= kSumTogetherBytesMax) {
        crc = context_.copy.Crc32c(summed, static_cast<std::size_t>(to - summed), crc);
        crc = context_.copy.CopyCrc32c(to, range.data(), range.size(), crc);
        summed = to + range.size();
      } else if (!range.empty()) {
        std::memcpy(to, range.data(), range.size());
      }
      to += range.size();
    }
    return context_.copy.Crc32c(summed, static_cast<std::size_t>(to - summed), crc);
  }

  Task<Status> Refuse(std::uint64_t id, const Error& error) {
    const Status flushed = co_await Flush();
    if (!flushed) co_return flushed;
    FrameHeader header;
    header.kind = FrameKind::kDataFailure;
    header.id = id;
    const std::string body = ToProto(error).SerializeAsString();
    const Bytes bytes = AsBytes(body);
    co_return co_await WriteFrame(reader_.stream(), header, bytes, {});
  }

  // What belongs nowhere, in steps: whoever shows no key gets no memory.
  Task<Status> Skip(std::size_t count) {
    constexpr std::size_t kStepBytes = 64 << 10;
    Stage(std::min(count, kStepBytes));
    while (count > 0) {
      const std::size_t step = std::min(count, kStepBytes);
      const Status read = co_await reader_.ReadExact(MutableBytes(staging_).first(step));
      if (!read) co_return read;
      count -= step;
    }
    co_return Status{};
  }

  static Error Ended() { return {ErrorId::kClosed, "the peer has given this connection up"}; }
  void Stage(std::size_t count) { staging_.resize(std::max(staging_.size(), count)); }

  World& world_;
  std::shared_ptr<ServedLane> lane_;  // shared with the transport, which may end it
  BufferedReader reader_;
  std::shared_ptr<const TcpServerContext> shared_;
  const TcpServerContext& context_;
  std::vector<std::byte> staging_;
  std::uint32_t unacknowledged_ =
      0;  // writes in place, up to `written_`, that the peer has not been told of
  std::uint64_t written_ = 0;
};

}  // namespace

Task<void> ServeTcpData(World& world, std::shared_ptr<ServedLane> lane,
                        std::shared_ptr<const TcpServerContext> context) {
  const std::shared_ptr<Stream> stream = lane->stream;
  DataServer server(world, std::move(lane), std::move(context));
  const Status ended = co_await server.Run();
  if (!ended && ended.error().code() == Errc::kCorrupt) {
    MC_LOG(info, "{}",
           Within("data connection from " + ToString(stream->remote()), ended.error()).Text());
  }
  stream->Close();
}

}  // namespace mooncake
