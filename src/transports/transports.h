// The transports that every program of ours uses.
#pragma once

#include "engine/engine.h"

namespace mooncake {

/// All of them. To leave one out, leave its line out.
void AddTransports(World& world, Metrics& metrics, Engine& engine, const CopyEngine& copy);

}  // namespace mooncake
