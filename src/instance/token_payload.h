// Prompts as they travel between instances: tokens of four bytes, little-endian, in the payload of
// a frame.
#pragma once

#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "base/result.h"
#include "base/world.h"
#include "model/synthetic_model.h"

namespace mooncake {

[[nodiscard]] inline std::vector<std::byte> ToPayload(std::span<const Token> tokens) {
  std::vector<std::byte> payload(tokens.size_bytes());
  if (!payload.empty()) std::memcpy(payload.data(), tokens.data(), payload.size());
  return payload;
}

/// kBadRequest: no token, a part of one, or one that the vocabulary does not have.
[[nodiscard]] inline Result<std::vector<Token>> TokensFromPayload(Bytes payload,
                                                                  std::uint32_t vocabulary) {
  if (payload.empty() || payload.size() % sizeof(Token) != 0) {
    return Fail(ErrorId::kBadRequest, fmt::format("a prompt of {} bytes", payload.size()));
  }
  std::vector<Token> tokens(payload.size() / sizeof(Token));
  std::memcpy(tokens.data(), payload.data(), payload.size());
  for (const Token token : tokens) {
    if (token >= vocabulary) {
      return Fail(ErrorId::kBadRequest,
                  fmt::format("token {} is outside the vocabulary of {}", token, vocabulary));
    }
  }
  return tokens;
}

}  // namespace mooncake
