// Which RDMA devices are near which memory, as the public project prints it.
#pragma once

#include <string>
#include <string_view>

#include "topology/topology.h"

namespace mooncake::drop_in {

/// JSON: {"cpu:0": [[devices of that NUMA node], [the others]], "cpu:1": …, "cuda:0": [[nearest
/// devices], [the others]]}. `devices`, names with commas, leaves only those; empty: all. A device
/// of which nobody knows where it is stands with the first node.
[[nodiscard]] std::string LocalTopology(std::string_view devices, const Topology& topology);
/// Of this host.
[[nodiscard]] std::string LocalTopology(std::string_view devices);

}  // namespace mooncake::drop_in
