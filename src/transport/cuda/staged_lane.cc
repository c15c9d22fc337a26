#include "transport/cuda/staged_lane.h"

#include <fmt/format.h>

#include <deque>

#include "wire/handshake.h"
#include "wire/messages.pb.h"

namespace mooncake::cuda {
namespace {

constexpr std::uint64_t kFrameBytes = Stager::kBufferBytes;
constexpr std::uint64_t kUnansweredWritesMax = 16;
constexpr std::size_t kReadsAheadMax = 4;

}  // namespace

StagedLane::StagedLane(World& world, std::shared_ptr<Stager> stager,
                       std::shared_ptr<const LocalMemory> memory,
                       std::shared_ptr<BufferedReader> reader)
    : world_(world),
      stager_(std::move(stager)),
      memory_(std::move(memory)),
      reader_(std::move(reader)) {}

void StagedLane::Close(const Error& cause) {
  if (!cause_) cause_ = cause;
  reader_->stream().Close();
}

void StagedLane::Refused(Error error) {
  if (refused_) refused_ = Fail(std::move(error));
}

Task<Status> StagedLane::Run(const Transfer& transfer, const PeerRegions& there) {
  const auto self = shared_from_this();
  refused_ = {};
  auto move =
      transfer.direction == Direction::kWrite ? Write(transfer, there) : Read(transfer, there);
  const Status moved = co_await std::move(move);
  if (moved) co_return std::exchange(refused_, {});
  const bool given_up = !is_open();
  // Something may still be on its way: nobody could tell its answer from that to the next transfer.
  const ErrorId id = moved.error().id;
  const bool told = id == ErrorId::kDeadline || id == ErrorId::kCancelled;
  Close({told ? id : ErrorId::kPathFailed, "cuda, staged: " + moved.error().context,
         moved.error().os_error});
  if (!given_up && !refused_) co_return refused_;
  co_return Fail(*cause_);
}

// Where each range is, and whether that is a GPU.
Result<std::vector<LocalRange>> StagedLane::Locate(std::span<const MutableBytes> ranges) const {
  std::vector<LocalRange> located;
  located.reserve(ranges.size());
  LocalMemory::Around around;
  for (const MutableBytes range : ranges) {
    if (!around.Holds(range.data())) {
      MC_TRY(around, memory_->Find(range.data()));
    }
    located.push_back({{range.data(), around.on_gpu}, range.size()});
  }
  return located;
}

// ---- writes ----

// An error is ours: nothing of the frame has been sent.
Task<Result<StagedLane::Gathering>> StagedLane::BeginGathering(const Transfer& transfer,
                                                               const PeerRegions& there,
                                                               FrameCursor& cursor) {
  MC_CO_TRY_STATUS(CheckPace(transfer, world_.clock));
  Gathering gathering;
  auto take = stager_->TakeBuffer();
  Result<StagingBuffer> buffer = co_await std::move(take);
  if (!buffer) co_return Fail(buffer.error());
  gathering.buffer = std::move(*buffer);
  MC_CO_TRY_STATUS(CutRanges(transfer, there, kFrameBytes, cursor, gathering.frame));
  MC_CO_TRY(std::vector<LocalRange> from, Locate(gathering.frame.local));
  gathering.crc32c = stager_->Gather(std::move(from), gathering.buffer);
  co_return gathering;
}

Task<Status> StagedLane::Write(const Transfer& transfer, const PeerRegions& there) {
  FrameCursor cursor;
  cursor.SkipEmpty(transfer);
  std::optional<Gathering> current;
  Status outcome;
  do {
    std::optional<Gathering> next;
    if (outcome && refused_ && !cursor.AtEnd(transfer)) {
      auto begin = BeginGathering(transfer, there, cursor);
      Result<Gathering> begun = co_await std::move(begin);
      if (begun) next = std::move(*begun);
      if (!begun) Refused(begun.error());
    }
    if (current) {
      const Result<std::uint32_t> crc32c = co_await current->crc32c->Get();
      if (!crc32c) Refused(crc32c.error());
      if (outcome && refused_) {
        Seal(current->frame, *crc32c);
        const Bytes payload = Bytes(current->buffer->bytes()).first(current->frame.payload_bytes);
        auto send = Send(current->frame, payload);
        outcome = co_await std::move(send);
      }
      while (outcome && sent_ - settled_ > kUnansweredWritesMax)
        outcome = co_await ReceiveAcknowledgement();
    }
    current = std::move(next);
  } while (current || (outcome && refused_ && !cursor.AtEnd(transfer)));
  while (outcome && settled_ < sent_) outcome = co_await ReceiveAcknowledgement();
  co_return outcome;
}

Task<Status> StagedLane::Send(OutgoingFrame& frame, Bytes payload) {
  frame.header.id = sent_ + 1;
  const FrameHeaderBytes header = Encode(frame.header);
  const std::array<Bytes, 3> buffers = {Bytes(header), AsBytes(frame.body), payload};
  Status written = co_await reader_->stream().Write(buffers);
  sent_ += 1;
  co_return written;
}

Task<Status> StagedLane::ReceiveAcknowledgement() {
  const Result<FrameHeader> header = co_await reader_->ReadHeader();
  if (!header) co_return Fail(header.error());
  if (header->id <= settled_ || header->id > sent_)
    co_return Fail(ErrorId::kBadFrame, "an answer to nothing that was sent");
  settled_ = header->id;
  if (header->kind == FrameKind::kDataFailure) co_return co_await ReceiveFailure(*header);
  if (header->kind != FrameKind::kAck || header->body_bytes != 0 || header->payload_bytes != 0) {
    co_return Fail(ErrorId::kBadFrame, fmt::format("frame kind {} as the answer to a write",
                                                   static_cast<int>(header->kind)));
  }
  co_return Status{};
}

// The peer's refusal of one frame: the others go on, so that the connection stays in step.
Task<Status> StagedLane::ReceiveFailure(const FrameHeader& header) {
  std::string text;
  const Status read = co_await reader_->ReadGrowing(text, header.body_bytes);
  if (!read) co_return read;
  pb::Failure failure;
  if (header.payload_bytes != 0 || !failure.ParseFromString(text))
    co_return Fail(ErrorId::kBadFrame, "a failure that cannot be read");
  Refused(FromProto(failure));
  co_return Status{};
}

// ---- reads ----

Task<Status> StagedLane::Read(const Transfer& transfer, const PeerRegions& there) {
  Later<Status> landing;
  auto read = ReadAll(transfer, there, landing);
  Status outcome = co_await std::move(read);
  auto settle = Settle(landing);
  const Status landed = co_await std::move(settle);
  if (!landed) Refused(landed.error());
  co_return outcome;
}

// Once this returns, what was received before is in place, or is not to be.
Task<Status> StagedLane::Settle(Later<Status>& landing) {
  if (!landing) co_return Status{};
  Status landed = co_await landing->Get();
  landing = nullptr;
  co_return landed;
}

Task<Status> StagedLane::ReadAll(const Transfer& transfer, const PeerRegions& there,
                                 Later<Status>& landing) {
  FrameCursor cursor;
  cursor.SkipEmpty(transfer);
  std::deque<Asked> asked;
  while (!asked.empty() || !cursor.AtEnd(transfer)) {
    while (asked.size() < kReadsAheadMax && !cursor.AtEnd(transfer)) {
      MC_CO_TRY_STATUS(CheckPace(transfer, world_.clock));
      OutgoingFrame frame;
      MC_CO_TRY_STATUS(CutRanges(transfer, there, kFrameBytes, cursor, frame));
      MC_CO_TRY(std::vector<LocalRange> into, Locate(frame.local));
      asked.push_back({sent_ + 1, std::move(into), frame.payload_bytes});
      Seal(frame, 0);
      auto send = Send(frame, {});
      const Status sent = co_await std::move(send);
      if (!sent) co_return sent;
    }
    const Asked wanted = std::move(asked.front());
    asked.pop_front();
    const Result<FrameHeader> header = co_await reader_->ReadHeader();
    if (!header) co_return Fail(header.error());
    if (header->id != wanted.id) co_return Fail(ErrorId::kBadFrame, "bytes that nobody asked for");
    settled_ = wanted.id;
    if (header->kind == FrameKind::kDataFailure) {
      const Status failure = co_await ReceiveFailure(*header);
      if (!failure) co_return failure;
      continue;
    }
    if (header->kind != FrameKind::kData || header->payload_bytes != wanted.payload_bytes)
      co_return Fail(ErrorId::kBadFrame, "another number of bytes than asked for");
    std::string text;
    const Status read = co_await reader_->ReadGrowing(text, header->body_bytes);
    if (!read) co_return read;
    const Result<DataBody> body = DecodeDataBody(AsBytes(text));
    if (!body) co_return Fail(body.error());
    auto take = stager_->TakeBuffer();
    const Result<StagingBuffer> buffer = co_await std::move(take);
    if (!buffer) {
      Refused(buffer.error());
      co_return Fail(buffer.error());
    }
    const MutableBytes payload = (*buffer)->bytes().first(wanted.payload_bytes);
    const Status received = co_await reader_->ReadExact(payload);
    if (!received) co_return received;
    auto settle = Settle(landing);
    const Status landed = co_await std::move(settle);
    if (!landed) Refused(landed.error());
    landing = stager_->Scatter(*buffer, wanted.into, body->payload_crc32c, nullptr);
  }
  co_return Status{};
}

}  // namespace mooncake::cuda
