#include "drop_in/local_topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <vector>

namespace mooncake::drop_in {
namespace {

bool IsListed(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == name) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

boost::json::array AroundNode(const Topology& topology, int node) {
  boost::json::array near;
  boost::json::array far;
  for (const RdmaDevice& device : topology.devices) {
    const int at = device.numa_node < 0 ? topology.nodes.front().id : device.numa_node;
    (at == node ? near : far).emplace_back(device.name);
  }
  return {std::move(near), std::move(far)};
}

boost::json::array AroundGpu(const Topology& topology, const Gpu& gpu) {
  boost::json::array near;
  boost::json::array far;
  bool nearest = true;
  for (const std::vector<std::string>& tier : TiersFor(topology, gpu.location)) {
    for (const std::string& name : tier) (nearest ? near : far).emplace_back(name);
    nearest = false;
  }
  return {std::move(near), std::move(far)};
}

}  // namespace

std::string LocalTopology(std::string_view devices, const Topology& topology) {
  Topology listed = topology;
  if (!devices.empty())
    std::erase_if(listed.devices,
                  [&](const RdmaDevice& device) { return !IsListed(devices, device.name); });
  boost::json::object around;
  for (const NumaNode& node : listed.nodes)
    around[fmt::format("cpu:{}", node.id)] = AroundNode(listed, node.id);
  for (const Gpu& gpu : listed.gpus) around[gpu.location] = AroundGpu(listed, gpu);
  return boost::json::serialize(around);
}

std::string LocalTopology(std::string_view devices) {
  return LocalTopology(devices, ReadTopology());
}

}  // namespace mooncake::drop_in
