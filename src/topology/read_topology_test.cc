#include <gmock/gmock.h>
#include <sys/stat.h>

#include "topology/test_host.h"
#include "topology/topology.h"

namespace mooncake {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;
using Tiers = std::vector<std::vector<std::string>>;

constexpr const char* kOneNodeXml = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x1" complete_cpuset="0x1" allowed_cpuset="0x1" nodeset="0x8" complete_nodeset="0x8" allowed_nodeset="0x8" gp_index="1">
  <object type="NUMANode" os_index="3" cpuset="0x1" complete_cpuset="0x1" nodeset="0x8" complete_nodeset="0x8" gp_index="2" local_memory="4096"/>
  <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x8" complete_nodeset="0x8" gp_index="3"/>
 </object>
</topology>
)";

TEST(ReadTopology, NodesTheirMemoryAndDistances) {
  const TestSysfs sysfs;
  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  ASSERT_EQ(topology.nodes.size(), 3U);
  EXPECT_EQ(topology.nodes[0].id, 0);
  EXPECT_EQ(topology.nodes[0].memory_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(topology.nodes[0].cpus, "0-1");
  EXPECT_EQ(topology.nodes[1].cpus, "2-3");
  EXPECT_EQ(topology.nodes[2].cpus, "2-3");
  EXPECT_EQ(topology.nodes[0].distances, (std::map<int, std::uint64_t>{{0, 10}, {1, 21}}));
  EXPECT_EQ(topology.nodes[1].distances, (std::map<int, std::uint64_t>{{0, 22}, {1, 10}}));
}

TEST(ReadTopology, GpusAreCountedByKind) {
  const TestSysfs sysfs;
  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  ASSERT_EQ(topology.gpus.size(), 3U);
  EXPECT_EQ(topology.gpus[0].location, "cuda:0");
  EXPECT_EQ(topology.gpus[0].name, "10de:2330");
  EXPECT_EQ(topology.gpus[0].pci, "0000:04:00.0");
  EXPECT_EQ(topology.gpus[0].numa_node, 0);
  EXPECT_THAT(topology.gpus[0].bridges,
              ElementsAre("0000:00:01.0", "0000:01:00.0", "0000:02:00.0"));
  EXPECT_EQ(topology.gpus[1].location, "hip:0");
  EXPECT_EQ(topology.gpus[1].numa_node, 1);
  EXPECT_EQ(topology.gpus[2].location, "cuda:1");
  EXPECT_EQ(topology.gpus[2].name, "GH100 [H100 SXM5 80GB]");
}

TEST(ReadTopology, AnInfiniBandDevice) {
  const TestSysfs sysfs;
  sysfs.AttachToPci("class/infiniband/mlx5_0", "0000:05:00.0", 0);
  sysfs.Write("class/infiniband/mlx5_0/node_type", "1: CA\n");
  const std::string port = "class/infiniband/mlx5_0/ports/1/";
  sysfs.Write(port + "state", "4: ACTIVE\n");
  sysfs.Write(port + "link_layer", "InfiniBand\n");
  sysfs.Write(port + "rate", "400 Gb/sec (4X NDR)\n");
  sysfs.Write(port + "gids/0", "fe80:0000:0000:0000:0000:0000:0000:00aa\n");
  sysfs.Write(port + "gids/1", "0000:0000:0000:0000:0000:0000:0000:0000\n");
  sysfs.Write(port + "gid_attrs/types/0", "IB/RoCE v1\n");
  sysfs.Write("class/infiniband/mlx5_0/device/net/ibs0/mtu", "2044\n");

  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  ASSERT_EQ(topology.devices.size(), 1U);
  const RdmaDevice& device = topology.devices[0];
  EXPECT_EQ(device.name, "mlx5_0");
  EXPECT_EQ(device.netdev, "ibs0");
  EXPECT_EQ(device.pci, "0000:05:00.0");
  EXPECT_EQ(device.numa_node, 0);
  EXPECT_EQ(device.node_type, "CA");
  EXPECT_THAT(device.bridges, ElementsAre("0000:00:01.0", "0000:01:00.0", "0000:02:01.0"));
  ASSERT_EQ(device.ports.size(), 1U);
  EXPECT_EQ(device.ports[0].number, 1);
  EXPECT_EQ(device.ports[0].state, "ACTIVE");
  EXPECT_EQ(device.ports[0].link_layer, "InfiniBand");
  EXPECT_EQ(device.ports[0].gigabits_per_second, 400);
  ASSERT_EQ(device.ports[0].gids.size(), 1U);
  EXPECT_EQ(device.ports[0].gids[0].address, "fe80:0000:0000:0000:0000:0000:0000:00aa");
  EXPECT_EQ(device.ports[0].gids[0].type, "IB/RoCE v1");
}

TEST(ReadTopology, GidsOfEthernetSayTheirIndexTypeAndInterface) {
  const TestSysfs sysfs;
  const std::string port = "class/infiniband/mlx5_1/ports/1/";
  sysfs.Write(port + "rate", "2.5 Gb/sec (1X SDR)\n");
  sysfs.Write(port + "gids/3", "0000:0000:0000:0000:0000:ffff:0a00:0001\n");
  sysfs.Write(port + "gid_attrs/types/3", "RoCE v2\n");
  sysfs.Write(port + "gid_attrs/ndevs/3", "roce0\n");
  sysfs.Write(port + "gids/9999", "fe80:0000:0000:0000:0000:0000:0000:0001\n");
  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  ASSERT_EQ(topology.devices.size(), 1U);
  EXPECT_EQ(topology.devices[0].netdev, "roce0");
  EXPECT_EQ(topology.devices[0].numa_node, -1);
  const RdmaPort& read = topology.devices[0].ports.at(0);
  EXPECT_EQ(read.gigabits_per_second, 2.5);
  ASSERT_EQ(read.gids.size(), 1U);
  EXPECT_EQ(read.gids[0].index, 3);
  EXPECT_EQ(read.gids[0].type, "RoCE v2");
  EXPECT_EQ(read.gids[0].netdev, "roce0");
}

TEST(ReadTopology, ASoftwareDeviceIsWhereItsInterfaceIs) {
  const TestSysfs sysfs;
  sysfs.Write("class/infiniband/rxe0/parent", "eth1\n");
  sysfs.Write("class/infiniband/rxe0/ports/1/state", "4: ACTIVE\n");
  sysfs.AttachToPci("class/net/eth1", "0000:84:00.0", -1);
  sysfs.Write("class/infiniband/rxe1/parent", "lo\n");
  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  ASSERT_EQ(topology.devices.size(), 2U);
  EXPECT_EQ(topology.devices[0].netdev, "eth1");
  EXPECT_EQ(topology.devices[0].pci, "0000:84:00.0");
  EXPECT_EQ(topology.devices[0].numa_node, 1) << "by hwloc, where the kernel does not say";
  EXPECT_EQ(topology.devices[1].netdev, "lo");
  EXPECT_EQ(topology.devices[1].numa_node, -1);
}

TEST(ReadTopology, DevicesInTiersAroundGpusAndNodes) {
  const TestSysfs sysfs;
  sysfs.AttachToPci("class/infiniband/mlx5_10", "0000:84:00.0", 1);
  sysfs.AttachToPci("class/infiniband/mlx5_2", "0000:05:00.0", 0);
  sysfs.AttachToPci("class/infiniband/mlx5_3", "0000:06:00.0", 0);
  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  EXPECT_EQ(TiersFor(topology, "*"), (Tiers{{"mlx5_2", "mlx5_3", "mlx5_10"}}));
  EXPECT_EQ(TiersFor(topology, "cpu:0"), (Tiers{{"mlx5_2", "mlx5_3"}, {"mlx5_10"}}));
  EXPECT_EQ(TiersFor(topology, "cuda:0"), (Tiers{{"mlx5_2"}, {"mlx5_3"}, {"mlx5_10"}}));
  EXPECT_EQ(TiersFor(topology, "cuda:1"), (Tiers{{"mlx5_10"}, {"mlx5_2", "mlx5_3"}}));
}

TEST(ReadTopology, OnTheOnlyNodeIsWhatNobodyPlaces) {
  const TestSysfs sysfs;
  sysfs.AttachToPci("class/infiniband/mlx5_0", "0000:05:00.0", -1);
  const Topology topology = ReadTopology(sysfs.root(), kOneNodeXml);
  ASSERT_EQ(topology.nodes.size(), 1U);
  EXPECT_EQ(topology.nodes[0].id, 3);
  EXPECT_THAT(topology.nodes[0].distances, IsEmpty());
  EXPECT_EQ(topology.devices.at(0).numa_node, 3);
}

TEST(ReadTopology, GarbageIsAsIfItWereAbsent) {
  const TestSysfs sysfs;
  const std::string device = "class/infiniband/bad/";
  std::string noise = "1: \xff\x1b";
  noise.resize(100'000, 'x');
  sysfs.Write("class/infiniband/a_file", "1: CA\n");
  sysfs.Write(device + "node_type", noise);
  sysfs.Write(device + "device/numa_node", "99999999999999999999\n");
  sysfs.Write(device + "ports/none/state", "4: ACTIVE\n");
  sysfs.Write(device + "ports/0/state", "4: ACTIVE\n");
  sysfs.Write(device + "ports/99999999999/state", "4: ACTIVE\n");
  sysfs.Write(device + "ports/2/state", ":");
  sysfs.Write(device + "ports/2/link_layer", "\x1b[2J\n");
  sysfs.Write(device + "ports/2/rate", "fast\n");
  sysfs.Write(device + "ports/2/gids/0/a_folder", "");
  sysfs.Write(device + "ports/2/gids/1", "");
  ASSERT_EQ(::mkfifo((sysfs.root() / device / "parent").c_str(), 0600), 0);
  std::filesystem::create_directory_symlink("loop", sysfs.root() / device / "loop");
  std::filesystem::create_directory_symlink("loop", sysfs.root() / "class/infiniband/loop");

  const Topology topology = ReadTopology(sysfs.root(), kTwoNodesXml);
  ASSERT_EQ(topology.devices.size(), 1U);
  const RdmaDevice& read = topology.devices[0];
  EXPECT_THAT(read.node_type, StartsWith("??xxx"));
  EXPECT_LT(read.node_type.size(), 256U);
  EXPECT_EQ(read.netdev, "");
  EXPECT_EQ(read.numa_node, -1);
  ASSERT_EQ(read.ports.size(), 1U);
  EXPECT_EQ(read.ports[0].number, 2);
  EXPECT_EQ(read.ports[0].state, "");
  EXPECT_EQ(read.ports[0].link_layer, "?[2J") << "nothing that a terminal obeys";
  EXPECT_EQ(read.ports[0].gigabits_per_second, 0);
  EXPECT_THAT(read.ports[0].gids, IsEmpty());
}

TEST(ReadTopology, ThereIsAlwaysANode) {
  const TestSysfs sysfs;
  for (const char* xml :
       {"garbage", "<?xml version=\"1.0\"?><topology version=\"2.0\"></topology>"}) {
    const Topology topology = ReadTopology(sysfs.root() / "missing", xml);
    ASSERT_EQ(topology.nodes.size(), 1U);
    EXPECT_EQ(topology.nodes[0].id, 0);
    EXPECT_THAT(topology.devices, IsEmpty());
  }
}

TEST(ReadTopology, ThisHost) {
  const Topology topology = ReadTopology();
  ASSERT_FALSE(topology.nodes.empty());
  EXPECT_GT(topology.nodes[0].memory_bytes, 0U);
  EXPECT_NE(topology.nodes[0].cpus, "");
}

}  // namespace
}  // namespace mooncake
