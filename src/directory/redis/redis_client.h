// One connection to one redis: commands go out together and are answered in their order.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "directory/redis/redis_directory.h"
#include "directory/redis/resp.h"
#include "wire/frame.h"

namespace mooncake {

/// On the control loop, one call at a time. The connection is opened when it is needed, and again
/// after it broke.
class RedisClient {
 public:
  RedisClient(World& world, RedisServer server) : world_(world), server_(std::move(server)) {}
  ~RedisClient() { Close(); }
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;

  /// "127.0.0.1:6379".
  [[nodiscard]] std::string Where() const;
  /// As many replies as commands. All of the commands are ones that may be repeated. Errors:
  /// kDirectory…, what RedisFault() makes of the first error reply.
  [[nodiscard]] Task<Result<std::vector<RespValue>>> Call(
      std::vector<std::vector<std::string>> commands, Instant deadline);
  void Close();
  [[nodiscard]] const RedisServer& server() const noexcept { return server_; }

 private:
  using Commands = std::vector<std::vector<std::string>>;
  Task<Status> Connect(Instant deadline);
  Task<Result<std::vector<RespValue>>> Exchange(const Commands& commands, Instant deadline);
  Task<Result<RespValue>> ReadReply();
  Task<Error> WhoClosed(Error cause, Instant deadline);

  World& world_;
  RedisServer server_;
  std::shared_ptr<Stream> stream_;
  std::string received_;  // what follows the last reply
};

}  // namespace mooncake
