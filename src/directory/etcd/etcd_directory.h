// Records in etcd, over its v3 HTTP/JSON gateway: one key per instance, bound to a lease that this
// process keeps alive. https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "directory/directory.h"

namespace mooncake {

struct EtcdServers {
  std::vector<HostPort> endpoints;  ///< Tried in turn; port 0 means 2379.
  std::string user;                 ///< Empty: no authentication.
  std::string password;
  std::shared_ptr<const TlsContext> tls;  ///< Null: plain.
};
/// "h:p", "h:p,h:p", "etcd://[user:password@]h:p[,h:p]", "etcds://…". kBadAddress.
[[nodiscard]] Result<EtcdServers> ParseEtcdServers(std::string_view connection);

[[nodiscard]] std::unique_ptr<Directory> MakeEtcdDirectory(World& world, EtcdServers servers,
                                                           const std::string& cluster);

}  // namespace mooncake
