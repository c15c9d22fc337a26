// transfer_engine_topology_dump: which RDMA devices are near which memory of this host.
#include <fmt/format.h>
#include <gflags/gflags.h>

#include "drop_in/local_topology.h"

DEFINE_string(device_name, "", "Only these devices, separated by commas; empty: all");

int main(int argc, char** argv) {
  gflags::SetUsageMessage(
      "prints, for each NUMA node and GPU, the RDMA devices near it and the others, as JSON\n"
      "Example: transfer_engine_topology_dump --device_name=mlx5_0,mlx5_1");
  gflags::SetVersionString(MOONCAKE_VERSION);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (argc > 1) {
    fmt::print(stderr, "transfer_engine_topology_dump: \"{}\" is no flag\n", argv[1]);
    return 2;
  }
  fmt::print("Local topology: {}\n", mooncake::drop_in::LocalTopology(FLAGS_device_name));
  return 0;
}
