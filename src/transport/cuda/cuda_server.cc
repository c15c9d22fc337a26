#include "transport/cuda/cuda_server.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>

#include "base/log.h"
#include "wire/handshake.h"
#include "wire/messages.pb.h"
#include "wire/rpc.h"

namespace mooncake::cuda {
namespace {

constexpr std::size_t kRequestsAheadMax = 2;  // that hold a buffer
constexpr int kExportedRegionsMax = 4096;
constexpr std::size_t kNonceBytes = 16;

void AddPieces(const std::vector<ExportedPiece>& pieces,
               google::protobuf::RepeatedPtrField<pb::CudaPiece>& to) {
  for (const ExportedPiece& piece : pieces) {
    pb::CudaPiece& added = *to.Add();
    added.set_handle(piece.handle);
    added.set_offset(piece.offset);
    added.set_length_bytes(piece.length_bytes);
  }
}

// Two coroutines: one receives, the other answers, in the order of the requests.
class CudaLaneServer : public std::enable_shared_from_this<CudaLaneServer> {
 public:
  CudaLaneServer(std::shared_ptr<ServedCudaLane> lane,
                 std::shared_ptr<const CudaServerContext> context)
      : lane_(std::move(lane)), shared_(std::move(context)), reader_(lane_->stream) {}

  Task<Status> Receive() {
    for (;;) {
      const Result<FrameHeader> header = co_await reader_.ReadHeader();
      if (!header) co_return Fail(header.error());
      lane_->frame_begun = context_.world.clock.Now();
      std::string text;
      const Status read = co_await reader_.ReadGrowing(text, header->body_bytes);
      if (!read) co_return read;
      auto handle = Handle(*header, std::move(text));
      const Status handled = co_await std::move(handle);
      if (!handled) co_return handled;
      lane_->frame_begun.reset();
    }
  }

  Task<void> Answer() {
    const auto self = shared_from_this();
    for (;;) {
      while (answers_.empty() && !over_) co_await added_.Wait();
      if (answers_.empty()) co_return;
      auto write = AnswerOne(answers_.front());
      const Status written = co_await std::move(write);
      answers_.pop_front();
      answered_.Notify();
      if (!written) lane_->stream->Close();
    }
  }

  /// No request comes any more.
  void SetOver() {
    over_ = true;
    added_.Notify();
  }

 private:
  // What one request waits for, and is answered with.
  struct Pending {
    std::uint64_t id = 0;
    std::uint64_t bytes = 0;
    std::vector<PinnedRange> pins = {};
    StagingBuffer buffer = nullptr;
    Later<Status> landed = nullptr;
    Later<Result<std::uint32_t>> gathered = nullptr;
    Later<Result<std::string>> exported = nullptr;
    std::optional<Error> refused = std::nullopt;
  };

  Task<Status> Handle(const FrameHeader& header, std::string text) {
    if (header.kind == FrameKind::kRequest) {
      if (header.method != static_cast<std::uint16_t>(Method::kCudaExport) ||
          header.payload_bytes != 0)
        co_return Fail(ErrorId::kBadFrame, "a call that is not served here");
      co_await Room();
      Add({.id = header.id, .exported = Export(std::move(text))});
      co_return Status{};
    }
    const Result<DataBody> body = DecodeDataBody(AsBytes(text));
    if (!body) co_return Fail(body.error());
    if (header.kind == FrameKind::kWrite) {
      if (body->total_bytes != header.payload_bytes)
        co_return Fail(ErrorId::kBadFrame, "payload and gather list differ");
      co_return co_await Write(header.id, *body);
    }
    if (header.kind != FrameKind::kRead || header.payload_bytes != 0)
      co_return Fail(ErrorId::kBadFrame, "neither a write nor a read");
    co_return co_await Read(header.id, *body);
  }

