// The OpenAI completions API as values: requests read, answers written.
// https://platform.openai.com/docs/api-reference/completions
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "instance/coordinator.h"
#include "model/tokenizer.h"

namespace mooncake {

struct CompletionRequest {
  std::vector<Token> prompt;
  std::uint32_t tokens_max = 16;
  bool stream = false;
  bool include_usage = false;       ///< stream_options.include_usage
  std::optional<Duration> timeout;  ///< "timeout", seconds: a deadline of the client's own.
};

/// `prompt` is a text or an array of token ids; `model` may be left out. Sampling parameters are
/// accepted and change nothing: the synthetic model has one answer. kBadRequest names the field.
[[nodiscard]] Result<CompletionRequest> ParseCompletionRequest(std::string_view body,
                                                               const std::string& model_name,
                                                               std::uint32_t vocabulary);

/// What an answer is written from.
struct CompletionHead {
  std::string id;        ///< "cmpl-…"
  std::int64_t created;  ///< Unix seconds.
  std::string model;
};

[[nodiscard]] std::string CompletionJson(const CompletionHead& head, std::size_t prompt_tokens,
                                         std::span<const Token> tokens,
                                         const CompletionResult& result);
/// One "data: …" event with new tokens.
[[nodiscard]] std::string CompletionChunk(const CompletionHead& head,
                                          std::span<const Token> tokens);
/// The last events: finish_reason, usage if asked for, "data: [DONE]".
[[nodiscard]] std::string CompletionEnd(const CompletionHead& head,
                                        const CompletionRequest& request, std::size_t generated,
                                        const CompletionResult& result);
/// {"error": {"message", "type", "code"}}: the code is our stable id.
[[nodiscard]] std::string ErrorJson(const Error& error);
/// The HTTP status that goes with it.
[[nodiscard]] int HttpStatusOf(const Error& error) noexcept;

}  // namespace mooncake
