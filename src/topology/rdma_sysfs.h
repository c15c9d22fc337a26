// RDMA devices as the kernel describes them under /sys/class/infiniband. hwloc knows their names,
// not their ports.
#pragma once

#include <filesystem>
#include <vector>

#include "topology/topology.h"

namespace mooncake {

/// In the order of their names; `bridges` stays empty. Sysfs is data: what is malformed or missing
/// leaves its field as it was made.
[[nodiscard]] std::vector<RdmaDevice> ReadRdmaDevices(const std::filesystem::path& sys);

}  // namespace mooncake
