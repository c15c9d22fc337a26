#include "model/model_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "base/options.h"

namespace mooncake {
namespace {

// From the config.json that each model was published with (num_hidden_layers, num_key_value_heads,
// head_dim, torch_dtype, vocab_size, max_position_embeddings). deepseek-v3 keeps kv_lora_rank 512 +
// qk_rope_head_dim 64 elements per token and layer; the numbers of mistral-7b are those of v0.2, of
// phi-3-mini those of the 4k variant.
std::array<ModelShape, 11> MakeModels() {
  const auto shape = [](const char* name, std::uint32_t layers, std::uint32_t kv_heads,
                        std::uint32_t head_dim, std::uint32_t parts, std::uint32_t vocabulary,
                        std::uint32_t max_context) {
    return ModelShape{name,       layers, kv_heads,   head_dim,   parts,
                      "bfloat16", 2,      vocabulary, max_context};
  };
  return {shape("tiny", 4, 2, 16, 2, 1024, 131072),
          shape("phi-3-mini", 32, 32, 96, 2, 32064, 4096),
          shape("mistral-7b", 32, 8, 128, 2, 32000, 32768),
          shape("qwen2.5-7b", 28, 4, 128, 2, 152064, 131072),
          shape("llama-3-8b", 32, 8, 128, 2, 128256, 8192),
          shape("gemma-2-9b", 42, 8, 256, 2, 256000, 8192),
          shape("mixtral-8x7b", 32, 8, 128, 2, 32000, 32768),
          shape("llama-3-70b", 80, 8, 128, 2, 128256, 8192),
          shape("qwen2.5-72b", 80, 8, 128, 2, 152064, 131072),
          shape("llama-3.1-405b", 126, 8, 128, 2, 128256, 131072),
          shape("deepseek-v3", 61, 1, 576, 1, 129280, 163840)};
}

std::vector<std::string> ModelNames() {
  std::vector<std::string> names;
  for (const ModelShape& model : AllModels()) names.push_back(model.name);
  return names;
}

}  // namespace

std::uint64_t ModelShape::row_bytes() const noexcept {
  return std::uint64_t{parts} * kv_heads * head_dim * dtype_bytes;
}

std::uint64_t ModelShape::bytes_per_token() const noexcept { return layers * row_bytes(); }

std::span<const ModelShape> AllModels() {
  static const std::array<ModelShape, 11> models = MakeModels();
  return models;
}

Result<ModelShape> FindModel(std::string_view name) {
  const std::span<const ModelShape> models = AllModels();
  const auto found = std::find_if(models.begin(), models.end(),
                                  [&](const ModelShape& m) { return m.name == name; });
  if (found != models.end()) return *found;
  const std::vector<std::string> names = ModelNames();
  if (const std::optional<std::string> nearest = NearestName(name, names)) {
    return Fail(ErrorId::kUnknownModel,
                fmt::format("\"{}\"; did you mean \"{}\"?", name, *nearest));
  }
  return Fail(ErrorId::kUnknownModel,
              fmt::format("\"{}\" is none of {}", name, fmt::join(names, ", ")));
}

Result<ScaledShape> Scale(const ModelShape& model, double scale, std::uint32_t page_tokens) {
  if (!(scale > 0.0 && scale <= 1.0)) {  // so written, NaN fails too
    return Fail(ErrorId::kBadOptionValue,
                fmt::format("scale = {}: it must be above 0 and at most 1", scale));
  }
  if (page_tokens == 0 || page_tokens > kPageTokensMax) {
    return Fail(ErrorId::kBadOptionValue,
                fmt::format("page_tokens = {}: it must be 1 to {}", page_tokens, kPageTokensMax));
  }
  const auto scaled_bytes =
      static_cast<std::uint32_t>(static_cast<double>(model.row_bytes()) * scale);
  const std::uint32_t row_bytes =
      std::max(scaled_bytes / kRowUnitBytes * kRowUnitBytes, kRowUnitBytes);
  return ScaledShape{model.name,  model.layers,     row_bytes,
                     page_tokens, model.vocabulary, model.max_context};
}

}  // namespace mooncake
