#include "instance/completions.h"

#include <fmt/format.h>

#include <boost/json.hpp>

namespace mooncake {
namespace {

namespace json = boost::json;

tl::unexpected<Error> Bad(std::string what) { return Fail(ErrorId::kBadRequest, std::move(what)); }

Result<std::vector<Token>> ParsePrompt(const json::value* prompt, std::uint32_t vocabulary) {
  if (prompt == nullptr) return Bad("\"prompt\" is missing");
  if (prompt->is_string()) {
    std::vector<Token> tokens = TokenizeText(prompt->get_string());
    if (tokens.empty()) return Bad("\"prompt\" is empty");
    return tokens;
  }
  if (!prompt->is_array()) return Bad("\"prompt\" must be a text or an array of token ids");
  const json::array& array = prompt->get_array();
  if (array.size() == 1 && (array[0].is_string() || array[0].is_array()))
    return ParsePrompt(&array[0], vocabulary);
  if (array.empty()) return Bad("\"prompt\" is empty");
  std::vector<Token> tokens;
  tokens.reserve(array.size());
  for (const json::value& entry : array) {
    json::error_code code;
    const auto token = entry.to_number<std::int64_t>(code);
    if (code || token < 0 || token >= static_cast<std::int64_t>(vocabulary)) {
      return Bad(
          fmt::format("\"prompt\" holds {} at place {}: token ids are whole numbers below {}",
                      json::serialize(entry), tokens.size(), vocabulary));
    }
    tokens.push_back(static_cast<Token>(token));
  }
  return tokens;
}

json::object Usage(std::size_t prompt_tokens, std::size_t generated,
                   const CompletionResult& result) {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", generated},
          {"total_tokens", prompt_tokens + generated},
          {"prompt_tokens_details",
           {{"cached_tokens",
             std::max(result.generation.prefill.tokens_cached, result.generation.tokens_cached)}}}};
}

// How the cache came: beyond OpenAI's fields, under a name of our own.
json::object Journey(const CompletionResult& result) {
  const Generation& generation = result.generation;
  json::object paths;
  for (const auto& [path, bytes] : generation.prefill.bytes_by_path) paths[path] = bytes;
  const auto ms = [](Duration d) { return std::chrono::duration<double, std::milli>(d).count(); };
  return {{"prefill_instance",
           generation.prefill_label.empty() ? result.decode_label : generation.prefill_label},
          {"decode_instance", result.decode_label},
          {"prefill_cached_tokens", generation.prefill.tokens_cached},
          {"decode_cached_tokens", generation.tokens_cached},
          {"kv_bytes_moved", generation.prefill.bytes_moved},
          {"kv_bytes_by_path", std::move(paths)},
          {"prefill_ms", ms(generation.prefill.compute)},
          {"transfer_ms", ms(generation.prefill.transfer)}};
}

json::object Choice(std::span<const Token> tokens, json::value finish_reason) {
  std::string text;
  json::array ids;
  ids.reserve(tokens.size());
  for (const Token token : tokens) {
    text += TokenText(token);
    ids.emplace_back(token);
  }
  return {{"index", 0},
          {"text", std::move(text)},
          {"token_ids", std::move(ids)},
          {"logprobs", nullptr},
          {"finish_reason", std::move(finish_reason)}};
}

json::object Envelope(const CompletionHead& head, json::array choices) {
  return {{"id", head.id},
          {"object", "text_completion"},
          {"created", head.created},
          {"model", head.model},
          {"choices", std::move(choices)}};
}

std::string Event(const json::object& object) {
  return "data: " + json::serialize(object) + "\n\n";
}

}  // namespace

