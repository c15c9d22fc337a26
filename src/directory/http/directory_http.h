// What answers HTTP on a directory's port.
#pragma once

#include <memory>

#include "base/metrics.h"
#include "directory/http/metadata_server.h"
#include "wire/http.h"

namespace mooncake {

/// /metrics, /health and, unless `metadata` is null, every path that ends in /metadata. `metrics`
/// outlives it.
[[nodiscard]] HttpHandler DirectoryHttp(const Metrics& metrics,
                                        std::shared_ptr<MetadataServer> metadata);

}  // namespace mooncake
