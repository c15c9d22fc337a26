// The HTTP half of an instance's port: completions, health, metrics, status, the page.
#pragma once

#include "directory/directory.h"
#include "instance/completions.h"
#include "instance/coordinator.h"
#include "wire/http.h"

namespace mooncake {

struct HttpApiParts {
  InstanceCore& core;
  Coordinator& coordinator;
  Partners& partners;
  std::string model_name;
  std::function<std::string()> status;  ///< StatusJson().
};

/// Routes: POST /v1/completions, GET /v1/models /health /ready /metrics /status /cluster and / (the
/// page). `parts` outlives the handler.
[[nodiscard]] HttpHandler MakeHttpApi(HttpApiParts parts);

}  // namespace mooncake
