#include "drop_in/local_topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <fstream>
#include <optional>
#include <vector>

namespace mooncake::drop_in {
namespace {

struct Device {
  std::string name;
  int node = 0;
};

std::optional<int> ToNumber(std::string_view text) {
  int number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

std::vector<std::string> NamesIn(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  std::error_code failure;
  for (std::filesystem::directory_iterator entry(folder, failure), end; !failure && entry != end;
       entry.increment(failure))
    names.push_back(entry->path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<int> Nodes(const std::filesystem::path& sys) {
  std::vector<int> nodes;
  for (const std::string& name : NamesIn(sys / "devices/system/node")) {
    if (!name.starts_with("node")) continue;
    if (const std::optional<int> node = ToNumber(std::string_view(name).substr(4)))
      nodes.push_back(*node);
  }
  if (nodes.empty()) nodes.push_back(0);
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

bool IsListed(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == name) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

std::vector<Device> Devices(const std::filesystem::path& sys, std::string_view wanted, int first) {
  std::vector<Device> devices;
  for (const std::string& name : NamesIn(sys / "class/infiniband")) {
    if (!wanted.empty() && !IsListed(wanted, name)) continue;
    std::string line;
    std::ifstream file(sys / "class/infiniband" / name / "device/numa_node");
    std::getline(file, line);
    // -1: the firmware does not say; on a host of one node that is the one.
    const int node = ToNumber(line).value_or(-1);
    devices.push_back({name, node < 0 ? first : node});
  }
  return devices;
}

}  // namespace

std::string LocalTopology(std::string_view devices, const std::filesystem::path& sys) {
  const std::vector<int> nodes = Nodes(sys);
  const std::vector<Device> all = Devices(sys, devices, nodes.front());
  boost::json::object topology;
  for (const int node : nodes) {
    boost::json::array near;
    boost::json::array far;
    for (const Device& device : all) {
      auto& list = device.node == node ? near : far;
      list.emplace_back(device.name);
    }
    topology[fmt::format("cpu:{}", node)] = boost::json::array{std::move(near), std::move(far)};
  }
  return boost::json::serialize(topology);
}

}  // namespace mooncake::drop_in
