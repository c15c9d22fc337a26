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

std::string Describe(const HttpUrl& target) { return ToString(HostPort{target.host, target.port}); }

Error AboutTarget(const HttpUrl& target, const Error& error) {
  const std::string name = Describe(target);
  std::string context =
      error.context.starts_with(name) ? error.context : fmt::format("{}: {}", name, error.context);
  if (error.os_error != 0) context += fmt::format(" ({})", ErrnoText(error.os_error));
  switch (error.code()) {
    case Errc::kPeerGone:
    case Errc::kUnknownOutcome:
      return {ErrorId::kNoInstance, std::move(context)};
    default:
      return {error.id == ErrorId::kBadHttp ? ErrorId::kNotAnInstance : error.id,
              std::move(context)};
  }
}

Task<Result<std::string>> FetchCluster(World& world, HttpUrl target, Instant deadline) {
  HttpClient client(world, world.control, target);
  auto get = client.Send("GET", "/cluster", "", {}, deadline);
  Result<HttpResponse> response = co_await std::move(get);
  if (!response) co_return Fail(AboutTarget(target, response.error()));
  const Result<ClusterView> view = ParseCluster(response->body);
  if (!view) co_return Fail(AboutTarget(target, view.error()));
  co_return std::move(response->body);
}

}  // namespace mooncake
