// Finding and reaching peers: one hand-shake per peer at a time, every published address tried, a
// restarted process never mistaken for the one before. On the control loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/peer.h"

namespace mooncake {

class Connector : public std::enable_shared_from_this<Connector> {
 public:
  Connector(World& world, Directory& directory, EngineOptions options,
            std::function<Introduction()> introduce, const RpcRouter& router,
            std::function<std::vector<PathSlotPtr>()> make_slots)
      : world_(world),
        directory_(directory),
        options_(std::move(options)),
        introduce_(std::move(introduce)),
        router_(router),
        make_slots_(std::move(make_slots)) {}

  [[nodiscard]] Task<Result<std::shared_ptr<PeerImpl>>> Connect(std::string label,
                                                                Instant deadline);
  [[nodiscard]] Task<Result<std::shared_ptr<PeerImpl>>> Connect(Record record, Instant deadline);
  [[nodiscard]] Task<Status> Reconnect(std::shared_ptr<PeerImpl> peer, Instant deadline);
  [[nodiscard]] std::shared_ptr<PeerImpl> Find(const InstanceId& id) const;
  [[nodiscard]] std::vector<std::shared_ptr<PeerImpl>> Peers() const;  ///< Any thread.
  void Close(const Error& cause);

 private:
  [[nodiscard]] std::vector<Endpoint> Candidates(const Record& record) const;
  void DropForgotten();  // under mutex_
  Task<Result<Handshake>> DialAny(Record record, Instant deadline);
  Task<Result<std::shared_ptr<PeerImpl>>> ConnectOnce(Record record, Instant deadline);

  World& world_;
  Directory& directory_;
  EngineOptions options_;
  std::function<Introduction()> introduce_;
  const RpcRouter& router_;
  std::function<std::vector<PathSlotPtr>()> make_slots_;
  bool closed_ = false;
  mutable std::mutex mutex_;
  std::map<InstanceId, std::shared_ptr<PeerImpl>> peers_;  // guarded by mutex_
  std::map<std::string, InstanceId>
      by_name_;  // where a label is the address: whom it turned out to be
  std::map<std::string, std::vector<std::shared_ptr<OneShot<bool>>>> connecting_;
};

}  // namespace mooncake
