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

// "etcd"; of a connection without a scheme, too.
std::string_view SchemeOf(std::string_view connection) {
  const std::size_t end = connection.find("://");
  return end == std::string_view::npos ? "etcd" : connection.substr(0, end);
}

bool IsEncrypted(std::string_view scheme) {
  return scheme == "etcds" || scheme == "rediss" || scheme == "https";
}

}  // namespace

Result<DirectoryAccess> ReadDirectoryAccess(Files& files, const Options& options,
                                            Credentials credentials, DirectoryUse use) {
  DirectoryAccess access{use, options.Text("redis_password"), std::move(credentials), nullptr};
  const TlsFiles from{options.Text("directory_certificate"), options.Text("directory_key"),
                      options.Text("directory_ca")};
  if (IsEncrypted(SchemeOf(options.Text("metadata_server")))) {
    MC_TRY(access.tls, TlsContext::ForServices(files, from));
  } else if (!from.certificate.empty() || !from.key.empty() || !from.ca.empty()) {
    return Fail(
        ErrorId::kBadOptionValue,
        "directory_ca, directory_certificate and directory_key are for a metadata_server that "
        "begins with etcds://, rediss:// or https://");
  }
  return access;
}

Result<std::unique_ptr<Directory>> OpenDirectory(World& world, const std::string& connection,
                                                 const std::string& cluster,
                                                 const DirectoryAccess& access) {
  if (connection.empty()) {
    return MakeHostDirectory(world, cluster, access.use, access.credentials);
  }
  if (connection == "P2PHANDSHAKE") return MakeP2pDirectory(world);
  const std::string_view scheme = SchemeOf(connection);
  std::shared_ptr<const TlsContext> tls;
  if (IsEncrypted(scheme)) {
    tls = access.tls;
    if (!tls) {
      MC_TRY(tls, TlsContext::ForServices(world.files, {}));
    }
  }
  if (scheme == "etcd" || scheme == "etcds") {
    MC_TRY(EtcdServers servers, ParseEtcdServers(connection));
    servers.tls = std::move(tls);
    return MakeEtcdDirectory(world, std::move(servers), cluster);
  }
  if (scheme == "mooncake") {
    MC_TRY(std::vector<HostPort> servers,
           ParseServers(std::string_view(connection).substr(connection.find("://") + 3)));
    return MakeRemoteDirectory(world, std::move(servers), cluster, access.credentials);
  }
  if (scheme == "redis" || scheme == "rediss") {
    MC_TRY(RedisServer server, ParseRedisServer(connection));
    if (server.password.empty()) server.password = access.redis_password;
    server.tls = std::move(tls);
    return MakeRedisDirectory(world, std::move(server), cluster);
  }
  if (scheme == "http" || scheme == "https") {
    MC_TRY(HttpUrl service, ParseMetadataUrl(connection));
    service.context = std::move(tls);
    return MakeHttpDirectory(world, std::move(service), cluster);
  }
  return Fail(
      ErrorId::kBadOptionValue,
      fmt::format("metadata_server: \"{}\" is not one of etcd, http, redis, mooncake", scheme));
}

}  // namespace mooncake
