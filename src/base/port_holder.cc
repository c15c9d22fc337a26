// Who listens on a port: /proc/net/tcp gives the socket's inode, /proc/PID/fd its holder.
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "base/real_network.h"

namespace mooncake {
namespace {

namespace fs = std::filesystem;

// A line of /proc/net/tcp: "sl local rem st tx:rx tr:when retr uid timeout inode"; state 0A is
// LISTEN.
std::optional<std::string> InodeOfListener(const char* table, std::uint16_t port) {
  std::ifstream file(table);
  std::string line;
  std::getline(file, line);  // heading
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string slot, local, remote, state, queues, timer, retries, uid, timeout, inode;
    fields >> slot >> local >> remote >> state >> queues >> timer >> retries >> uid >> timeout >>
        inode;
    const std::size_t colon = local.rfind(':');
    if (state != "0A" || colon == std::string::npos) continue;
    unsigned found = 0;
    std::from_chars(local.data() + colon + 1, local.data() + local.size(), found, 16);
    if (found == port) return inode;
  }
  return std::nullopt;
}

bool HoldsSocket(const fs::path& process, const std::string& link) {
  std::error_code ignored;
  for (fs::directory_iterator it(process / "fd", ignored), end; !ignored && it != end;
       it.increment(ignored)) {
    if (fs::read_symlink(it->path(), ignored).string() == link) return true;
  }
  return false;
}

}  // namespace

std::string FindPortHolder(const Endpoint& endpoint) {
  std::optional<std::string> inode = InodeOfListener("/proc/net/tcp", endpoint.port);
  if (!inode) inode = InodeOfListener("/proc/net/tcp6", endpoint.port);
  if (!inode) return {};
  const std::string link = fmt::format("socket:[{}]", *inode);
  std::error_code ignored;
  for (fs::directory_iterator it("/proc", ignored), end; !ignored && it != end;
       it.increment(ignored)) {
    const std::string name = it->path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (!HoldsSocket(it->path(), link)) continue;
    std::ifstream comm(it->path() / "comm");
    std::string command;
    std::getline(comm, command);
    return fmt::format("pid {} ({})", name, command);
  }
  return "a process of another user";
}

}  // namespace mooncake
