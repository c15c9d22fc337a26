// mooncake topology: what this host is made of, and which of its RDMA devices are used.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "base/units.h"
#include "cli/command.h"
#include "topology/device_choice.h"
#include "topology/topology.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOptions[] = {
    {"json", "false", Unit::kFlag, "Print it as one line of JSON."},
    {"device_name", "", Unit::kText,
     "RDMA devices, separated by commas: names, patterns (mlx5_*), and what is not meant "
     "(^mlx5_bond_0)."},
    {"sys", "/sys", Unit::kText,
     "Where the kernel's sysfs is mounted, for RDMA devices: in a container, perhaps the host's."},
};

/// What is shown: the host, and what is against each of its devices, empty if it is used.
struct Inventory {
  Topology topology;
  std::map<std::string, std::string> reasons;  // by the name of the device
};

/// kRdmaDevice as ChooseDevices() has it. That nothing can be used is no error here but the answer.
Result<Inventory> TakeInventory(Topology topology, std::string_view filter) {
  const Result<DeviceChoice> choice = ChooseDevices(topology.devices, filter);
  if (!choice && choice.error().id != ErrorId::kNoRdma) return Fail(choice.error());
  Inventory inventory{std::move(topology), {}};
  const std::vector<RdmaDevice>& devices = inventory.topology.devices;
  const std::vector<std::optional<std::string>> reasons = ReasonsAgainst(devices, filter);
  for (std::size_t i = 0; i < devices.size(); ++i)
    inventory.reasons[devices[i].name] = reasons[i].value_or("");
  return inventory;
}

std::vector<std::string> NearestTo(const Inventory& inventory, const std::string& location) {
  for (std::vector<std::string>& tier : TiersFor(inventory.topology, location)) {
    std::erase_if(tier,
                  [&](const std::string& name) { return !inventory.reasons.at(name).empty(); });
    if (!tier.empty()) return tier;
  }
  return {};
}

std::string LocationOf(const NumaNode& node) { return fmt::format("cpu:{}", node.id); }

std::string OrDash(std::string_view text) { return std::string(text.empty() ? "-" : text); }

std::string NodeText(int numa_node) { return numa_node < 0 ? "?" : std::to_string(numa_node); }

std::string NearestText(const Inventory& inventory, const std::string& location) {
  return OrDash(fmt::format("{}", fmt::join(NearestTo(inventory, location), " ")));
}

void PrintNodes(const Inventory& inventory) {
  fmt::print("{:<9} {:>10}  {:<24} {}\n", "NUMA NODE", "MEMORY", "CPUS", "NEAREST DEVICES");
  for (const NumaNode& node : inventory.topology.nodes)
    fmt::print("{:<9} {:>10}  {:<24} {}\n", LocationOf(node), FormatBytes(node.memory_bytes),
               OrDash(node.cpus), NearestText(inventory, LocationOf(node)));
}

constexpr std::string_view kDeviceRow = "{:<15} {:<12} {:<4} {:>4} {:<7} {:<10} {:>6} {:>4}  {}\n";

void PrintDevice(const RdmaDevice& device, const std::string& reason) {
  const std::string use = reason.empty() ? "used" : "not used: " + reason;
  const std::string node = NodeText(device.numa_node);
  if (device.ports.empty())
    fmt::print(kDeviceRow, device.name, OrDash(device.netdev), node, "-", "-", "-", "-", "-", use);
  for (const RdmaPort& port : device.ports)
    fmt::print(kDeviceRow, device.name, OrDash(device.netdev), node, port.number,
               OrDash(port.state), OrDash(port.link_layer), port.gigabits_per_second,
               port.gids.size(), use);
}

void PrintDevices(const Inventory& inventory) {
  if (inventory.topology.devices.empty()) {
    fmt::print("\nNo RDMA device on this host: transports that need none carry everything.\n");
    return;
  }
  fmt::print("\n");
  fmt::print(kDeviceRow, "RDMA DEVICE", "INTERFACE", "NUMA", "PORT", "STATE", "LINK", "GBIT/S",
             "GIDS", "USE");
  for (const RdmaDevice& device : inventory.topology.devices)
    PrintDevice(device, inventory.reasons.at(device.name));
}

