// RESP2, the protocol of redis (https://redis.io/docs/latest/develop/reference/protocol-spec/):
// commands out, replies in.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mooncake {

enum class RespKind : std::uint8_t { kNull, kSimple, kError, kInteger, kBulk, kArray };

struct RespValue {
  RespKind kind = RespKind::kNull;
  std::string text;  ///< kSimple, kError, kBulk.
  std::int64_t integer = 0;
  std::vector<RespValue> items;  ///< kArray.
};

inline constexpr std::size_t kRespLineBytesMax = 4096;
inline constexpr std::size_t kRespBulkBytesMax = 16 << 20;
inline constexpr std::size_t kRespValuesMax = 1 << 20;  ///< In one reply, at every depth together.
inline constexpr int kRespDepthMax = 8;

/// The reply that `bytes` begin with; `consumed` is its length. nullopt: it is not complete yet.
/// kDirectoryGarbage: it is not RESP, or beyond the bounds above; the context quotes what it is.
[[nodiscard]] Result<std::optional<RespValue>> DecodeResp(std::string_view bytes,
                                                          std::size_t& consumed);

/// A command as redis takes it: an array of bulk strings.
[[nodiscard]] std::string EncodeRespCommand(std::span<const std::string> words);

}  // namespace mooncake
