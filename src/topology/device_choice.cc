#include "topology/device_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace mooncake {
namespace {

struct Filter {
  std::vector<std::string_view> included;  // names and patterns
  std::vector<std::string_view> excluded;
};

std::string_view WithoutSpaces(std::string_view word) {
  const std::size_t begin = std::min(word.find_first_not_of(" \t"), word.size());
  return word.substr(begin, word.find_last_not_of(" \t") + 1 - begin);
}

Filter ParseFilter(std::string_view text) {
  Filter filter;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view word = WithoutSpaces(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
    const bool excludes = word.starts_with('^') || word.starts_with('!');
    if (excludes) word = WithoutSpaces(word.substr(1));
    if (!word.empty()) (excludes ? filter.excluded : filter.included).push_back(word);
  }
  return filter;
}

bool IsPattern(std::string_view word) { return word.find_first_of("*?") != std::string_view::npos; }

// Whether `pattern` describes all of `name`. After a mismatch the last `*` takes one character
// more.
bool Matches(std::string_view pattern, std::string_view name) {
  std::size_t in_pattern = 0;
  std::size_t in_name = 0;
  std::size_t star = std::string_view::npos;
  std::size_t after_star = 0;  // in the name
  while (in_name < name.size()) {
    if (in_pattern < pattern.size() && pattern[in_pattern] == '*') {
      star = in_pattern++;
      after_star = in_name;
    } else if (in_pattern < pattern.size() &&
               (pattern[in_pattern] == '?' || pattern[in_pattern] == name[in_name])) {
      ++in_pattern;
      ++in_name;
    } else if (star != std::string_view::npos) {
      in_pattern = star + 1;
      in_name = ++after_star;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', in_pattern) == std::string_view::npos;
}

bool AnyMatches(std::span<const std::string_view> patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](std::string_view pattern) { return Matches(pattern, name); });
}

std::optional<std::string> WhyUnusable(const RdmaPort& port, const RdmaDevice& device) {
  if (port.state.empty()) return fmt::format("the state of port {} cannot be read", port.number);
  if (port.state == "INIT")
    return fmt::format("port {} is INIT: it waits for a subnet manager", port.number);
  if (port.state != "ACTIVE") return fmt::format("port {} is {}", port.number, port.state);
  if (port.link_layer != "Ethernet" || !port.gids.empty()) return std::nullopt;
  return fmt::format("no address on its network interface{}{}", device.netdev.empty() ? "" : " ",
                     device.netdev);
}

std::optional<std::string> WhyUnusable(const RdmaDevice& device) {
  if (device.node_type.empty()) return "its node type cannot be read";
  if (device.node_type != "CA")
    return fmt::format("its node type is {}, not CA (channel adapter)", device.node_type);
  if (device.ports.empty()) return "it has no port";
  std::string reasons;
  for (const RdmaPort& port : device.ports) {
    const std::optional<std::string> reason = WhyUnusable(port, device);
    if (!reason) return std::nullopt;
    reasons += (reasons.empty() ? "" : ", ") + *reason;
  }
  return reasons;
}

// What a user could have written instead.
std::string Alternatives(std::span<const RdmaDevice> devices) {
  std::vector<std::string_view> usable;
  for (const RdmaDevice& device : devices)
    if (!WhyUnusable(device)) usable.push_back(device.name);
  if (usable.empty()) return "no RDMA device of this host can be used";
  return fmt::format("{} can be used", fmt::join(usable, ", "));
}

std::string ListReasons(std::span<const RdmaDevice> devices,
                        std::span<const std::optional<std::string>> reasons) {
  std::string list;
  for (std::size_t i = 0; i < devices.size(); ++i)
    list += fmt::format("{}{}: {}", i == 0 ? "" : "; ", devices[i].name, reasons[i].value_or(""));
  return list;
}

// Nothing if `word` finds a device that is used; else what is wrong with all that it means.
std::optional<std::string> WhyNothing(std::string_view word, std::span<const RdmaDevice> devices,
                                      std::span<const std::optional<std::string>> reasons) {
  std::string wrong;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (!Matches(word, devices[i].name)) continue;
    if (!reasons[i]) return std::nullopt;
    wrong += wrong.empty() ? "" : "; ";
    wrong += IsPattern(word) ? fmt::format("{}: {}", devices[i].name, *reasons[i]) : *reasons[i];
  }
  if (!wrong.empty()) return wrong;
  return IsPattern(word) ? "no RDMA device has such a name" : "there is no such RDMA device";
}

std::vector<std::optional<std::string>> Judge(std::span<const RdmaDevice> devices,
                                              const Filter& filter) {
  std::vector<std::optional<std::string>> reasons;
  for (const RdmaDevice& device : devices) {
    if (AnyMatches(filter.excluded, device.name)) {
      reasons.emplace_back("excluded by device_name");
    } else if (!filter.included.empty() && !AnyMatches(filter.included, device.name)) {
      reasons.emplace_back("not named in device_name");
    } else {
      reasons.push_back(WhyUnusable(device));
    }
  }
  return reasons;
}

}  // namespace

std::vector<std::optional<std::string>> ReasonsAgainst(std::span<const RdmaDevice> devices,
                                                       std::string_view filter) {
  return Judge(devices, ParseFilter(filter));
}

Result<DeviceChoice> ChooseDevices(std::span<const RdmaDevice> devices, std::string_view filter) {
  if (devices.empty())
    return Fail(ErrorId::kNoRdma, "no RDMA device on this host (/sys/class/infiniband is empty)");
  const Filter parsed = ParseFilter(filter);
  const std::vector<std::optional<std::string>> reasons = Judge(devices, parsed);
  for (const std::string_view word : parsed.included)
    if (const std::optional<std::string> wrong = WhyNothing(word, devices, reasons))
      return Fail(ErrorId::kRdmaDevice,
                  fmt::format("device_name \"{}\": {}; {}", word, *wrong, Alternatives(devices)));
  DeviceChoice choice;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (reasons[i]) {
      choice.unused.emplace_back(devices[i].name, *reasons[i]);
    } else {
      choice.used.push_back(devices[i].name);
    }
  }
  if (choice.used.empty()) return Fail(ErrorId::kNoRdma, ListReasons(devices, reasons));
  return choice;
}

}  // namespace mooncake
