// Makes rails: chooses the peer's devices and the addresses, connects both ends, and proves that
// bytes go through. On the control loop.
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

  /// A rail from each usable device here that has none, all at once. Where there is one already,
  /// the others are waited for a little only, and go on. The reasons why not, for devices that have
  /// none.
  [[nodiscard]] Task<std::vector<std::string>> ConnectRails(std::shared_ptr<RdmaPath> path,
                                                            std::uint64_t cookie, Instant deadline);
  /// A rail from this device, if it has none, to the peer's device of the same rank or another one.
  /// One at a time for each path and device. The reason why not; empty: it has one, or the path is
  /// closed.
  [[nodiscard]] Task<std::string> ConnectDevice(std::shared_ptr<RdmaPath> path, DeviceInUse in_use,
                                                std::uint64_t cookie, Instant deadline);
  /// The port of a device here is not as it was: tries from it, which may wait for what cannot be
  /// any more, are given up.
  void PortChanged(const RdmaDevice& device);
  /// The same of a device of the peer, for tries to it or to those that come after it.
  void PeerPortChanged(const RdmaLink& link, std::size_t peer_device);
  /// What is called when the budget of a device is used up, on behalf of a path (or of a peer:
  /// null): tells whether another one gave queue pairs back.
  void OnFull(std::function<bool(const RdmaDevice&, const RdmaPath*)> call) {
    make_room_ = std::move(call);
  }
  void Close() noexcept { closed_ = true; }

 private:
  struct Attempt;
  using AttemptPtr = std::shared_ptr<Attempt>;
  struct Proof;
  [[nodiscard]] Task<Status> ConnectSomewhere(AttemptPtr attempt);
  [[nodiscard]] Task<Status> ConnectOver(AttemptPtr attempt, std::size_t peer_device,
                                         AddressPair addresses);
  [[nodiscard]] Task<Status> Prove(const Attempt& attempt, Proof& proof,
                                   const RdmaLink::Answer& answer);
  [[nodiscard]] Task<Status> CarryProof(const Attempt& attempt, RailPairs& pairs, std::size_t pair,
                                        ibv_send_wr& request, Instant deadline);
  void GiveUp(Attempt& attempt);

  World& world_;
  const std::vector<DeviceInUse> devices_;
  std::function<bool(const RdmaDevice&, const RdmaPath*)> make_room_;
  std::vector<AttemptPtr> attempts_;
  std::vector<std::shared_ptr<OneShot<bool>>> waiting_;  // for some attempt to end
  bool closed_ = false;
};

}  // namespace mooncake::rdma
