// The connection over which one engine asks another for rails and keys, and hears of its ports. On
// the control loop.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "transport/rdma/rdma_messages.h"
#include "transport/transport.h"
#include "wire/rpc.h"

namespace mooncake::rdma {

/// A region of the peer as its NICs know it.
struct RemoteRegion {
  std::uint64_t base = 0;
  std::uint64_t length_bytes = 0;
  std::uint64_t chunk_bytes = 0;
  /// By the peer's device, then by chunk. Empty: not registered on that device.
  std::vector<std::vector<std::uint32_t>> keys;
};
using RemoteRegionPtr = std::shared_ptr<const RemoteRegion>;

class RdmaLink : public std::enable_shared_from_this<RdmaLink> {
 public:
  /// Errors as mooncake::Dial(), and kBadFrame.
  [[nodiscard]] static Task<Result<std::shared_ptr<RdmaLink>>> Open(
      World& world, Introduction introduction, std::shared_ptr<const PeerInfo> peer,
      Instant deadline);
  ~RdmaLink() { Close(); }
  RdmaLink(const RdmaLink&) = delete;
  RdmaLink& operator=(const RdmaLink&) = delete;

  [[nodiscard]] bool is_open() const noexcept { return connection_ && connection_->is_open(); }
  /// As last told. Their number and order do not change.
  [[nodiscard]] const std::vector<PeerDevice>& devices() const noexcept { return devices_; }
  [[nodiscard]] std::uint64_t NextRail() noexcept { return ++last_rail_; }

  /// Has the peer look at one of its devices again; what it says of it is in devices() afterwards.
  [[nodiscard]] Task<Status> Look(std::size_t device, Instant deadline);

  struct Answer {
    RailEnds there;
    std::uint64_t page_address = 0;
    std::uint32_t page_key = 0;
  };
  [[nodiscard]] Task<Result<Answer>> Connect(std::uint64_t rail, std::string device, RailEnds here,
                                             AddressPair addresses, Instant deadline);
  /// When it returns success, nothing that was sent over the rail lands any more; one that the peer
  /// is still making comes to nothing.
  [[nodiscard]] Task<Status> Disconnect(std::uint64_t rail, Instant deadline);
  /// The peer waits for the region's registration, at most until `deadline`. Errors: what the peer
  /// refused with (kRegionUnknown, kBadRegionKey), kBadFrame.
  [[nodiscard]] Task<Result<RemoteRegionPtr>> FetchKeys(RegionInfo region, Instant deadline);

  /// What is called when the peer speaks of one of its devices; by its place in devices(), and
  /// whether it is another than it was.
  void OnDevice(std::function<void(std::size_t device, bool changed)> call) {
    on_device_ = std::move(call);
  }
  /// What is called when the peer needs queue pairs; tells whether some were given back.
  void OnPark(std::function<bool()> call) { on_park_ = std::move(call); }
  /// Once, when the connection ends.
  void OnClose(std::function<void(const Error&)> call) { connection_->OnClose(std::move(call)); }
  void Close();

 private:
  explicit RdmaLink(std::vector<PeerDevice> devices) : devices_(std::move(devices)) {}
  struct Learnt {
    std::size_t device = 0;
    bool is_new = false;
  };
  [[nodiscard]] Result<Learnt> Learn(const std::string& body);

  std::vector<PeerDevice> devices_;
  RpcRouter router_;
  std::shared_ptr<RpcConnection> connection_;
  std::uint64_t last_rail_ = 0;
  std::function<void(std::size_t, bool)> on_device_;
  std::function<bool()> on_park_;
};

}  // namespace mooncake::rdma
