#include "directory/http/directory_http.h"

namespace mooncake {

HttpHandler DirectoryHttp(const Metrics& metrics, std::shared_ptr<MetadataServer> metadata) {
  return [&metrics, metadata = std::move(metadata)](HttpExchange& exchange) -> Task<void> {
    if (metadata && MetadataServer::Serves(exchange.request())) {
      auto serve = metadata->Handle(exchange);
      co_await std::move(serve);
      co_return;
    }
    const bool known =
        exchange.request().path() == "/metrics" || exchange.request().path() == "/health";
    auto respond = exchange.Respond(known ? 200 : 404, "text/plain; version=0.0.4",
                                    known ? metrics.Text() : "", {});
    const Status sent = co_await std::move(respond);
    static_cast<void>(sent);
  };
}

}  // namespace mooncake
