// What two processes of one host say to each other before they share memory: the advertisement in
// the hand-shake, and packets on the local socket. Not a wire format: both ends run on one kernel,
// but a peer's bytes are still only data.
#pragma once

#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <string>

#include "base/ids.h"
#include "base/local_socket.h"

namespace mooncake::shm {

/// Where this process listens and what proves that it is the one that was meant.
struct Advertisement {
  std::string name;  ///< Of the abstract socket.
  std::uint64_t nonce = 0;
};
/// "1 mooncake-<32 hexadecimal digits> <16 hexadecimal digits>"
[[nodiscard]] std::string Encode(const Advertisement& advertisement);
[[nodiscard]] std::optional<Advertisement> ParseAdvertisement(std::string_view text);

enum class MessageType : std::uint16_t { kHello = 1, kMap = 2, kRing = 3, kReply = 0x100 };

inline constexpr std::uint32_t kMessageMagic = 0x3153434D;  // "MCS1"

struct MessageHeader {
  std::uint32_t magic = kMessageMagic;
  MessageType type{};
  std::uint16_t error = 0;  ///< ErrorId of a reply that refuses, else 0.
  std::uint64_t request = 0;
};
/// Asks for nothing yet: who am I, whom do I mean. First on each connection.
struct Hello {
  static constexpr MessageType kType = MessageType::kHello;
  InstanceId self;
  InstanceId peer;
  std::uint64_t nonce = 0;
};
/// Asks for the descriptor of a region.
struct Map {
  static constexpr MessageType kType = MessageType::kMap;
  std::uint64_t region = 0;
  std::uint64_t key = 0;
  std::uint64_t access = 0;
};
/// Hands over a ring: descriptors of its memory and of a doorbell.
struct Ring {
  static constexpr MessageType kType = MessageType::kRing;
  std::uint64_t ring_bytes = 0;
};
struct Reply {
  static constexpr MessageType kType = MessageType::kReply;
  std::uint64_t length_bytes = 0;  ///< Of the region, for Map.
};

template <class Body>
[[nodiscard]] std::array<std::byte, sizeof(MessageHeader) + sizeof(Body)> Encode(
    std::uint64_t request, const Body& body, std::uint16_t error = 0) {
  static_assert(std::has_unique_object_representations_v<Body>, "no padding leaves this process");
  const MessageHeader header{kMessageMagic, Body::kType, error, request};
  std::array<std::byte, sizeof header + sizeof body> bytes;
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, &body, sizeof body);
  return bytes;
}

/// Nothing if the bytes are no message of ours.
[[nodiscard]] std::optional<MessageHeader> DecodeHeader(Bytes bytes);
/// Nothing unless the bytes are exactly one message of this type.
template <class Body>
[[nodiscard]] std::optional<Body> DecodeBody(Bytes bytes) {
  const std::optional<MessageHeader> header = DecodeHeader(bytes);
  if (!header || header->type != Body::kType ||
      bytes.size() != sizeof(MessageHeader) + sizeof(Body))
    return {};
  Body body;
  std::memcpy(&body, bytes.data() + sizeof(MessageHeader), sizeof body);
  return body;
}

}  // namespace mooncake::shm
