// Records in redis: one key for each instance that ends by itself unless its process shows that it
// is alive, and one sorted set for each cluster that says which keys to look at.
#pragma once

#include <memory>
#include <string>

#include "directory/directory.h"

namespace mooncake {

struct RedisServer {
  HostPort address;
  std::string user;      ///< Empty: redis's default user.
  std::string password;  ///< Empty: no authentication.
  std::uint32_t database = 0;
  std::shared_ptr<const TlsContext> tls;  ///< Null: plain.
};
/// "redis://[[user:]password@]host[:port][/database]", "rediss://…". kBadAddress.
[[nodiscard]] Result<RedisServer> ParseRedisServer(std::string_view connection);

[[nodiscard]] std::unique_ptr<Directory> MakeRedisDirectory(World& world, RedisServer server,
                                                            const std::string& cluster);

/// What an error reply ("WRONGPASS …") of redis is called.
[[nodiscard]] Error RedisFault(const std::string& reply);

}  // namespace mooncake
