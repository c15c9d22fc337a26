// Asks an instance for its cluster, over HTTP.
#pragma once

#include <string>

#include "security/credentials.h"
#include "wire/http.h"

namespace mooncake {

/// "http://host:port", "https://host:port", "host:port", "[v6]:port", and what is shown there.
/// Errors: kBadAddress, kBadCredentials (https without certificates).
[[nodiscard]] Result<HttpUrl> ParseTarget(std::string_view text, const Credentials& credentials);
/// An instance of a cluster with these credentials.
[[nodiscard]] HttpUrl MakeTarget(HostPort at, const Credentials& credentials);
/// "host:port".
[[nodiscard]] std::string Describe(const HttpUrl& target);

/// An error of HttpClient as one about an instance: nobody there is kNoInstance, somebody else
/// kNotAnInstance. Names the target.
[[nodiscard]] Error AboutTarget(const HttpUrl& target, const Error& error);

/// The body of GET `path`. Errors: as AboutTarget(), kNotProven.
[[nodiscard]] Task<Result<std::string>> FetchText(World& world, HttpUrl target, std::string path,
                                                  Instant deadline);
/// The body of GET /cluster, which ParseCluster() reads. Errors: as FetchText().
[[nodiscard]] Task<Result<std::string>> FetchCluster(World& world, HttpUrl target,
                                                     Instant deadline);

}  // namespace mooncake
