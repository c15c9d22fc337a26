#include "view/fetch_cluster.h"

#include <fmt/format.h>

#include "view/cluster_view.h"

namespace mooncake {

HttpUrl MakeTarget(HostPort at, const Credentials& credentials) {
  HttpUrl target{.host = std::move(at.host), .port = at.port};
  target.context = credentials.tls;
  target.tls = target.context != nullptr;
  if (credentials.secret) target.authorization = "Bearer " + credentials.secret->HttpToken();
  return target;
}

Result<HttpUrl> ParseTarget(std::string_view text, const Credentials& credentials) {
  if (text.find("://") == std::string_view::npos) {
    MC_TRY(HostPort parts, ParseHostPort(text));
    if (parts.port == 0) return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" has no port", text));
    return MakeTarget(std::move(parts), credentials);
  }
  MC_TRY(const HttpUrl url, ParseHttpUrl(text));
  HttpUrl target = MakeTarget({url.host, url.port}, credentials);
  target.target = url.target;
  target.tls = url.tls;
  if (target.tls && !target.context) {
    return Fail(ErrorId::kBadCredentials,
                fmt::format("\"{}\" needs tls_certificate and tls_ca", text));
  }
  return target;
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

Task<Result<std::string>> FetchText(World& world, HttpUrl target, std::string path,
                                    Instant deadline) {
  HttpClient client(world, world.control, target);
  auto get = client.Send("GET", std::move(path), "", {}, deadline);
  Result<HttpResponse> response = co_await std::move(get);
  if (!response) co_return Fail(AboutTarget(target, response.error()));
  constexpr int kUnauthorized = 401;
  if (response->status == kUnauthorized) {
    co_return Fail(ErrorId::kNotProven,
                   Describe(target) + (target.authorization.empty() ? " asks for the secret"
                                                                    : " has another secret"));
  }
  co_return std::move(response->body);
}

Task<Result<std::string>> FetchCluster(World& world, HttpUrl target, Instant deadline) {
  auto fetch = FetchText(world, target, "/cluster", deadline);
  Result<std::string> body = co_await std::move(fetch);
  if (!body) co_return body;
  const Result<ClusterView> view = ParseCluster(*body);
  if (!view) co_return Fail(AboutTarget(target, view.error()));
  co_return body;
}

}  // namespace mooncake
