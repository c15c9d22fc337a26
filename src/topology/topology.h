// What this host is made of, as far as moving bytes depends on it: NUMA nodes, RDMA devices, GPUs,
// and how far they are from each other.
//
// Plain values: whoever decides something about them can be tested without the hardware. Nothing
// here opens a device; whether one may be used says device_choice.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace mooncake {

/// An address of an RDMA port; an entry of its table that is in use.
struct RdmaGid {
  int index = 0;        ///< Its place in the table: what a queue pair names.
  std::string address;  ///< As the kernel writes it: "fe80:0000:0000:0000:…", 8 groups.
  std::string type;     ///< "RoCE v2", "IB/RoCE v1"; empty: unknown.
  std::string netdev;   ///< The network interface whose address it is; empty on InfiniBand.
};

struct RdmaPort {
  int number = 0;          ///< From 1.
  std::string state;       ///< "ACTIVE", "DOWN", "INIT", …; empty: unknown.
  std::string link_layer;  ///< "Ethernet", "InfiniBand"; empty: unknown.
  double gigabits_per_second = 0;
  std::vector<RdmaGid> gids;  ///< By their index; the first kGidsMax of the table are read.
};

struct RdmaDevice {
  std::string name;       ///< "mlx5_0".
  std::string netdev;     ///< Its network interface, "roce0"; empty: none, or not in our namespace.
  std::string pci;        ///< "0000:3b:00.0"; of the interface beneath, if it is made by software.
  int numa_node = -1;     ///< -1: unknown.
  std::string node_type;  ///< "CA": a channel adapter, the kind that we can use; empty: unknown.
  std::vector<std::string> bridges;  ///< PCI addresses of what is above it, from the root down.
  std::vector<RdmaPort> ports;       ///< By their number.
};

struct Gpu {
  /// "cuda:0" (NVIDIA), "hip:0" (AMD): the kind, and the place among its kind in the order of PCI
  /// addresses. CUDA counts so with CUDA_DEVICE_ORDER=PCI_BUS_ID, or where all GPUs are equal.
  std::string location;
  std::string name;  ///< The product, where hwloc knows it; else vendor and device, "10de:2330".
  std::string pci;
  int numa_node = -1;                ///< -1: unknown.
  std::vector<std::string> bridges;  ///< As of an RdmaDevice.
};

struct NumaNode {
  int id = 0;
  std::uint64_t memory_bytes = 0;
  std::string cpus;  ///< "0-15,64-79"; of mere memory (CXL, a GPU's): those beside it.
  /// To the memory of each node, by its id: 10 is a node's own, 20 takes twice as long. Empty: the
  /// firmware does not say.
  std::map<int, std::uint64_t> distances = {};
};

struct Topology {
  std::vector<NumaNode> nodes;      ///< By their id; never empty.
  std::vector<RdmaDevice> devices;  ///< By their names: mlx5_2 stands before mlx5_10.
  std::vector<Gpu> gpus;            ///< By their PCI addresses.
};

/// At most so many entries of a port's GID table are read.
inline constexpr int kGidsMax = 256;

/// Looks at this host; takes 10 ms (of 2 CPUs), and changes nothing, no thread's CPUs either. `sys`
/// is where the kernel's sysfs is mounted, for RDMA devices; nodes, PCI and GPUs are hwloc's to
/// find (whose variables, HWLOC_XMLFILE, hold), or described by `hwloc_xml`, as `lstopo --of xml`
/// writes it. From any thread. What cannot be read or understood is as if it were not there;
/// without any NUMA node, there is one with the id 0.
///
/// A GPU is a PCI display controller of NVIDIA, or one of AMD or its accelerators: there, whether
/// or not a driver is. A device of which nobody says where it is stands with the only NUMA node, if
/// there is only one.
[[nodiscard]] Topology ReadTopology(const std::filesystem::path& sys = "/sys",
                                    const std::string& hwloc_xml = {});

/// The names of all RDMA devices, in groups from near to far as seen from memory at `location`
/// ("cpu:0", "cuda:1"): behind one PCI switch, on one NUMA node, on another (nearer nodes first),
/// nobody knows. Within a group they are equally far. A location that is unknown, or "*": one group
/// of all. No group is empty.
[[nodiscard]] std::vector<std::vector<std::string>> TiersFor(const Topology& topology,
                                                             std::string_view location);

}  // namespace mooncake
