// Which RDMA devices are near which memory, as the public project prints it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace mooncake::drop_in {

/// JSON: {"cpu:0": [[devices of that NUMA node], [the others]], "cpu:1": …}. `devices`, names with
/// commas, leaves only those; empty: all. `sys` is where the kernel's sysfs is mounted; what cannot
/// be read there is as if it were not there, and there is always a "cpu:0".
[[nodiscard]] std::string LocalTopology(std::string_view devices,
                                        const std::filesystem::path& sys = "/sys");

}  // namespace mooncake::drop_in
