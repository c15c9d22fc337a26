#include "topology/topology.h"

#include <gtest/gtest.h>

namespace mooncake {
namespace {

using Tiers = std::vector<std::vector<std::string>>;

NumaNode Node(int id, std::map<int, std::uint64_t> distances = {}) {
  NumaNode node{.id = id};
  node.distances = std::move(distances);
  return node;
}

RdmaDevice Device(std::string name, int numa_node, std::vector<std::string> bridges = {}) {
  RdmaDevice device{.name = std::move(name), .numa_node = numa_node};
  device.bridges = std::move(bridges);
  return device;
}

Gpu GpuAt(std::string location, int numa_node, std::vector<std::string> bridges = {}) {
  Gpu gpu{.location = std::move(location), .numa_node = numa_node};
  gpu.bridges = std::move(bridges);
  return gpu;
}

TEST(TiersFor, OwnNodeThenOthersThenUnknown) {
  const Topology topology{
      {Node(0), Node(1)}, {Device("a", 0), Device("b", 1), Device("c", -1)}, {}};
  EXPECT_EQ(TiersFor(topology, "cpu:0"), (Tiers{{"a"}, {"b"}, {"c"}}));
  EXPECT_EQ(TiersFor(topology, "cpu:1"), (Tiers{{"b"}, {"a"}, {"c"}}));
}

TEST(TiersFor, OtherNodesByTheirDistance) {
  const Topology topology{{Node(0, {{0, 10}, {1, 32}, {2, 12}}), Node(1), Node(2)},
                          {Device("far", 1), Device("near", 2), Device("near too", 2)},
                          {}};
  EXPECT_EQ(TiersFor(topology, "cpu:0"), (Tiers{{"near", "near too"}, {"far"}}));
  // Node 1 does not say: both are merely on other nodes, or on its own.
  EXPECT_EQ(TiersFor(topology, "cpu:1"), (Tiers{{"far"}, {"near", "near too"}}));
}

TEST(TiersFor, TheSwitchOfAGpuComesBeforeItsNode) {
  const Topology topology{{Node(0), Node(1)},
                          {Device("node", 0, {"root 2", "port 4"}), Device("other", 1, {"root 3"}),
                           Device("root port", 0, {"root 1", "port 3"}),
                           Device("switch", 0, {"root 1", "port 1", "port 2"})},
                          {GpuAt("cuda:0", 0, {"root 1", "port 1", "port 9"}), GpuAt("cuda:1", 1)}};
  EXPECT_EQ(TiersFor(topology, "cuda:0"), (Tiers{{"switch"}, {"root port"}, {"node"}, {"other"}}));
  EXPECT_EQ(TiersFor(topology, "cuda:1"), (Tiers{{"other"}, {"node", "root port", "switch"}}));
}

TEST(TiersFor, NobodyKnowsWhereAGpuIs) {
  const Topology topology{
      {Node(0), Node(1)}, {Device("a", 0), Device("b", 1)}, {GpuAt("cuda:0", -1)}};
  EXPECT_EQ(TiersFor(topology, "cuda:0"), (Tiers{{"a", "b"}}));
}

TEST(TiersFor, AnUnknownLocationIsEquallyFarFromAll) {
  const Topology topology{{Node(0), Node(1)}, {Device("a", 0), Device("b", 1)}, {}};
  for (const char* location : {"*", "", "cpu:2", "cpu:", "cpu:00", "cuda:0", "cpu", "disk"})
    EXPECT_EQ(TiersFor(topology, location), (Tiers{{"a", "b"}})) << location;
}

TEST(TiersFor, WithoutDevicesThereAreNoTiers) {
  EXPECT_EQ(TiersFor({{Node(0)}, {}, {}}, "cpu:0"), Tiers{});
  EXPECT_EQ(TiersFor({{Node(0)}, {}, {}}, "*"), Tiers{});
}

}  // namespace
}  // namespace mooncake
