// Makes rails: chooses the devices and addresses, connects both ends, proves that bytes go through,
// and tries again what was lost. On the control loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transport/rdma/rdma_path.h"
#include "transport/rdma/rdma_server.h"

namespace mooncake::rdma {

class RdmaConnector : public std::enable_shared_from_this<RdmaConnector> {
 public:
  RdmaConnector(World& world, std::vector<DeviceInUse> devices)
      : world_(world), devices_(std::move(devices)) {}

  /// A rail from each usable device here that has none, to the peer's device of the same rank or
  /// another one. The reasons why not, for devices that got none.
  /// One at a time for each path.
  [[nodiscard]] Task<std::vector<std::string>> ConnectRails(std::shared_ptr<RdmaPath> path,
                                                            std::uint64_t cookie, Instant deadline);
  /// What is called when the budget of a device is used up, on behalf of a path (or of a peer:
  /// null): tells whether another one gave queue pairs back.
  void OnFull(std::function<bool(const RdmaDevice&, const RdmaPath*)> call) {
    make_room_ = std::move(call);
  }
  void Close() noexcept { closed_ = true; }

 private:
  [[nodiscard]] Task<Status> ConnectDevice(std::shared_ptr<RdmaPath> path, DeviceInUse in_use,
                                           std::uint64_t cookie, Instant deadline);
  [[nodiscard]] Task<Status> ConnectRail(std::shared_ptr<RdmaPath> path, DeviceInUse in_use,
                                         std::size_t peer_device, AddressPair addresses,
                                         std::uint64_t cookie, Instant deadline);
  struct Proof;
  [[nodiscard]] Task<Status> Prove(Proof& proof, const RdmaLink::Answer& answer, Instant deadline);

  World& world_;
  const std::vector<DeviceInUse> devices_;
  std::function<bool(const RdmaDevice&, const RdmaPath*)> make_room_;
  std::vector<std::shared_ptr<OneShot<bool>>> waiting_;  // for their turn with some path
  bool closed_ = false;
};

}  // namespace mooncake::rdma
