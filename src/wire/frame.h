// The frame: a header of 32 bytes, a Protobuf body, a payload of raw bytes. docs/wire.md is the
// specification.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/world.h"

namespace mooncake {

enum class FrameKind : std::uint8_t {
  kHello = 1,       ///< First frame of a connection. Body: Hello.
  kHelloReply = 2,  ///< Its answer. Body: HelloReply.
  kRequest = 3,     ///< `id` is the caller's, unique among its calls in flight on this connection.
  kReply = 4,       ///< Ends the call `id`.
  kItem = 5,        ///< One of several answers to the call `id`; a kReply follows at the end.
  kFailure = 6,     ///< Ends the call `id`. Body: Failure.
  kCancel = 7,      ///< The caller no longer waits for `id`. Answered by nothing.
  kPing = 8,        ///< Answered by kPong with the same id.
  kPong = 9,
  kChallenge = 10,       ///< Before the hello, where there is a secret. Body: Challenge.
  kChallengeReply = 11,  ///< Body: ChallengeReply.
  kProof = 12,           ///< Body: Proof. The hello follows at once.
  kWrite = 16,           ///< Data connections: gather list in the body, bytes in the payload.
  kRead = 17,            ///< Gather list in the body; answered by kData or kDataFailure.
  kData = 18,
  kAck = 19,          ///< Every kWrite up to and including `id` is in memory.
  kDataFailure = 20,  ///< The kWrite or kRead `id` was refused. Body: Failure.
};

/// Flag of a kWrite: another frame of the same sender follows at once; its acknowledgement is soon
/// enough.
inline constexpr std::uint8_t kFrameMoreFollows = 1;

inline constexpr std::uint32_t kFrameMagic = 0x314B434D;  ///< "MCK1" in memory order.
inline constexpr std::size_t kFrameHeaderBytes = 32;
inline constexpr std::uint32_t kBodyBytesMax = 4 << 20;
inline constexpr std::uint32_t kPayloadBytesMax = 4 << 20;

/// All integers little-endian on the wire.
struct FrameHeader {
  FrameKind kind = FrameKind::kPing;
  std::uint8_t flags = 0;
  std::uint16_t method = 0;
  std::uint64_t id = 0;
  std::uint32_t body_bytes = 0;
  std::uint32_t payload_bytes = 0;
  std::uint32_t budget_ms = 0;  ///< Time left for the answer; 0: no limit.
};

using FrameHeaderBytes = std::array<std::byte, kFrameHeaderBytes>;

[[nodiscard]] FrameHeaderBytes Encode(const FrameHeader& header) noexcept;
/// Errors: kBadFrame (magic, kind, checksum), kFrameTooLarge.
[[nodiscard]] Result<FrameHeader> DecodeFrameHeader(Bytes bytes);

struct Frame {
  FrameHeader header;
  std::string body;
  std::vector<std::byte> payload;
};

/// Reads a stream through a buffer, so that a small frame costs one system call and a large payload
/// none extra. Lives on the stream's loop; one coroutine reads at a time.
class BufferedReader {
 public:
  /// Reads ahead as much as its buffer holds, `buffer_bytes` at most: what follows a small frame
  /// comes with it, but a part of a large one is copied once more. The buffer begins small, because
  /// idle connections are many, and grows while more comes than it holds.
  explicit BufferedReader(std::shared_ptr<Stream> stream, std::size_t buffer_bytes = 64 << 10);
  /// Fills `into`; large remainders are read straight into it.
  [[nodiscard]] Task<Status> ReadExact(MutableBytes into);
  /// Reads `count` bytes into `into`, which grows while they come: a peer that only announces them
  /// takes no memory.
  [[nodiscard]] Task<Status> ReadGrowing(std::string& into, std::size_t count);
  [[nodiscard]] Task<Status> ReadGrowing(std::vector<std::byte>& into, std::size_t count);
  /// Fills every span, in order, in as few system calls as it can. What lies in `into` afterwards
  /// is of no use.
  [[nodiscard]] Task<Status> ReadExactV(std::span<MutableBytes> into);
  /// At least `count` bytes are buffered afterwards; `count` is at most 4096.
  [[nodiscard]] Task<Status> Want(std::size_t count);
  [[nodiscard]] Bytes buffered() const noexcept {
    return Bytes(buffer_).subspan(begin_, end_ - begin_);
  }
  void Consume(std::size_t count) noexcept { begin_ += count; }
  /// A whole frame. Errors as DecodeFrameHeader and Stream::ReadSome.
  [[nodiscard]] Task<Result<Frame>> ReadFrame();
  [[nodiscard]] Task<Result<FrameHeader>> ReadHeader();
  [[nodiscard]] Stream& stream() noexcept { return *stream_; }
  [[nodiscard]] const std::shared_ptr<Stream>& shared_stream() const noexcept { return stream_; }

 private:
  template <class Container>
  Task<Status> ReadInto(Container& into, std::size_t count);

  // Shared with whoever writes to the stream: either end may be the last.
  std::shared_ptr<Stream> stream_;
  const std::size_t buffer_bytes_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

/// Header, body and payload in one write.
[[nodiscard]] Task<Status> WriteFrame(Stream& stream, FrameHeader header, Bytes body,
                                      Bytes payload = {});

[[nodiscard]] inline Bytes AsBytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
[[nodiscard]] inline std::string_view AsText(Bytes bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace mooncake
