// Connection strings: the one place that knows every kind of directory.
#include <fmt/format.h>

#include "directory/directory.h"
#include "directory/etcd/etcd_directory.h"
#include "directory/memory/memory_directory.h"
#include "directory/p2p/p2p_directory.h"

namespace mooncake {

Result<std::unique_ptr<Directory>> OpenDirectory(World& world, const std::string& connection, const std::string& cluster,
                                                 DirectoryUse use) {
  if (connection.empty()) return MakeHostDirectory(world, cluster, use);
  if (connection == "P2PHANDSHAKE") return MakeP2pDirectory(world);
  constexpr std::string_view kOurs = "mooncake://";
  if (connection.starts_with(kOurs)) {
    std::vector<HostPort> servers;
    std::string_view rest = std::string_view(connection).substr(kOurs.size());
    while (true) {
      const std::size_t comma = rest.find(',');
      Result<HostPort> server = ParseHostPort(rest.substr(0, comma));
      if (!server) return Fail(Within("metadata_server", server.error()));
      servers.push_back(std::move(*server));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
    return MakeRemoteDirectory(world, std::move(servers), cluster);
  }
  if (const std::size_t scheme = connection.find("://");
      scheme != std::string::npos && !connection.starts_with("etcd://")) {
    return Fail(ErrorId::kBadOptionValue,
                fmt::format("metadata_server = \"{}\": \"{}\" is not one of etcd, mooncake", connection, connection.substr(0, scheme)));
  }
  MC_TRY(EtcdServers servers, ParseEtcdServers(connection));
  return MakeEtcdDirectory(world, std::move(servers), cluster);
}

}  // namespace mooncake
