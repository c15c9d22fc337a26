// TCP with nothing around it: blocking calls on the caller's thread. What a benchmark compares
// with; everything else uses World's Network.
#pragma once

#include "base/address.h"
#include "base/unique_fd.h"
#include "base/world.h"

namespace mooncake {

class PlainSocket {
 public:
  explicit PlainSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  /// Blocks. kConnectRefused, kNetwork.
  [[nodiscard]] static Result<PlainSocket> Connect(const Endpoint& to);
  [[nodiscard]] Status Send(Bytes bytes);
  /// Until `into` is full. kConnectionClosed, kNetwork.
  [[nodiscard]] Status Receive(MutableBytes into);
  /// The same without sleeping: asks the kernel again and again.
  [[nodiscard]] Status ReceiveSpinning(MutableBytes into);

 private:
  [[nodiscard]] Status ReceiveAll(MutableBytes into, int flags);
  UniqueFd fd_;
};

class PlainListener {
 public:
  /// A port of the kernel's choice. kListenFailed.
  [[nodiscard]] static Result<PlainListener> Listen(const IpAddress& at);
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  /// Blocks. kClosed after Shutdown().
  [[nodiscard]] Result<PlainSocket> Accept();
  /// From any thread: an Accept() under way returns.
  void Shutdown() noexcept;

 private:
  PlainListener(UniqueFd fd, std::uint16_t port) : fd_(std::move(fd)), port_(port) {}
  UniqueFd fd_;
  std::uint16_t port_;
};

}  // namespace mooncake
