// The shapes of real models, as published: all that decides how many bytes their KV cache has. A
// scaled shape is the same cache with thinner rows, so that a laptop can hold it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mooncake {

/// What one model keeps per token. Every field is at least 1.
struct ModelShape {
  std::string name;  ///< "llama-3-8b": lower case.
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;     ///< Heads that K and V are stored for, not those that attend.
  std::uint32_t head_dim = 0;     ///< Elements per head.
  std::uint32_t parts = 2;        ///< 2: K and V. 1: one latent stands for both (MLA).
  std::string dtype;              ///< Of the KV cache: "bfloat16", "float16" or "fp8".
  std::uint32_t dtype_bytes = 0;  ///< Of one element.
  std::uint32_t vocabulary = 0;   ///< Token ids are below it.
  std::uint32_t max_context = 0;  ///< Tokens of prompt and answer together.

  /// Bytes of one token in one layer, all parts: 4096 for llama-3-8b.
  [[nodiscard]] std::uint64_t row_bytes() const noexcept;
  /// Bytes of one token in all layers: 131072 for llama-3-8b.
  [[nodiscard]] std::uint64_t bytes_per_token() const noexcept;
};

/// All shapes, small ones first; they live as long as the process. "tiny" is no real model: it is
/// for tests.
[[nodiscard]] std::span<const ModelShape> AllModels();
/// kUnknownModel: names the nearest known name, if one is near, else all of them.
[[nodiscard]] Result<ModelShape> FindModel(std::string_view name);

inline constexpr std::uint32_t kRowUnitBytes = 8;  ///< Rows are a multiple of this.
inline constexpr std::uint32_t kPageTokensMax = 4096;

/// A model's cache as an instance keeps it. In memory, the page of one layer is `page_tokens` rows,
/// one after another.
struct ScaledShape {
  std::string name;  ///< Of the model it was scaled from.
  std::uint32_t layers = 0;
  std::uint32_t row_bytes =
      0;  ///< Of one token in one layer, all parts; a multiple of kRowUnitBytes.
  std::uint32_t page_tokens = 0;  ///< 1 to kPageTokensMax.
  std::uint32_t vocabulary = 0;
  std::uint32_t max_context = 0;

  /// Of one token in all layers.
  [[nodiscard]] std::uint64_t bytes_per_token() const noexcept {
    return std::uint64_t{layers} * row_bytes;
  }
  /// Of one page of one layer.
  [[nodiscard]] std::uint64_t page_bytes() const noexcept {
    return std::uint64_t{page_tokens} * row_bytes;
  }

  bool operator==(const ScaledShape&) const = default;
};

/// `scale` in (0, 1] multiplies the bytes of a row, rounded down to a multiple of kRowUnitBytes,
/// but at least one; the number of layers stays. kBadOptionValue: scale or page_tokens out of
/// range.
[[nodiscard]] Result<ScaledShape> Scale(const ModelShape& model, double scale,
                                        std::uint32_t page_tokens);

}  // namespace mooncake
