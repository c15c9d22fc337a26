#include "instance/http_api.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "instance/cluster.h"
#include "instance/page.h"

namespace mooncake {
namespace {

namespace json = boost::json;

constexpr std::string_view kJson = "application/json";

class HttpApi {
 public:
  explicit HttpApi(HttpApiParts parts) : parts_(std::move(parts)) {}
  [[nodiscard]] InstanceCore& core() const noexcept { return parts_.core; }

  Task<void> Handle(HttpExchange& exchange) {
    const std::string path = exchange.request().path();
    const bool get = exchange.request().method == "GET" || exchange.request().method == "HEAD";
    if (path == "/v1/completions") {
      if (exchange.request().method != "POST")
        return Answer(exchange, 405, kJson, ErrorJson({ErrorId::kBadRequest, "POST it"}));
      return Complete(exchange);
    }
    if (!get)
      return Answer(exchange, 405, kJson,
                    ErrorJson({ErrorId::kBadRequest, path + " is read with GET"}));
    if (path == "/health") return Answer(exchange, 200, kJson, "{\"status\":\"ok\"}\n");
    if (path == "/ready") return Ready(exchange);
    if (path == "/metrics")
      return Answer(exchange, 200, "text/plain; version=0.0.4", parts_.core.metrics.Text());
    if (path == "/status") return Answer(exchange, 200, kJson, parts_.status() + "\n");
    if (path == "/cluster") return Cluster(exchange);
    if (path == "/v1/models") return Models(exchange);
    if (path == "/") return Answer(exchange, 200, "text/html; charset=utf-8", std::string(kPage));
    return Answer(
        exchange, 404, kJson,
        ErrorJson({ErrorId::kBadRequest,
                   fmt::format("there is no {}; there are /v1/completions, /v1/models, /health, "
                               "/ready, /metrics, /status, /cluster and /",
                               path)}));
  }

 private:
  static Task<void> Answer(HttpExchange& exchange, int status, std::string_view type,
                           std::string body) {
    auto respond = exchange.Respond(status, std::string(type), std::move(body), {});
    const Status sent = co_await std::move(respond);
    static_cast<void>(sent);  // a client that is gone needs no answer
  }

  static Task<void> Refuse(HttpExchange& exchange, Error error) {
    std::vector<std::pair<std::string, std::string>> headers;
    const int status = HttpStatusOf(error);
    if (status == 429 || status == 503) headers.emplace_back("Retry-After", "1");
    auto respond =
        exchange.Respond(status, std::string(kJson), ErrorJson(error), std::move(headers));
    const Status sent = co_await std::move(respond);
    static_cast<void>(sent);
  }

  Task<void> Ready(HttpExchange& exchange) {
    const InstanceCore& core = parts_.core;
    const Instant soon = After(core.world.clock.Now(), std::chrono::seconds(1));
    const Status refreshed = co_await parts_.partners.Refresh(std::chrono::seconds(1), soon);
    std::string missing;
    if (core.draining) missing = "draining";
    if (core.role == Role::kPrefill && !parts_.partners.Knows(Role::kDecode))
      missing = "no decode instance";
    if (core.role == Role::kDecode && !parts_.partners.Knows(Role::kPrefill))
      missing = "no prefill instance";
    if (!refreshed && !missing.empty()) missing += "; " + refreshed.error().Text();
    const json::object body{{"ready", missing.empty()}, {"reason", missing}};
    auto answer =
        Answer(exchange, missing.empty() ? 200 : 503, kJson, json::serialize(body) + "\n");
    co_await std::move(answer);
  }

  Task<void> Cluster(HttpExchange& exchange) {
    auto collect = CollectCluster(parts_.core, parts_.partners, parts_.status());
    std::string body = co_await std::move(collect);
    auto answer = Answer(exchange, 200, kJson, std::move(body));
    co_await std::move(answer);
  }

  Task<void> Models(HttpExchange& exchange) {
    const json::object body{
        {"object", "list"},
        {"data", {{{"id", parts_.model_name}, {"object", "model"}, {"owned_by", "mooncake"}}}}};
    auto answer = Answer(exchange, 200, kJson, json::serialize(body) + "\n");
    co_await std::move(answer);
  }

  Task<void> Complete(HttpExchange& exchange) {
    InstanceCore& core = parts_.core;
    Result<CompletionRequest> request =
        ParseCompletionRequest(exchange.request().body, parts_.model_name, core.shape().vocabulary);
    if (!request) {
      auto refuse = Refuse(exchange, request.error());
      co_await std::move(refuse);
      co_return;
    }
    const auto abandon = std::make_shared<Abandon>();
    exchange.OnClientGone([abandon] { abandon->flag = true; });
    const auto now_s = std::chrono::duration_cast<std::chrono::seconds>(
                           core.world.clock.WallNow().time_since_epoch())
                           .count();
    const CompletionHead head{fmt::format("cmpl-{:016x}", core.world.random.Next()), now_s,
                              parts_.model_name};
    const Duration timeout = std::min(request->timeout.value_or(core.limits.request_timeout),
                                      core.limits.request_timeout);
    const Instant deadline = After(core.world.clock.Now(), timeout);

    std::vector<Token> tokens;
    TokenSink sink = [&](std::vector<Token> fresh) -> Task<bool> {
      const bool first = tokens.empty();
      tokens.insert(tokens.end(), fresh.begin(), fresh.end());
      if (!request->stream) co_return !abandon->is_set();
      if (first) {
        auto begin = exchange.BeginStream(200, "text/event-stream");
        const Status begun = co_await std::move(begin);
        if (!begun) co_return false;
      }
      auto write = exchange.Write(CompletionChunk(head, fresh));
      const Status written = co_await std::move(write);
      co_return written.has_value();
    };
    auto complete = parts_.coordinator.Complete(request->prompt, request->tokens_max, deadline,
                                                abandon, std::move(sink));
    const Result<CompletionResult> result = co_await std::move(complete);
    if (!exchange.responded()) {
      if (!result) {
        auto refuse = Refuse(exchange, result.error());
        co_await std::move(refuse);
      } else {
        auto answer = Answer(exchange, 200, kJson,
                             CompletionJson(head, request->prompt.size(), tokens, *result));
        co_await std::move(answer);
      }
      co_return;
    }
    // The stream has begun: an error can only be its last event.
    std::string end = result ? CompletionEnd(head, *request, tokens.size(), *result)
                             : "data: " + ErrorJson(result.error()) + "\ndata: [DONE]\n\n";
    auto write = exchange.Write(std::move(end));
    const Status written = co_await std::move(write);
    auto finish = exchange.EndStream();
    const Status ended = co_await std::move(finish);
    static_cast<void>(written && ended);
  }

  HttpApiParts parts_;
};

}  // namespace

HttpHandler MakeHttpApi(HttpApiParts parts) {
  return [api = std::make_shared<HttpApi>(std::move(parts))](HttpExchange& exchange) -> Task<void> {
    const TaskGroup::Pass pass(api->core().tasks);
    auto handle = api->Handle(exchange);
    co_await std::move(handle);
  };
}

}  // namespace mooncake
