// The two ways through shared memory, "shm" (the peer's memory, mapped) and "ring" (slots that both
// map), over one local service.
#pragma once

#include <memory>
#include <vector>

#include "memory/copy.h"
#include "memory/region_table.h"
#include "transport/transport.h"

namespace mooncake {

/// "shm", then "ring". `self` is the engine's id; `world` outlives both. kListenFailed.
[[nodiscard]] Result<std::vector<std::unique_ptr<Transport>>> MakeShmTransports(
    World& world, InstanceId self, std::shared_ptr<const RegionTable> regions,
    const CopyEngine& copy);

}  // namespace mooncake
