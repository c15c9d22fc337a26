#include "topology/rdma_sysfs.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <system_error>

namespace mooncake {
namespace {

using Path = std::filesystem::path;

// The first line without the spaces around it; at most 255 bytes of it, an unprintable one as '?'.
std::string ReadLine(const Path& file) {
  std::error_code failure;
  if (!std::filesystem::is_regular_file(file, failure)) return {};
  std::array<char, 256> buffer{};
  std::ifstream(file).getline(buffer.data(), buffer.size());
  std::string line(buffer.data());
  std::replace_if(line.begin(), line.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  const std::size_t begin = std::min(line.find_first_not_of(' '), line.size());
  return line.substr(begin, line.find_last_not_of(' ') + 1 - begin);
}

// Of a whole number; of one that "100 Gb/sec" begins with, if the rest does not matter.
template <class T>
std::optional<T> ToNumber(std::string_view text, bool with_rest = false) {
  T number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || (!with_rest && end != text.data() + text.size()))
    return std::nullopt;
  return number;
}

// "ACTIVE" of "4: ACTIVE".
std::string WordOf(const std::string& line) {
  const std::size_t colon = line.find(": ");
  return colon == std::string::npos ? std::string() : line.substr(colon + 2);
}

std::vector<std::string> NamesIn(const Path& folder) {
  std::vector<std::string> names;
  std::error_code failure;
  for (std::filesystem::directory_iterator entry(folder, failure), end; !failure && entry != end;
       entry.increment(failure))
    names.push_back(entry->path().filename());
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    return ::strverscmp(a.c_str(), b.c_str()) < 0;
  });
  return names;
}

bool IsPciAddress(std::string_view name) {
  constexpr std::string_view kPattern = "hhhh:hh:hh.h";
  return name.size() == kPattern.size() &&
         std::equal(name.begin(), name.end(), kPattern.begin(), [](char c, char wanted) {
           return wanted == 'h' ? std::isxdigit(static_cast<unsigned char>(c)) != 0 : c == wanted;
         });
}

// The PCI device that `link` leads to, or to a part of which it leads.
std::string PciOf(const Path& link) {
  std::error_code failure;
  std::string pci;
  for (const Path& part : std::filesystem::canonical(link, failure))
    if (IsPciAddress(part.native())) pci = part.native();
  return pci;
}

std::vector<RdmaGid> ReadGids(const Path& port) {
  std::vector<RdmaGid> gids;
  for (int index = 0; index < kGidsMax; ++index) {
    const std::string number = std::to_string(index);
    const std::string address = ReadLine(port / "gids" / number);
    // Empty entries are written as zeros.
    if (address.find_first_not_of("0:") == std::string::npos) continue;
    gids.push_back({index, address, ReadLine(port / "gid_attrs/types" / number),
                    ReadLine(port / "gid_attrs/ndevs" / number)});
  }
  return gids;
}

std::vector<RdmaPort> ReadPorts(const Path& folder) {
  std::vector<RdmaPort> ports;
  for (const std::string& name : NamesIn(folder)) {
    const std::optional<int> number = ToNumber<int>(name);
    if (!number || *number < 1) continue;
    const Path port = folder / name;
    ports.push_back({*number, WordOf(ReadLine(port / "state")), ReadLine(port / "link_layer"),
                     ToNumber<double>(ReadLine(port / "rate"), true).value_or(0), ReadGids(port)});
  }
  return ports;
}

// Software devices name theirs; others list it beside the device, or tell with their addresses.
std::string NetdevOf(const Path& folder, const std::vector<RdmaPort>& ports) {
  if (std::string parent = ReadLine(folder / "parent"); !parent.empty()) return parent;
  for (const RdmaPort& port : ports)
    for (const RdmaGid& gid : port.gids)
      if (!gid.netdev.empty()) return gid.netdev;
  const std::vector<std::string> names = NamesIn(folder / "device/net");
  return names.empty() ? std::string() : names.front();
}

}  // namespace

std::vector<RdmaDevice> ReadRdmaDevices(const Path& sys) {
  std::vector<RdmaDevice> devices;
  std::error_code failure;
  for (const std::string& name : NamesIn(sys / "class/infiniband")) {
    const Path folder = sys / "class/infiniband" / name;
    if (!std::filesystem::is_directory(folder, failure)) continue;
    RdmaDevice device{.name = name};
    device.node_type = WordOf(ReadLine(folder / "node_type"));
    device.ports = ReadPorts(folder / "ports");
    device.netdev = NetdevOf(folder, device.ports);
    const bool in_hardware = std::filesystem::exists(folder / "device", failure);
    const Path hardware =
        in_hardware ? folder / "device" : sys / "class/net" / device.netdev / "device";
    device.pci = PciOf(hardware);
    device.numa_node = std::max(-1, ToNumber<int>(ReadLine(hardware / "numa_node")).value_or(-1));
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace mooncake
