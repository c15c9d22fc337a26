// The target's side of everything that shares memory: listens under a local name, proves itself,
// hands out descriptors of regions to whoever shows their keys, and serves rings.
#pragma once

#include <memory>
#include <unordered_set>

#include "base/local_socket.h"
#include "memory/region_table.h"
#include "transport/shm/local_protocol.h"
#include "transport/shm/ring_server.h"

namespace mooncake::shm {

/// On the control loop, except Open() and Close().
class ShmService : public std::enable_shared_from_this<ShmService> {
 public:
  /// Binds; serves once the control loop runs. kListenFailed.
  [[nodiscard]] static Result<std::shared_ptr<ShmService>> Open(
      World& world, InstanceId self, std::shared_ptr<const RegionTable> regions,
      const CopyEngine& copy);
  [[nodiscard]] const Advertisement& advertisement() const noexcept { return advertisement_; }
  [[nodiscard]] InstanceId self() const noexcept { return self_; }
  /// What `peer` has posted to its rings and nobody waits for is dropped; when this returns,
  /// nothing of it lands. Any thread.
  void EndRingsOf(const InstanceId& peer) noexcept;
  /// Any thread; when it returns no ring touches a region any more.
  void Close() noexcept;

 private:
  ShmService(World& world, InstanceId self, std::shared_ptr<const RegionTable> regions,
             const CopyEngine& copy, Advertisement advertisement,
             std::shared_ptr<LocalListener> listener);
  static Task<void> AcceptLoop(std::shared_ptr<ShmService> self);
  static Task<void> Serve(std::shared_ptr<ShmService> self, std::shared_ptr<LocalSocket> socket);
  struct Answer {
    std::uint16_t error = 0;
    std::uint64_t length_bytes = 0;
    UniqueFd descriptor;
  };
  [[nodiscard]] Answer Handle(LocalMessage& message, InstanceId& introduced,
                              std::vector<std::shared_ptr<RingServer>>& rings);

  World& world_;
  const InstanceId self_;
  const std::shared_ptr<const RegionTable> regions_;
  const CopyEngine copy_;
  const Advertisement advertisement_;
  const std::shared_ptr<LocalListener> listener_;
  std::unordered_set<std::shared_ptr<LocalSocket>> sockets_;
  std::mutex rings_mutex_;
  std::vector<std::pair<InstanceId, std::weak_ptr<RingServer>>>
      rings_;            // by initiator; guarded by rings_mutex_
  bool closed_ = false;  // guarded by rings_mutex_
};

}  // namespace mooncake::shm