Result<CompletionRequest> ParseCompletionRequest(std::string_view body,
                                                 const std::string& model_name,
                                                 std::uint32_t vocabulary) {
  json::error_code code;
  const json::value value = json::parse(body, code);
  if (code) return Bad("the body is not JSON: " + code.message());
  if (!value.is_object()) return Bad("the body must be a JSON object");
  const json::object& object = value.get_object();
  CompletionRequest request;
  if (const json::value* model = object.if_contains("model");
      model != nullptr && !model->is_null()) {
    if (!model->is_string() || model->get_string() != model_name) {
      return Bad(fmt::format("\"model\" is {}, this instance serves \"{}\"",
                             json::serialize(*model), model_name));
    }
  }
  MC_TRY(request.prompt, ParsePrompt(object.if_contains("prompt"), vocabulary));
  if (const json::value* count = object.if_contains("max_tokens");
      count != nullptr && !count->is_null()) {
    const auto tokens = count->to_number<std::int64_t>(code);
    if (code || tokens < 1 || tokens > INT32_MAX)
      return Bad("\"max_tokens\" must be a whole number, at least 1");
    request.tokens_max = static_cast<std::uint32_t>(tokens);
  }
  if (const json::value* n = object.if_contains("n"); n != nullptr && !n->is_null()) {
    if (const auto count = n->to_number<std::int64_t>(code); code || count != 1)
      return Bad("\"n\" must be 1");
  }
  if (const json::value* stream = object.if_contains("stream");
      stream != nullptr && !stream->is_null()) {
    if (!stream->is_bool()) return Bad("\"stream\" must be true or false");
    request.stream = stream->get_bool();
  }
  if (const json::value* options = object.if_contains("stream_options");
      options != nullptr && options->is_object()) {
    const json::value* usage = options->get_object().if_contains("include_usage");
    request.include_usage = usage != nullptr && usage->is_bool() && usage->get_bool();
  }
  if (const json::value* timeout = object.if_contains("timeout");
      timeout != nullptr && !timeout->is_null()) {
    const auto seconds = timeout->to_number<double>(code);
    constexpr double kSecondsMax = 86400;
    if (code || !(seconds > 0) || seconds > kSecondsMax)
      return Bad("\"timeout\" must be a number of seconds, above 0");
    request.timeout = Duration(static_cast<std::int64_t>(seconds * 1e9));
  }
  return request;
}

std::string CompletionJson(const CompletionHead& head, std::size_t prompt_tokens,
                           std::span<const Token> tokens, const CompletionResult& result) {
  json::object object = Envelope(head, {Choice(tokens, "length")});
  object["usage"] = Usage(prompt_tokens, tokens.size(), result);
  object["mooncake"] = Journey(result);
  return json::serialize(object) + "\n";
}

std::string CompletionChunk(const CompletionHead& head, std::span<const Token> tokens) {
  return Event(Envelope(head, {Choice(tokens, nullptr)}));
}

std::string CompletionEnd(const CompletionHead& head, const CompletionRequest& request,
                          std::size_t generated, const CompletionResult& result) {
  json::object last = Envelope(head, {Choice({}, "length")});
  last["mooncake"] = Journey(result);
  std::string events = Event(last);
  if (request.include_usage) {
    json::object usage = Envelope(head, {});
    usage["usage"] = Usage(request.prompt.size(), generated, result);
    events += Event(usage);
  }
  return events + "data: [DONE]\n\n";
}

std::string ErrorJson(const Error& error) {
  const bool theirs = error.code() == Errc::kInvalidArgument || error.code() == Errc::kNoSpace;
  return json::serialize(json::object{{"error",
                                       {{"message", error.Text()},
                                        {"type", theirs ? "invalid_request_error" : "server_error"},
                                        {"code", ErrorName(error.id)}}}}) +
         "\n";
}

int HttpStatusOf(const Error& error) noexcept {
  switch (error.code()) {
    case Errc::kInvalidArgument:
      return 400;
    case Errc::kNoSpace:
      return 507;
    case Errc::kTryAgain:
      return 429;
    case Errc::kUnknownOutcome:
      return 504;
    case Errc::kUnavailable:
    case Errc::kPeerGone:
    case Errc::kNotFound:
      return 503;
    case Errc::kCancelled:
      return 499;
    default:
      return 500;
  }
}

}  // namespace mooncake