  Task<Status> Write(std::uint64_t id, const DataBody& body) {
    co_await Room();
    Result<ServedRanges> served = ServeRanges(*context_.regions, body, Access::kWrite, Reach::kAny);
    if (!served) {
      const Status skipped = co_await Skip(body.total_bytes);
      if (!skipped) co_return skipped;
      Add({.id = id, .refused = served.error()});
      co_return Status{};
    }
    auto take = context_.stager->TakeBuffer();
    const Result<StagingBuffer> buffer = co_await std::move(take);
    if (!buffer) {
      const Status skipped = co_await Skip(body.total_bytes);
      if (!skipped) co_return skipped;
      Add({.id = id, .refused = buffer.error()});
      co_return Status{};
    }
    const MutableBytes payload = (*buffer)->bytes().first(body.total_bytes);
    const Status read = co_await reader_.ReadExact(payload);
    if (!read) co_return read;
    auto landed = context_.stager->Scatter(*buffer, Places(*served, body), body.payload_crc32c,
                                           lane_->landing);
    Add({.id = id,
         .bytes = body.total_bytes,
         .pins = std::move(served->pins),
         .landed = std::move(landed)});
    co_return Status{};
  }

  Task<Status> Read(std::uint64_t id, const DataBody& body) {
    co_await Room();
    Result<ServedRanges> served = ServeRanges(*context_.regions, body, Access::kRead, Reach::kAny);
    if (!served) {
      Add({.id = id, .refused = served.error()});
      co_return Status{};
    }
    auto take = context_.stager->TakeBuffer();
    const Result<StagingBuffer> buffer = co_await std::move(take);
    if (!buffer) {
      Add({.id = id, .refused = buffer.error()});
      co_return Status{};
    }
    auto gathered = context_.stager->Gather(Places(*served, body), *buffer);
    Add({.id = id,
         .bytes = body.total_bytes,
         .pins = std::move(served->pins),
         .buffer = *buffer,
         .gathered = std::move(gathered)});
    co_return Status{};
  }

  Later<Result<std::string>> Export(std::string request) {
    const auto reply = std::make_shared<OneShot<Result<std::string>>>();
    context_.stager->Do([exporter = context_.exporter, loop = context_.world.data, reply,
                         request = std::move(request)] {
      Post(loop, [reply, answer = exporter->Answer(request)]() mutable {
        reply->Set(std::move(answer));
      });
    });
    return reply;
  }

  static std::vector<LocalRange> Places(const ServedRanges& served, const DataBody& body) {
    std::vector<LocalRange> places;
    places.reserve(served.ranges.size());
    for (std::size_t i = 0; i < served.ranges.size(); ++i) {
      const bool on_gpu = served.pins[body.ranges[i].region_index].on_gpu();
      places.push_back({{served.ranges[i].data(), on_gpu}, served.ranges[i].size()});
    }
    return places;
  }

  Task<Status> AnswerOne(Pending& pending) {
    Stream& stream = *lane_->stream;
    FrameHeader header;
    header.id = pending.id;
    std::string body;
    Bytes payload;
    std::optional<Error> refused = pending.refused;
    if (pending.landed) {
      const Status landed = co_await pending.landed->Get();
      if (!landed) refused = landed.error();
      header.kind = FrameKind::kAck;
      if (landed) context_.received_bytes.Add(pending.bytes);
    } else if (pending.gathered) {
      const Result<std::uint32_t> crc32c = co_await pending.gathered->Get();
      if (!crc32c) refused = crc32c.error();
      DataBody list;
      list.payload_crc32c = crc32c ? *crc32c : 0;
      header.kind = FrameKind::kData;
      body = Encode(list);
      payload = Bytes(pending.buffer->bytes()).first(pending.bytes);
      if (crc32c) context_.sent_bytes.Add(pending.bytes);
    } else if (pending.exported) {
      Result<std::string> reply = co_await pending.exported->Get();
      if (!reply) refused = reply.error();
      header.kind = FrameKind::kReply;
      if (reply) body = std::move(*reply);
    }
    pending.pins.clear();
    if (refused) {
      header.kind = pending.exported ? FrameKind::kFailure : FrameKind::kDataFailure;
      body = ToProto(*refused).SerializeAsString();
      payload = {};
    }
    co_return co_await WriteFrame(stream, header, AsBytes(body), payload);
  }

  void Add(Pending pending) {
    answers_.push_back(std::move(pending));
    added_.Notify();
  }

  Task<void> Room() {
    while (answers_.size() >= kRequestsAheadMax) co_await answered_.Wait();
  }

  // What belongs nowhere, in steps: whoever shows no key gets no memory.
  Task<Status> Skip(std::uint64_t count) {
    constexpr std::uint64_t kStepBytes = 64 << 10;
    std::vector<std::byte> step(std::min(count, kStepBytes));
    while (count > 0) {
      const std::uint64_t length = std::min(count, kStepBytes);
      const Status read = co_await reader_.ReadExact(MutableBytes(step).first(length));
      if (!read) co_return read;
      count -= length;
    }
    co_return Status{};
  }

