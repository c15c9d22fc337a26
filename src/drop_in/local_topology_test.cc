#include "drop_in/local_topology.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace mooncake::drop_in {
namespace {

// As the kernel shows two nodes and three devices, one of which does not say where it is.
TEST(LocalTopology, DevicesStandWithTheirNode) {
  const std::filesystem::path sys =
      std::filesystem::temp_directory_path() / fmt::format("mooncake-test-{}", ::getpid());
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((sys / name).parent_path());
    std::ofstream(sys / name) << text;
  };
  EXPECT_EQ(LocalTopology("", sys), R"({"cpu:0":[[],[]]})");
  for (const char* name : {"node0", "node1", "power"})
    std::filesystem::create_directories(sys / "devices/system/node" / name);
  write("class/infiniband/mlx5_0/device/numa_node", "0\n");
  write("class/infiniband/mlx5_1/device/numa_node", "1\n");
  write("class/infiniband/rxe0/ports/1/state", "4: ACTIVE\n");
  EXPECT_EQ(LocalTopology("", sys),
            R"({"cpu:0":[["mlx5_0","rxe0"],["mlx5_1"]],"cpu:1":[["mlx5_1"],["mlx5_0","rxe0"]]})");
  EXPECT_EQ(LocalTopology("mlx5_1,none", sys),
            R"({"cpu:0":[[],["mlx5_1"]],"cpu:1":[["mlx5_1"],[]]})");
  std::filesystem::remove_all(sys);
}

}  // namespace
}  // namespace mooncake::drop_in