void PrintGpus(const Inventory& inventory) {
  if (inventory.topology.gpus.empty()) {
    fmt::print("\nNo GPU on this host.\n");
    return;
  }
  fmt::print("\n{:<9} {:<13} {:<4} {:<24} {}\n", "GPU", "PCI", "NUMA", "NAME", "NEAREST DEVICES");
  for (const Gpu& gpu : inventory.topology.gpus)
    fmt::print("{:<9} {:<13} {:<4} {:<24} {}\n", gpu.location, gpu.pci, NodeText(gpu.numa_node),
               gpu.name, NearestText(inventory, gpu.location));
}

boost::json::array NodesJson(const Inventory& inventory) {
  boost::json::array nodes;
  for (const NumaNode& node : inventory.topology.nodes) {
    boost::json::object distances;
    for (const auto& [id, distance] : node.distances) distances[LocationOf({id})] = distance;
    nodes.push_back({{"location", LocationOf(node)},
                     {"memory_bytes", node.memory_bytes},
                     {"cpus", node.cpus},
                     {"distances", std::move(distances)},
                     {"nearest", boost::json::value_from(NearestTo(inventory, LocationOf(node)))}});
  }
  return nodes;
}

boost::json::array PortsJson(const RdmaDevice& device) {
  boost::json::array ports;
  for (const RdmaPort& port : device.ports) {
    boost::json::array gids;
    for (const RdmaGid& gid : port.gids)
      gids.push_back({{"index", gid.index},
                      {"address", gid.address},
                      {"type", gid.type},
                      {"netdev", gid.netdev}});
    ports.push_back({{"number", port.number},
                     {"state", port.state},
                     {"link_layer", port.link_layer},
                     {"gigabits_per_second", port.gigabits_per_second},
                     {"gids", std::move(gids)}});
  }
  return ports;
}

boost::json::array DevicesJson(const Inventory& inventory) {
  boost::json::array devices;
  for (const RdmaDevice& device : inventory.topology.devices) {
    const std::string& reason = inventory.reasons.at(device.name);
    devices.push_back({{"name", device.name},
                       {"netdev", device.netdev},
                       {"pci", device.pci},
                       {"numa_node", device.numa_node},
                       {"node_type", device.node_type},
                       {"used", reason.empty()},
                       {"reason", reason},
                       {"ports", PortsJson(device)}});
  }
  return devices;
}

boost::json::array GpusJson(const Inventory& inventory) {
  boost::json::array gpus;
  for (const Gpu& gpu : inventory.topology.gpus)
    gpus.push_back({{"location", gpu.location},
                    {"name", gpu.name},
                    {"pci", gpu.pci},
                    {"numa_node", gpu.numa_node},
                    {"nearest", boost::json::value_from(NearestTo(inventory, gpu.location))}});
  return gpus;
}

int RunTopology(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  const Result<Inventory> inventory =
      TakeInventory(ReadTopology(input.options.Text("sys")), input.options.Text("device_name"));
  if (!inventory) {
    Report(inventory.error());
    return kExitFailed;  // the command line is right; the device is not
  }
  if (input.options.Flag("json")) {
    const boost::json::object all = {{"nodes", NodesJson(*inventory)},
                                     {"rdma_devices", DevicesJson(*inventory)},
                                     {"gpus", GpusJson(*inventory)}};
    fmt::print("{}\n", boost::json::serialize(all));
    return kExitOk;
  }
  PrintNodes(*inventory);
  PrintDevices(*inventory);
  PrintGpus(*inventory);
  return kExitOk;
}

}  // namespace

const Command kTopologyCommand = {
    "topology",
    "Shows this host's NUMA nodes, RDMA devices and GPUs, and why a device is not used",
    "topology [--device-name LIST] [--json] [flags]",
    "Nothing is opened: this is what the kernel says. A device is used if one of its ports is "
    "ACTIVE and has an address;\n"
    "NEAREST are the used ones behind the same PCI switch, else on the same NUMA node, else "
    "elsewhere.\n\n"
    "Example: mooncake topology --device-name 'mlx5_*,^mlx5_bond_0'\n"
    "Fails if --device-name names a device that cannot be used; that there is none at all is no "
    "failure.\n",
    kOptions,
    &RunTopology,
};

}  // namespace mooncake
