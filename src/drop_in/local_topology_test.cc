#include "drop_in/local_topology.h"

#include <gtest/gtest.h>

namespace mooncake::drop_in {
namespace {

TEST(LocalTopology, WithoutDevicesNodesAreThere) {
  EXPECT_EQ(LocalTopology("", {{NumaNode{0}}, {}, {}}), R"({"cpu:0":[[],[]]})");
}

// Two nodes and three devices, one of which does not say where it is.
TEST(LocalTopology, DevicesStandWithTheirNode) {
  const Topology topology{
      {NumaNode{0}, NumaNode{1}},
      {RdmaDevice{.name = "mlx5_0", .numa_node = 0}, RdmaDevice{.name = "mlx5_1", .numa_node = 1},
       RdmaDevice{.name = "rxe0"}},
      {}};
  EXPECT_EQ(LocalTopology("", topology),
            R"({"cpu:0":[["mlx5_0","rxe0"],["mlx5_1"]],"cpu:1":[["mlx5_1"],["mlx5_0","rxe0"]]})");
  EXPECT_EQ(LocalTopology("mlx5_1,none", topology),
            R"({"cpu:0":[[],["mlx5_1"]],"cpu:1":[["mlx5_1"],[]]})");
}

TEST(LocalTopology, TheNearestDevicesOfAGpuStandFirst) {
  const Topology topology{{NumaNode{0}},
                          {RdmaDevice{.name = "near", .numa_node = 0, .bridges = {"switch"}},
                           RdmaDevice{.name = "far", .numa_node = 0}},
                          {Gpu{.location = "cuda:0", .numa_node = 0, .bridges = {"switch"}}}};
  EXPECT_EQ(LocalTopology("", topology),
            R"({"cpu:0":[["near","far"],[]],"cuda:0":[["near"],["far"]]})");
  EXPECT_EQ(LocalTopology("far", topology), R"({"cpu:0":[["far"],[]],"cuda:0":[["far"],[]]})");
}

}  // namespace
}  // namespace mooncake::drop_in
