#include "topology/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <compare>
#include <optional>

namespace mooncake {
namespace {

enum class Tier { kSameSwitch, kSameNode, kOtherNode, kUnknown };

// Less is nearer.
struct Remoteness {
  Tier tier = Tier::kUnknown;
  std::uint64_t within = 0;  // orders what is in one tier
  auto operator<=>(const Remoteness&) const = default;
};

struct Place {
  int numa_node = -1;
  std::vector<std::string> bridges;
};

std::optional<Place> FindPlace(const Topology& topology, std::string_view location) {
  for (const Gpu& gpu : topology.gpus)
    if (gpu.location == location) return Place{gpu.numa_node, gpu.bridges};
  for (const NumaNode& node : topology.nodes)
    if (fmt::format("cpu:{}", node.id) == location) return Place{node.id, {}};
  return std::nullopt;
}

std::uint64_t DistanceBetween(const Topology& topology, int from, int to) {
  for (const NumaNode& node : topology.nodes) {
    if (node.id != from) continue;
    const auto found = node.distances.find(to);
    return found == node.distances.end() ? 0 : found->second;
  }
  return 0;
}

Remoteness RemotenessOf(const Topology& topology, const Place& from, const RdmaDevice& device) {
  const auto fork = std::mismatch(from.bridges.begin(), from.bridges.end(), device.bridges.begin(),
                                  device.bridges.end());
  // Of two common bridges the lower one is the shorter way.
  if (fork.first != from.bridges.begin())
    return {Tier::kSameSwitch, static_cast<std::uint64_t>(from.bridges.end() - fork.first)};
  if (from.numa_node < 0 || device.numa_node < 0) return {Tier::kUnknown};
  if (from.numa_node == device.numa_node) return {Tier::kSameNode};
  return {Tier::kOtherNode, DistanceBetween(topology, from.numa_node, device.numa_node)};
}

}  // namespace

std::vector<std::vector<std::string>> TiersFor(const Topology& topology,
                                               std::string_view location) {
  const std::optional<Place> from = FindPlace(topology, location);
  std::map<Remoteness, std::vector<std::string>> tiers;
  for (const RdmaDevice& device : topology.devices)
    tiers[from ? RemotenessOf(topology, *from, device) : Remoteness{}].push_back(device.name);
  std::vector<std::vector<std::string>> sorted;
  sorted.reserve(tiers.size());
  for (auto& [remoteness, names] : tiers) sorted.push_back(std::move(names));
  return sorted;
}

}  // namespace mooncake
