#include "wire/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/crc32c.h"

namespace mooncake {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the wire is little-endian and so are our machines");

constexpr std::size_t kChecksumOffset = kFrameHeaderBytes - 4;

template <class T>
void Put(FrameHeaderBytes& bytes, std::size_t offset, T value) noexcept {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}
template <class T>
T Get(Bytes bytes, std::size_t offset) noexcept {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// Leaves out the first `count` bytes, and then what is empty.
void Advance(std::span<MutableBytes>& into, std::size_t count) noexcept {
  while (!into.empty() && count >= into.front().size()) {
    count -= into.front().size();
    into = into.subspan(1);
  }
  if (count > 0) into.front() = into.front().subspan(count);
}

bool IsKnown(std::uint8_t kind) noexcept {
  return (kind >= 1 && kind <= 12) || (kind >= 16 && kind <= 20);
}

}  // namespace

FrameHeaderBytes Encode(const FrameHeader& header) noexcept {
  FrameHeaderBytes bytes{};
  Put(bytes, 0, kFrameMagic);
  Put(bytes, 4, static_cast<std::uint8_t>(header.kind));
  Put(bytes, 5, header.flags);
  Put(bytes, 6, header.method);
  Put(bytes, 8, header.id);
  Put(bytes, 16, header.body_bytes);
  Put(bytes, 20, header.payload_bytes);
  Put(bytes, 24, header.budget_ms);
  Put(bytes, kChecksumOffset, Crc32c(Bytes(bytes).first(kChecksumOffset)));
  return bytes;
}

Result<FrameHeader> DecodeFrameHeader(Bytes bytes) {
  if (bytes.size() < kFrameHeaderBytes)
    return Fail(ErrorId::kBadFrame, "a header of fewer than 32 bytes");
  if (const auto magic = Get<std::uint32_t>(bytes, 0); magic != kFrameMagic) {
    return Fail(ErrorId::kBadFrame, fmt::format("it begins with {:#010x} instead of MCK1", magic));
  }
  if (Get<std::uint32_t>(bytes, kChecksumOffset) != Crc32c(bytes.first(kChecksumOffset))) {
    return Fail(ErrorId::kBadFrame, "the header's checksum does not fit");
  }
  const auto kind = Get<std::uint8_t>(bytes, 4);
  if (!IsKnown(kind))
    return Fail(ErrorId::kBadFrame, fmt::format("frame kind {} is unknown", kind));
  FrameHeader header;
  header.kind = static_cast<FrameKind>(kind);
  header.flags = Get<std::uint8_t>(bytes, 5);
  header.method = Get<std::uint16_t>(bytes, 6);
  header.id = Get<std::uint64_t>(bytes, 8);
  header.body_bytes = Get<std::uint32_t>(bytes, 16);
  header.payload_bytes = Get<std::uint32_t>(bytes, 20);
  header.budget_ms = Get<std::uint32_t>(bytes, 24);
  if (header.body_bytes > kBodyBytesMax || header.payload_bytes > kPayloadBytesMax) {
    return Fail(ErrorId::kFrameTooLarge, fmt::format("body of {} and payload of {} bytes",
                                                     header.body_bytes, header.payload_bytes));
  }
  return header;
}

BufferedReader::BufferedReader(std::shared_ptr<Stream> stream, std::size_t buffer_bytes)
    : stream_(std::move(stream)), buffer_bytes_(buffer_bytes) {}

Task<Status> BufferedReader::Want(std::size_t count) {
  constexpr std::size_t kBeginBytes = 512;  // holds a small frame
  if (buffer_.size() < count || buffer_.empty())
    buffer_.resize(std::min(buffer_bytes_, std::max(count, kBeginBytes)));
  if (begin_ == end_) begin_ = end_ = 0;
  if (buffer_.size() - begin_ < count) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ - begin_ < count) {
    const Result<std::size_t> read =
        co_await stream_->ReadSome(MutableBytes(buffer_).subspan(end_));
    if (!read) co_return Fail(read.error());
    end_ += *read;
    if (end_ == buffer_.size() && end_ < buffer_bytes_)
      buffer_.resize(std::min(2 * end_, buffer_bytes_));
  }
  co_return Status{};
}

Task<Status> BufferedReader::ReadExact(MutableBytes into) {
  const std::size_t ready = std::min(into.size(), end_ - begin_);
  if (ready > 0) std::memcpy(into.data(), buffer_.data() + begin_, ready);
  begin_ += ready;
  into = into.subspan(ready);
  if (into.empty()) co_return Status{};
  constexpr std::size_t kDirectBytesMin = 4096;
  if (into.size() >= kDirectBytesMin) co_return co_await ReadFull(*stream_, into);
  const Status wanted = co_await Want(into.size());
  if (!wanted) co_return Fail(wanted.error());
  std::memcpy(into.data(), buffer_.data() + begin_, into.size());
  begin_ += into.size();
  co_return Status{};
}

template <class Container>
Task<Status> BufferedReader::ReadInto(Container& into, std::size_t count) {
  constexpr std::size_t kStepBytes = 64 << 10;
  into.clear();
  while (into.size() < count) {
    const std::size_t have = into.size();
    into.resize(std::min(count, std::max(kStepBytes, 2 * have)));
    const MutableBytes piece(reinterpret_cast<std::byte*>(into.data()) + have, into.size() - have);
    const Status read = co_await ReadExact(piece);
    if (!read) co_return read;
  }
  co_return Status{};
}

Task<Status> BufferedReader::ReadGrowing(std::string& into, std::size_t count) {
  return ReadInto(into, count);
}
Task<Status> BufferedReader::ReadGrowing(std::vector<std::byte>& into, std::size_t count) {
  return ReadInto(into, count);
}

Task<Status> BufferedReader::ReadExactV(std::span<MutableBytes> into) {
  for (Advance(into, 0); !into.empty(); Advance(into, 0)) {
    if (const std::size_t ready = std::min(into.front().size(), end_ - begin_); ready > 0) {
      std::memcpy(into.front().data(), buffer_.data() + begin_, ready);
      begin_ += ready;
      Advance(into, ready);
      continue;
    }
    const Result<std::size_t> read = co_await stream_->ReadSomeV(into);
    if (!read) co_return Fail(read.error());
    Advance(into, *read);
  }
  co_return Status{};
}

Task<Result<FrameHeader>> BufferedReader::ReadHeader() {
  const Status wanted = co_await Want(kFrameHeaderBytes);
  if (!wanted) co_return Fail(wanted.error());
  const Result<FrameHeader> header = DecodeFrameHeader(buffered());
  if (header) Consume(kFrameHeaderBytes);
  co_return header;
}

Task<Result<Frame>> BufferedReader::ReadFrame() {
  const Result<FrameHeader> header = co_await ReadHeader();
  if (!header) co_return Fail(header.error());
  Frame frame{*header, {}, {}};
  const Status body_read = co_await ReadGrowing(frame.body, header->body_bytes);
  if (!body_read) co_return Fail(body_read.error());
  const Status payload_read = co_await ReadGrowing(frame.payload, header->payload_bytes);
  if (!payload_read) co_return Fail(payload_read.error());
  co_return frame;
}

Task<Status> WriteFrame(Stream& stream, FrameHeader header, Bytes body, Bytes payload) {
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  const FrameHeaderBytes encoded = Encode(header);
  const std::array<Bytes, 3> buffers = {Bytes(encoded), body, payload};
  co_return co_await stream.Write(buffers);
}

}  // namespace mooncake
