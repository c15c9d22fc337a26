// The initiator's end of a local connection to a peer's service: requests out, replies and
// descriptors in. It stays open as long as the path, since its end is how the peer's death is
// noticed.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>

#include "base/local_socket.h"
#include "transport/shm/local_protocol.h"
#include "transport/transport.h"

namespace mooncake::shm {

/// On the control loop, except gone() and Close().
class ServiceLink : public std::enable_shared_from_this<ServiceLink> {
 public:
  /// Connects and proves who answers. kPathUnusable says why this peer cannot be reached this way.
  [[nodiscard]] static Task<Result<std::shared_ptr<ServiceLink>>> Open(
      World& world, InstanceId self, std::shared_ptr<const PeerInfo> peer, Instant deadline);

  /// Sends a request and waits for its reply. A reply that refuses is its error.
  template <class Body>
  [[nodiscard]] Task<Result<LocalMessage>> Call(Body body, std::vector<int> descriptors,
                                                Instant deadline) {
    const std::uint64_t request = next_request_++;
    const auto bytes = Encode(request, body);
    co_return co_await Exchange(request, std::vector<std::byte>(bytes.begin(), bytes.end()),
                                std::move(descriptors), deadline);
  }

  /// Any thread. The peer has closed its end, or Close() was called.
  [[nodiscard]] bool gone() const noexcept { return gone_.load(std::memory_order_acquire); }
  /// Called once, on the control loop, when gone() becomes true.
  void OnGone(std::function<void()> call);
  /// Any thread; idempotent.
  void Close() noexcept;

 private:
  ServiceLink(World& world, std::shared_ptr<LocalSocket> socket)
      : world_(world), socket_(std::move(socket)) {}
  Task<Result<LocalMessage>> Exchange(std::uint64_t request, std::vector<std::byte> bytes,
                                      std::vector<int> descriptors, Instant deadline);
  static Task<void> Listen(std::shared_ptr<ServiceLink> self);

  World& world_;
  std::shared_ptr<LocalSocket> socket_;
  std::uint64_t next_request_ = 1;
  std::map<std::uint64_t, OneShot<Result<LocalMessage>>*> waiting_;
  std::function<void()> on_gone_;
  std::atomic<bool> gone_{false};
};

}  // namespace mooncake::shm