  const std::shared_ptr<ServedCudaLane> lane_;
  const std::shared_ptr<const CudaServerContext> shared_;
  const CudaServerContext& context_ = *shared_;
  BufferedReader reader_;
  std::deque<Pending> answers_;
  Signal added_;
  Signal answered_;
  bool over_ = false;
};

}  // namespace

void ServedCudaLane::End() {
  ServedLane::End();
  const std::lock_guard lock(landing->mutex);
  landing->ended = true;
}

Task<void> ServeCuda(std::shared_ptr<ServedCudaLane> lane,
                     std::shared_ptr<const CudaServerContext> context) {
  const std::shared_ptr<Stream> stream = lane->stream;
  const Executor loop = context->world.data;
  const auto server = std::make_shared<CudaLaneServer>(std::move(lane), std::move(context));
  Spawn(loop,
        [](std::shared_ptr<CudaLaneServer> me) -> Task<void> { co_await me->Answer(); }(server));
  const Status ended = co_await server->Receive();
  server->SetOver();
  if (!ended && ended.error().code() == Errc::kCorrupt) {
    MC_LOG(info, "{}",
           Within("cuda connection from " + ToString(stream->remote()), ended.error()).Text());
  }
  stream->Close();
}

// ---- handles ----

Status Exporter::MakeProof() {
  if (proof_) return {};
  MC_TRY(std::unique_ptr<OwnedBytes> memory, gpus_->Allocate(kNonceBytes));
  std::string nonce(kNonceBytes, '\0');
  for (std::size_t i = 0; i < kNonceBytes; i += sizeof(std::uint64_t)) {
    const std::uint64_t word = world_.random.Next();
    std::memcpy(nonce.data() + i, &word, sizeof word);
  }
  MC_TRY(const std::unique_ptr<CopyQueue> queue, gpus_->MakeQueue("*"));
  MC_TRY_STATUS(queue->ToGpu(memory->bytes().data(), nonce.data(), nonce.size()));
  MC_TRY_STATUS(queue->Finish());
  MC_TRY(exported_proof_, gpus_->Export(memory->bytes().data(), kNonceBytes));
  nonce_ = std::move(nonce);
  proof_ = std::move(memory);
  return {};
}

Result<std::string> Exporter::Answer(const std::string& request) {
  pb::CudaExportRequest asked;
  if (!asked.ParseFromString(request) || asked.regions_size() > kExportedRegionsMax)
    return Fail(ErrorId::kBadFrame, "CudaExportRequest");
  pb::CudaExportReply reply;
  std::string cannot;
  for (const pb::CudaExportRequest::Region& wanted : asked.regions()) {
    MC_TRY(const PinnedRange pin, regions_->Pin(RegionId{wanted.id()}, RegionKey{wanted.key()},
                                                Access::kRead, Reach::kAny));
    if (!pin.on_gpu()) return Fail(ErrorId::kMemoryKind, "the region is the host's");
    pb::CudaExportReply::Region& told = *reply.add_regions();
    told.set_id(wanted.id());
    // A handle gives every right, so it is for regions that do.
    if (!regions_->Pin(RegionId{wanted.id()}, RegionKey{wanted.key()}, Access::kReadWrite,
                       Reach::kAny))
      continue;
    const Result<std::vector<ExportedPiece>> pieces =
        gpus_->Export(pin.bytes().data(), pin.bytes().size());
    if (pieces) {
      AddPieces(*pieces, *told.mutable_pieces());
    } else if (pieces.error().id == ErrorId::kMemoryKind) {
      cannot = pieces.error().context;
    } else {
      return Fail(pieces.error());
    }
  }
  if (!cannot.empty() && !std::exchange(told_of_staging_, true)) {
    MC_LOG(info,
           "GPU memory without an IPC handle ({}): processes of this host move it by way of the "
           "host's memory. With PyTorch, leave expandable_segments off to change that",
           cannot);
  }
  if (const Status proof = MakeProof(); proof) {
    reply.set_nonce(nonce_);
    AddPieces(exported_proof_, *reply.mutable_proof());
  } else if (proof.error().id != ErrorId::kMemoryKind) {
    return Fail(proof.error());
  }
  return reply.SerializeAsString();
}

}  // namespace mooncake::cuda
