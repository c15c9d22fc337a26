// The queue pairs that peers have connected to this process, and the keys they are given.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "transport/rdma/mailbox.h"
#include "transport/rdma/rdma_memory.h"
#include "transport/rdma/rdma_messages.h"
#include "transport/transport.h"
#include "wire/rpc.h"

namespace mooncake::rdma {

/// A device, and the threads that call its driver.
struct DeviceInUse {
  std::shared_ptr<RdmaDevice> device;
  std::shared_ptr<Worker> worker;
  /// For connecting queue pairs: where nobody answers, the kernel looks for the neighbour for a
  /// second, and what has broken meanwhile must not wait for that.
  std::shared_ptr<Worker> connecting;
};

/// On the control loop, unless said otherwise.
class RdmaServer : public std::enable_shared_from_this<RdmaServer> {
 public:
  RdmaServer(World& world, std::vector<DeviceInUse> devices, std::shared_ptr<RdmaMemory> memory,
             std::shared_ptr<const RegionTable> regions);
  /// `make_room` gives queue pairs back that this process has connected itself, if it can. Once,
  /// before the rest.
  void Start(std::function<bool(const RdmaDevice&)> make_room);
  /// Who takes the messages of peers, on the data loop: Transport::OnMessage(). Before the first
  /// Serve().
  void OnMessage(std::function<bool(const InstanceId&, const std::string&)> call) {
    on_message_ = std::move(call);
  }
  void Serve(const std::shared_ptr<Stream>& stream, const PeerInfo& peer);
  /// When this returns, nothing that the peer has sent so far lands any more. Any thread.
  void EndTransfersOf(const InstanceId& peer);
  /// Whether a completion queue is of a pair here.
  [[nodiscard]] static bool IsCookie(std::uint64_t cookie) noexcept {
    return (cookie & kCookieBit) != 0;
  }
  /// The queue of this cookie has something. On the data loop.
  void OnCompletion(std::uint64_t cookie);
  /// Tells everybody who is connected.
  void Announce(const RdmaDevice& device);
  void Close();

 private:
  // A cookie: this bit, 31 bits that tell whom it serves, 32 that tell his rail.
  static constexpr std::uint64_t kCookieBit = 1ULL << 63;
  static constexpr unsigned kServedShift = 32;
  struct Served {
    std::uint32_t number = 0;
    InstanceId peer;
    std::shared_ptr<RpcConnection> connection;
    std::mutex mutex;
    bool ended = false;                         // guarded by mutex
    std::uint32_t last_cookie = 0;              // guarded by mutex
    std::map<std::uint64_t, ServedRail> rails;  // guarded by mutex
    std::set<std::uint64_t> wanted;             // guarded by mutex; rails in the making
  };
  using ServedPtr = std::shared_ptr<Served>;

  [[nodiscard]] Task<Result<Reply>> Connect(ServedPtr served, Frame request);
  [[nodiscard]] Result<pb::RdmaConnectReply> ConnectNow(const DeviceInUse& in_use, Served& served,
                                                        std::uint64_t rail, const RailEnds& there,
                                                        const AddressPair& addresses);
  [[nodiscard]] Task<bool> MakeRoom(const RdmaDevice& device, ServedPtr for_whom);
  [[nodiscard]] Task<Result<Reply>> Disconnect(ServedPtr served, Frame request);
  [[nodiscard]] Task<Result<Reply>> Look(Frame request);
  [[nodiscard]] Task<Result<Reply>> Keys(Frame request, Instant deadline);
  [[nodiscard]] const DeviceInUse* FindDevice(const std::string& name) const;
  [[nodiscard]] ServedPtr FindServed(const RpcCall& call) const;
  static void EndRails(Served& served);

  World& world_;
  const std::vector<DeviceInUse> devices_;
  const std::shared_ptr<RdmaMemory> memory_;
  const std::shared_ptr<const RegionTable> regions_;
  std::function<bool(const RdmaDevice&)> make_room_;
  std::function<bool(const InstanceId&, const std::string&)> on_message_;
  RpcRouter router_;
  bool closed_ = false;
  mutable std::mutex mutex_;
  std::vector<ServedPtr> served_;  // guarded by mutex_
  std::uint32_t last_served_ = 0;  // guarded by mutex_
};

/// Runs `work` on `worker`; returns when it has been done. On the loop `executor`.
[[nodiscard]] Task<void> RunOn(std::shared_ptr<Worker> worker, Executor executor,
                               std::function<void()> work);

}  // namespace mooncake::rdma
