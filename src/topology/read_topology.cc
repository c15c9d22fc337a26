// Nodes, PCI and GPUs by hwloc; RDMA devices from sysfs, put into the places that hwloc knows.
#include <fmt/format.h>
#include <hwloc.h>
#include <hwloc/distances.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "topology/rdma_sysfs.h"
#include "topology/topology.h"

namespace mooncake {
namespace {

constexpr unsigned kVendorNvidia = 0x10de;
constexpr unsigned kVendorAmd = 0x1002;
constexpr unsigned kClassDisplay = 0x03;
constexpr unsigned kClassAccelerator = 0x12;

struct HwlocDestroyer {
  void operator()(hwloc_topology* handle) const noexcept { hwloc_topology_destroy(handle); }
};
using PciAttributes = decltype(hwloc_obj_attr_u::pcidev);
using HwlocTopology = std::unique_ptr<hwloc_topology, HwlocDestroyer>;

// Null if hwloc cannot make sense of what it sees.
HwlocTopology LoadHwloc(const std::string& xml) {
  hwloc_topology* made = nullptr;
  if (hwloc_topology_init(&made) != 0) return nullptr;
  HwlocTopology handle(made);
  // Our users' threads have the CPUs that they were given: hwloc must not walk over all of them to
  // ask each for its caches. A container that may use one node still moves bytes past the others.
  hwloc_topology_set_flags(
      made, HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING | HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  hwloc_topology_set_type_filter(made, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_ALL);
  hwloc_topology_set_type_filter(made, HWLOC_OBJ_BRIDGE, HWLOC_TYPE_FILTER_KEEP_ALL);
  // No names of devices: for these its plugins would start CUDA and OpenCL within this process.
  hwloc_topology_set_type_filter(made, HWLOC_OBJ_OS_DEVICE, HWLOC_TYPE_FILTER_KEEP_NONE);
  if (!xml.empty() &&
      hwloc_topology_set_xmlbuffer(made, xml.c_str(), static_cast<int>(xml.size() + 1)) != 0)
    return nullptr;
  return hwloc_topology_load(made) == 0 ? std::move(handle) : nullptr;
}

std::string ListText(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  if (hwloc_bitmap_list_asprintf(&text, set) < 0) return {};
  const std::unique_ptr<char, decltype(&std::free)> owner(text, &std::free);
  return text;
}

void ReadDistances(hwloc_topology_t from, std::vector<NumaNode>& nodes) {
  unsigned count = 1;
  hwloc_distances_s* matrix = nullptr;
  if (hwloc_distances_get_by_name(from, "NUMALatency", &count, &matrix, 0) != 0 || count == 0)
    return;
  for (NumaNode& node : nodes) {
    for (unsigned row = 0; row < matrix->nbobjs; ++row) {
      if (static_cast<int>(matrix->objs[row]->os_index) != node.id) continue;
      for (unsigned column = 0; column < matrix->nbobjs; ++column)
        node.distances[static_cast<int>(matrix->objs[column]->os_index)] =
            matrix->values[row * matrix->nbobjs + column];
    }
  }
  hwloc_distances_release(from, matrix);
}

std::vector<NumaNode> ReadNodes(hwloc_topology_t from) {
  std::vector<NumaNode> nodes;
  for (hwloc_obj_t at = nullptr;
       (at = hwloc_get_next_obj_by_type(from, HWLOC_OBJ_NUMANODE, at)) != nullptr;) {
    nodes.push_back(
        {static_cast<int>(at->os_index), at->attr->numanode.local_memory, ListText(at->cpuset)});
  }
  std::sort(nodes.begin(), nodes.end(),
            [](const NumaNode& a, const NumaNode& b) { return a.id < b.id; });
  ReadDistances(from, nodes);
  return nodes;
}

std::string AddressOf(const PciAttributes& pci) {
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.dev, pci.func);
}

// The bridges between the host's own and `device`, from the root down.
std::vector<std::string> BridgesAbove(hwloc_obj_t device) {
  std::vector<std::string> bridges;
  for (hwloc_obj_t at = device->parent; at != nullptr && at->type == HWLOC_OBJ_BRIDGE;
       at = at->parent)
    if (at->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI)
      bridges.push_back(AddressOf(at->attr->bridge.upstream.pci));
  std::reverse(bridges.begin(), bridges.end());
  return bridges;
}

// The node whose CPUs are beside `device`; -1 where there are several such, or none. Memory of a
// GPU or of CXL is a node too, without CPUs or with those of a lower node: nothing is attached to
// it.
int NodeOf(hwloc_topology_t from, hwloc_obj_t device) {
  const hwloc_obj_t beside = hwloc_get_non_io_ancestor_obj(from, device);
  hwloc_obj_t found = nullptr;
  for (hwloc_obj_t at = nullptr;
       (at = hwloc_get_next_obj_by_type(from, HWLOC_OBJ_NUMANODE, at)) != nullptr;) {
    if (!hwloc_bitmap_isset(beside->nodeset, at->os_index)) continue;
    if (found != nullptr && !hwloc_bitmap_isequal(found->cpuset, at->cpuset)) return -1;
    if (found == nullptr || at->os_index < found->os_index) found = at;
  }
  return found == nullptr ? -1 : static_cast<int>(found->os_index);
}

std::string_view KindOfGpu(const PciAttributes& pci) {
  const unsigned base_class = pci.class_id >> 8;
  if (pci.vendor_id == kVendorNvidia && base_class == kClassDisplay) return "cuda";
  if (pci.vendor_id == kVendorAmd &&
      (base_class == kClassDisplay || base_class == kClassAccelerator))
    return "hip";
  return {};
}

std::vector<Gpu> ReadGpus(hwloc_topology_t from) {
  std::vector<Gpu> gpus;
  for (hwloc_obj_t at = nullptr; (at = hwloc_get_next_pcidev(from, at)) != nullptr;) {
    const PciAttributes& pci = at->attr->pcidev;
    const std::string_view kind = KindOfGpu(pci);
    if (kind.empty()) continue;
    const char* const product = hwloc_obj_get_info_by_name(at, "PCIDevice");
    gpus.push_back({std::string(kind),
                    product != nullptr ? std::string(product)
                                       : fmt::format("{:04x}:{:04x}", pci.vendor_id, pci.device_id),
                    AddressOf(pci), NodeOf(from, at), BridgesAbove(at)});
  }
  std::sort(gpus.begin(), gpus.end(), [](const Gpu& a, const Gpu& b) { return a.pci < b.pci; });
  std::map<std::string, int> counts;
  for (Gpu& gpu : gpus) gpu.location += fmt::format(":{}", counts[gpu.location]++);
  return gpus;
}

void PlaceDevices(hwloc_topology_t from, std::vector<RdmaDevice>& devices) {
  for (RdmaDevice& device : devices) {
    if (device.pci.empty()) continue;
    const hwloc_obj_t found = hwloc_get_pcidev_by_busidstring(from, device.pci.c_str());
    if (found == nullptr) continue;
    device.bridges = BridgesAbove(found);
    if (device.numa_node < 0) device.numa_node = NodeOf(from, found);
  }
}

}  // namespace

Topology ReadTopology(const std::filesystem::path& sys, const std::string& hwloc_xml) {
  Topology topology;
  topology.devices = ReadRdmaDevices(sys);
  if (const HwlocTopology from = LoadHwloc(hwloc_xml)) {
    topology.nodes = ReadNodes(from.get());
    topology.gpus = ReadGpus(from.get());
    PlaceDevices(from.get(), topology.devices);
  }
  if (topology.nodes.empty()) topology.nodes.push_back({});
  if (topology.nodes.size() > 1) return topology;
  const int only = topology.nodes.front().id;
  for (RdmaDevice& device : topology.devices)
    if (device.numa_node < 0) device.numa_node = only;
  for (Gpu& gpu : topology.gpus)
    if (gpu.numa_node < 0) gpu.numa_node = only;
  return topology;
}

}  // namespace mooncake
