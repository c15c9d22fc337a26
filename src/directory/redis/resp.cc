#include "directory/redis/resp.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace mooncake {
namespace {

constexpr std::string_view kEnd = "\r\n";

tl::unexpected<Error> Garbage(std::string_view what, std::string_view bytes) {
  constexpr std::size_t kQuotedMax = 24;
  std::string quoted;
  for (const char c : bytes.substr(0, kQuotedMax)) {
    if (c >= ' ' && c <= '~') {
      quoted += c;
    } else {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return Fail(ErrorId::kDirectoryGarbage, fmt::format("{}: \"{}\"", what, quoted));
}

// Each function returns nullopt where the bytes end too early.
class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : all_(bytes), rest_(bytes) {}

  Result<std::optional<RespValue>> Value(int depth) {
    if (++values_ > kRespValuesMax) return Garbage("a reply has too many values", all_);
    if (rest_.empty()) return std::nullopt;
    const char type = rest_.front();
    if (std::string_view("+-:$*").find(type) == std::string_view::npos) {
      return Garbage("not a reply of redis", rest_);
    }
    MC_TRY(const std::optional<std::string_view> line, Line());
    if (!line) return std::nullopt;
    switch (type) {
      case '+':
        return RespValue{RespKind::kSimple, std::string(*line), 0, {}};
      case '-':
        return RespValue{RespKind::kError, std::string(*line), 0, {}};
      case '$':
        return Bulk(*line);
      case '*':
        return Array(*line, depth);
      default:
        break;
    }
    MC_TRY(const std::int64_t integer, Number(*line));
    return RespValue{RespKind::kInteger, {}, integer, {}};
  }

  [[nodiscard]] std::size_t consumed() const noexcept { return all_.size() - rest_.size(); }

 private:
  Result<std::optional<std::string_view>> Line() {
    const std::size_t end = rest_.substr(0, kRespLineBytesMax + kEnd.size()).find(kEnd);
    if (end == std::string_view::npos) {
      if (rest_.size() >= kRespLineBytesMax + kEnd.size()) {
        return Garbage("a reply has an endless line", rest_);
      }
      return std::nullopt;
    }
    const std::string_view line = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + kEnd.size());
    return line;
  }

  static Result<std::int64_t> Number(std::string_view text) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) {
      return Garbage("a reply has no number where one must be", text);
    }
    return number;
  }

  Result<std::optional<RespValue>> Bulk(std::string_view line) {
    MC_TRY(const std::int64_t length, Number(line));
    if (length == -1) return RespValue{};
    if (length < 0 || static_cast<std::uint64_t>(length) > kRespBulkBytesMax) {
      return Garbage("a reply claims a length that no record has", line);
    }
    const auto size = static_cast<std::size_t>(length);
    if (rest_.size() < size + kEnd.size()) return std::nullopt;
    if (rest_.substr(size, kEnd.size()) != kEnd) {
      return Garbage("a text in a reply does not end where it must", rest_.substr(size));
    }
    RespValue value{RespKind::kBulk, std::string(rest_.substr(0, size)), 0, {}};
    rest_.remove_prefix(size + kEnd.size());
    return value;
  }

  Result<std::optional<RespValue>> Array(std::string_view line, int depth) {
    MC_TRY(const std::int64_t count, Number(line));
    if (count == -1) return RespValue{};
    if (count < 0 || static_cast<std::uint64_t>(count) > kRespValuesMax || depth == kRespDepthMax) {
      return Garbage("a reply is an array beyond all bounds", line);
    }
    RespValue array{RespKind::kArray, {}, 0, {}};
    for (std::int64_t i = 0; i < count;
         ++i) {  // grows with what is there, not with what is claimed
      MC_TRY(std::optional<RespValue> item, Value(depth + 1));
      if (!item) return std::nullopt;
      array.items.push_back(std::move(*item));
    }
    return array;
  }

  std::string_view all_;
  std::string_view rest_;
  std::size_t values_ = 0;
};

}  // namespace

Result<std::optional<RespValue>> DecodeResp(std::string_view bytes, std::size_t& consumed) {
  Decoder decoder(bytes);
  Result<std::optional<RespValue>> value = decoder.Value(0);
  consumed = value && *value ? decoder.consumed() : 0;
  return value;
}

std::string EncodeRespCommand(std::span<const std::string> words) {
  std::string command = fmt::format("*{}\r\n", words.size());
  for (const std::string& word : words) command += fmt::format("${}\r\n{}\r\n", word.size(), word);
  return command;
}

}  // namespace mooncake
