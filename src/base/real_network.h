// The network of the real world: Asio's sockets on the loops that callers name.
#pragma once

#include <memory>
#include <string>

#include "base/world.h"

namespace mooncake {

/// `clock` outlives it.
[[nodiscard]] std::unique_ptr<Network> MakeRealNetwork(Clock& clock);

/// "pid 4121 (mooncake)" of the process that listens on `endpoint`; empty if it cannot be told.
[[nodiscard]] std::string FindPortHolder(const Endpoint& endpoint);

}  // namespace mooncake
