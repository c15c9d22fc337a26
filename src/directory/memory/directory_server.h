// Serves the records of a RecordTable to other processes: three remote calls on whatever port
// carries it.
#pragma once

#include <memory>

#include "directory/memory/record_table.h"
#include "wire/rpc.h"

namespace mooncake {

class DirectoryServer : public std::enable_shared_from_this<DirectoryServer> {
 public:
  explicit DirectoryServer(World& world)
      : world_(world), timer_(world.clock.MakeTimer(world.control)) {}
  /// Before the port serves.
  void AddTo(RpcRouter& router);
  [[nodiscard]] const RecordTable& table() const noexcept { return table_; }

 private:
  Result<Reply> Register(RpcCall& call, const Frame& request);
  Result<Reply> Withdraw(const Frame& request);
  Result<Reply> List(const Frame& request);
  void Disconnected(const InstanceId& id, const std::weak_ptr<RpcConnection>& connection);
  void Sweep();

  World& world_;
  RecordTable table_;
  std::map<InstanceId, std::weak_ptr<RpcConnection>>
      bound_;  // over which connection a record lives
  std::unique_ptr<Timer> timer_;
};

}  // namespace mooncake
