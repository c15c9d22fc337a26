#include "completion_client.h"

#include <fmt/format.h>

#include <boost/json.hpp>

namespace mooncake {
namespace {

namespace json = boost::json;

std::string Body(const CompletionAsk& ask) {
  json::array prompt;
  for (const Token token : ask.prompt) prompt.emplace_back(token);
  return json::serialize(
      json::object{{"prompt", std::move(prompt)},
                   {"max_tokens", ask.tokens_max},
                   {"stream", ask.stream},
                   {"timeout", std::chrono::duration<double>(ask.timeout).count()}});
}

Error Unreadable(std::string_view text) {
  return {ErrorId::kBadHttp, "an answer that cannot be read: " + std::string(text.substr(0, 100))};
}

// {"choices": [{"token_ids": […]}]} or {"error": {"code": "E502", "message": …}}.
void Read(std::string_view text, CompletionSeen& seen) {
  json::error_code code;
  const json::value value = json::parse(text, code);
  if (code || !value.is_object()) {
    seen.error = Unreadable(text);
    return;
  }
  const json::object& object = value.get_object();
  if (const json::value* const error = object.if_contains("error")) {
    const std::string id(error->at("code").as_string());
    seen.error = Error{static_cast<ErrorId>(std::strtoul(id.c_str() + 1, nullptr, 10)),
                       std::string(error->at("message").as_string())};
    seen.from_instance = true;
    return;
  }
  for (const json::value& token : object.at("choices").at(0).at("token_ids").as_array())
    seen.tokens.push_back(token.to_number<Token>());
}

// "data: {…}" lines; "[DONE]" is the last.
class Events {
 public:
  explicit Events(CompletionSeen& seen) : seen_(seen) {}
  void Feed(std::string_view data) {
    buffer_ += data;
    for (std::size_t end = 0; (end = buffer_.find('\n')) != std::string::npos;
         buffer_.erase(0, end + 1)) {
      constexpr std::string_view kData = "data: ";
      const std::string_view line(buffer_.data(), end);
      if (!line.starts_with(kData)) {
        other_ += line;
        continue;
      }
      if (line.substr(kData.size()) == "[DONE]") {
        done_ = true;
      } else {
        Read(line.substr(kData.size()), seen_);
      }
    }
  }
  [[nodiscard]] bool done() const noexcept { return done_; }
  /// What is no event.
  [[nodiscard]] std::string other() const { return other_ + buffer_; }

 private:
  CompletionSeen& seen_;
  std::string buffer_;
  std::string other_;
  bool done_ = false;
};

}  // namespace

Task<CompletionSeen> Complete(std::shared_ptr<HttpClient> client, CompletionAsk ask,
                              Instant deadline) {
  CompletionSeen seen;
  std::vector<std::pair<std::string, std::string>> headers = {{"Content-Type", "application/json"}};
  if (!ask.stream) {
    auto send = client->Send("POST", "/v1/completions", Body(ask), std::move(headers), deadline);
    const Result<HttpResponse> response = co_await std::move(send);
    if (response) {
      Read(response->body, seen);
    } else {
      seen.error = response.error();
    }
    co_return seen;
  }
  Events events(seen);
  std::function<void(std::string_view)> on_data = [&events](std::string_view data) {
    events.Feed(data);
  };
  auto send = client->SendStreaming("POST", "/v1/completions", Body(ask), std::move(headers),
                                    deadline, std::move(on_data));
  const Result<HttpResponse> response = co_await std::move(send);
  if (!response) {
    seen.error = response.error();
  } else if (!events.done() && !seen.error) {  // refused before it began: one object, no events
    Read(events.other(), seen);
    if (!seen.error) seen.error = Unreadable(events.other());
  }
  co_return seen;
}

}  // namespace mooncake
