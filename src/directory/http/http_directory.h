// Records in an HTTP metadata service (PUT, GET and DELETE of ?key=): our own, which lists and
// forgets by itself, or one of the public kind, which does neither.
#pragma once

#include <memory>
#include <string>

#include "directory/directory.h"
#include "wire/http.h"

namespace mooncake {

/// "http://host[:port][/path/metadata]", "https://…". kBadAddress.
[[nodiscard]] Result<HttpUrl> ParseMetadataUrl(const std::string& connection);

[[nodiscard]] std::unique_ptr<Directory> MakeHttpDirectory(World& world, HttpUrl service,
                                                           const std::string& cluster);

}  // namespace mooncake
