#include "view/fetch_cluster.h"

#include <fmt/format.h>

#include "view/cluster_view.h"

namespace mooncake {

Result<HttpUrl> ParseTarget(std::string_view text) {
  if (text.find("://") != std::string_view::npos) return ParseHttpUrl(text);
  MC_TRY(HostPort parts, ParseHostPort(text));
  if (parts.port == 0) return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" has no port", text));
  return HttpUrl{.host = std::move(parts.host), .port = parts.port};
}

std::string Describe(const HttpUrl& target) {
  const bool bare_v6 = target.host.find(':') != std::string::npos && target.host.front() != '[';
  return bare_v6 ? fmt::format("[{}]:{}", target.host, target.port) : fmt::format("{}:{}", target.host, target.port);
}

Task<Result<std::string>> FetchCluster(World& world, HttpUrl target, Instant deadline) {
  HttpClient client(world, world.control, target);
  auto get = client.Send("GET", "/cluster", "", {}, deadline);
  Result<HttpResponse> response = co_await std::move(get);
  if (!response && response.error().id == ErrorId::kBadHttp) {
    co_return Fail(ErrorId::kNotAnInstance, fmt::format("{}: {}", Describe(target), response.error().context));
  }
  if (!response) co_return Fail(Within(Describe(target), response.error()));
  if (const Result<ClusterView> view = ParseCluster(response->body); !view) {
    co_return Fail(Within(Describe(target), view.error()));
  }
  co_return std::move(response->body);
}

}  // namespace mooncake
