// Connection strings: the one place that knows every kind of directory.
#include <fmt/format.h>

#include "directory/directory.h"
#include "directory/etcd/etcd_directory.h"
#include "directory/http/http_directory.h"
#include "directory/memory/memory_directory.h"
#include "directory/p2p/p2p_directory.h"
#include "directory/redis/redis_directory.h"

namespace mooncake {
namespace {

// "h:p[,h:p]".
Result<std::vector<HostPort>> ParseServers(std::string_view text) {
  std::vector<HostPort> servers;
  while (true) {
    const std::size_t comma = text.find(',');
    Result<HostPort> server = ParseHostPort(text.substr(0, comma));
    if (!server) return Fail(Within("metadata_server", server.error()));
    servers.push_back(std::move(*server));
    if (comma == std::string_view::npos) return servers;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

Result<std::unique_ptr<Directory>> OpenDirectory(World& world, const std::string& connection,
                                                 const std::string& cluster,
                                                 const DirectoryAccess& access) {
  if (connection.empty()) return MakeHostDirectory(world, cluster, access.use);
  if (connection == "P2PHANDSHAKE") return MakeP2pDirectory(world);
  const std::size_t scheme_end = connection.find("://");
  const std::string scheme =
      scheme_end == std::string::npos ? "etcd" : connection.substr(0, scheme_end);
  if (scheme == "etcd") {
    MC_TRY(EtcdServers servers, ParseEtcdServers(connection));
    return MakeEtcdDirectory(world, std::move(servers), cluster);
  }
  if (scheme == "mooncake") {
    MC_TRY(std::vector<HostPort> servers,
           ParseServers(std::string_view(connection).substr(scheme_end + 3)));
    return MakeRemoteDirectory(world, std::move(servers), cluster);
  }
  if (scheme == "redis") {
    MC_TRY(RedisServer server, ParseRedisServer(connection));
    if (server.password.empty()) server.password = access.redis_password;
    return MakeRedisDirectory(world, std::move(server), cluster);
  }
  if (scheme == "http" || scheme == "https") {
    MC_TRY(HttpUrl service, ParseMetadataUrl(connection));
    return MakeHttpDirectory(world, std::move(service), cluster);
  }
  return Fail(
      ErrorId::kBadOptionValue,
      fmt::format("metadata_server: \"{}\" is not one of etcd, http, redis, mooncake", scheme));
}

}  // namespace mooncake
