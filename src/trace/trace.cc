#include "trace/trace.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <iterator>

#include "base/assert.h"

namespace mooncake {
namespace {

namespace json = boost::json;

// `value` as a whole number from 0 to `most`.
Result<std::uint64_t> WholeNumber(const json::value& value, std::string_view what,
                                  std::uint64_t most) {
  if (value.is_int64() && value.get_int64() < 0) {
    return Fail(ErrorId::kBadTrace, fmt::format("{} is negative", what));
  }
  if (!value.is_int64() && !value.is_uint64()) {
    return Fail(ErrorId::kBadTrace, fmt::format("{} is not a whole number", what));
  }
  const std::uint64_t number =
      value.is_int64() ? static_cast<std::uint64_t>(value.get_int64()) : value.get_uint64();
  if (number > most)
    return Fail(ErrorId::kBadTrace, fmt::format("{} is {}, more than {}", what, number, most));
  return number;
}

Result<const json::value*> Field(const json::object& object, std::string_view name) {
  const json::value* const value = object.if_contains(name);
  if (value == nullptr) return Fail(ErrorId::kBadTrace, fmt::format("{} is missing", name));
  return value;
}

Result<std::uint64_t> NumberField(const json::object& object, std::string_view name,
                                  std::uint64_t most) {
  MC_TRY(const json::value* const value, Field(object, name));
  return WholeNumber(*value, name, most);
}

Result<std::vector<std::uint64_t>> HashIds(const json::object& object) {
  MC_TRY(const json::value* const value, Field(object, "hash_ids"));
  const json::array* const array = value->if_array();
  if (array == nullptr) return Fail(ErrorId::kBadTrace, "hash_ids is not a list");
  std::vector<std::uint64_t> ids;
  ids.reserve(array->size());
  for (const json::value& element : *array) {
    constexpr std::uint64_t kIdMax = std::numeric_limits<std::uint64_t>::max();
    MC_TRY(const std::uint64_t id,
           WholeNumber(element, fmt::format("hash_ids[{}]", ids.size()), kIdMax));
    ids.push_back(id);
  }
  return ids;
}

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

// Cuts the next line off `text`.
std::string_view NextLine(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

Status CheckOrder(const Trace& trace, const TraceRequest& next) {
  if (trace.empty() || next.timestamp_ms >= trace.back().timestamp_ms) return {};
  return Fail(ErrorId::kBadTrace, fmt::format("timestamp goes backwards, from {} to {}",
                                              trace.back().timestamp_ms, next.timestamp_ms));
}

Result<TraceRequest> ParseNext(const Trace& before, std::string_view line) {
  MC_TRY(TraceRequest request, ParseTraceLine(line));
  MC_TRY_STATUS(CheckOrder(before, request));
  return request;
}

}  // namespace

Result<TraceRequest> ParseTraceLine(std::string_view line) {
  if (line.size() > kTraceLineBytesMax) {
    return Fail(ErrorId::kBadTrace,
                fmt::format("{} bytes, more than {}", line.size(), kTraceLineBytesMax));
  }
  boost::system::error_code error;
  const json::value value = json::parse(line, error);
  if (error) return Fail(ErrorId::kBadTrace, fmt::format("not JSON: {}", error.message()));
  const json::object* const object = value.if_object();
  if (object == nullptr) return Fail(ErrorId::kBadTrace, "not a JSON object");
  TraceRequest request;
  MC_TRY(request.timestamp_ms,
         NumberField(*object, "timestamp", std::numeric_limits<std::int64_t>::max()));
  MC_TRY(const std::uint64_t input_tokens, NumberField(*object, "input_length", kTraceTokensMax));
  MC_TRY(const std::uint64_t output_tokens, NumberField(*object, "output_length", kTraceTokensMax));
  MC_TRY(request.hash_ids, HashIds(*object));
  request.input_tokens = static_cast<std::uint32_t>(input_tokens);
  request.output_tokens = static_cast<std::uint32_t>(output_tokens);
  if (input_tokens == 0)
    return Fail(ErrorId::kBadTrace, "input_length is 0: a request has a prompt");
  if (request.hash_ids.size() != BlocksOf(request.input_tokens)) {
    return Fail(ErrorId::kBadTrace,
                fmt::format("hash_ids has {} ids, but input_length {} makes {} blocks of {}",
                            request.hash_ids.size(), input_tokens, BlocksOf(request.input_tokens),
                            kTraceBlockTokens));
  }
  return request;
}

Result<Trace> ParseTrace(std::string_view text, std::string_view name, std::size_t limit) {
  Trace trace;
  for (std::size_t number = 1; !text.empty() && trace.size() < limit; ++number) {
    const std::string_view line = NextLine(text);
    if (IsBlank(line)) continue;
    Result<TraceRequest> request = ParseNext(trace, line);
    if (!request)
      return Fail(Within(fmt::format("{} line {}", name, number), std::move(request).error()));
    trace.push_back(*std::move(request));
  }
  if (trace.empty()) return Fail(ErrorId::kBadTrace, fmt::format("{} holds no request", name));
  return trace;
}

std::string FormatTrace(const Trace& trace) {
  std::string text;
  for (const TraceRequest& request : trace) {
    fmt::format_to(
        std::back_inserter(text),
        "{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": {}, \"hash_ids\": [{}]}}\n",
        request.timestamp_ms, request.input_tokens, request.output_tokens,
        fmt::join(request.hash_ids, ", "));
  }
  return text;
}

std::vector<Token> TokensOf(const TraceRequest& request, std::uint32_t vocabulary) {
  MC_ASSERT(vocabulary > 0);
  MC_ASSERT(request.hash_ids.size() == BlocksOf(request.input_tokens));
  std::vector<Token> tokens(request.input_tokens);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::uint64_t block_seed = Mix(request.hash_ids[i / kTraceBlockTokens] + kGolden);
    const std::uint64_t word = Mix(block_seed + i % kTraceBlockTokens * kGolden);
    tokens[i] = static_cast<Token>(ReduceTo(word, vocabulary));
  }
  return tokens;
}

}  // namespace mooncake
