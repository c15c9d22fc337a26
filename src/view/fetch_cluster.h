// Asks an instance for its cluster, over HTTP.
#pragma once

#include <string>

#include "wire/http.h"

namespace mooncake {

/// "http://host:port", "host:port", "[v6]:port". kBadAddress.
[[nodiscard]] Result<HttpUrl> ParseTarget(std::string_view text);
/// "host:port".
[[nodiscard]] std::string Describe(const HttpUrl& target);

/// The body of GET /cluster, which ParseCluster() reads. Errors: as HttpClient::Send, but what
/// answers and is no instance of ours is kNotAnInstance. They name the target.
[[nodiscard]] Task<Result<std::string>> FetchCluster(World& world, HttpUrl target, Instant deadline);

}  // namespace mooncake
