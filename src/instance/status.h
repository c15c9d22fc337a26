// What an instance says of itself, as JSON: GET /status, the remote call kStatus, `mooncake status`
// and the page read it.
#pragma once

#include <string>

#include "directory/directory.h"
#include "instance/coordinator.h"
#include "memory/copy.h"

namespace mooncake {

struct StatusSources {
  const InstanceCore& core;
  const Directory& directory;
  const Coordinator& coordinator;
  const PrefillService* prefill;  ///< Null where this instance does not prefill.
  const DecodeService* decode;    ///< Null where it does not decode.
  const CopyEngine& copy;
  Endpoint endpoint;
  Instant started;
};

/// On the control loop.
[[nodiscard]] std::string StatusJson(const StatusSources& sources);

}  // namespace mooncake
