#include "base/plain_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace mooncake {
namespace {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
};

SocketAddress ToSocketAddress(const Endpoint& endpoint) {
  SocketAddress address;
  if (endpoint.address.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    std::memcpy(&v4.sin_addr, endpoint.address.bytes.data() + 12, sizeof v4.sin_addr);
    std::memcpy(&address.storage, &v4, sizeof v4);
    address.length = sizeof v4;
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(endpoint.port);
    v6.sin6_scope_id = endpoint.address.scope;
    std::memcpy(&v6.sin6_addr, endpoint.address.bytes.data(), sizeof v6.sin6_addr);
    std::memcpy(&address.storage, &v6, sizeof v6);
    address.length = sizeof v6;
  }
  return address;
}

void SendAtOnce(int fd) noexcept {
  const int yes = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

}  // namespace

Result<PlainSocket> PlainSocket::Connect(const Endpoint& to) {
  const SocketAddress address = ToSocketAddress(to);
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Fail(ErrorId::kNetwork, "a socket", errno);
  if (::connect(fd.get(), address.get(), address.length) != 0) {
    return Fail(errno == ECONNREFUSED ? ErrorId::kConnectRefused : ErrorId::kNetwork, ToString(to),
                errno);
  }
  SendAtOnce(fd.get());
  return PlainSocket(std::move(fd));
}

Status PlainSocket::Send(Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Fail(ErrorId::kNetwork, "send", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Status PlainSocket::Receive(MutableBytes into) { return ReceiveAll(into, 0); }
Status PlainSocket::ReceiveSpinning(MutableBytes into) { return ReceiveAll(into, MSG_DONTWAIT); }

Status PlainSocket::ReceiveAll(MutableBytes into, int flags) {
  while (!into.empty()) {
    const ssize_t count = ::recv(fd_.get(), into.data(), into.size(), flags);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return Fail(ErrorId::kNetwork, "recv", errno);
    if (count == 0) return Fail(ErrorId::kConnectionClosed, "a plain connection");
    into = into.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<PlainListener> PlainListener::Listen(const IpAddress& at) {
  const SocketAddress address = ToSocketAddress({at, 0});
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Fail(ErrorId::kListenFailed, "a socket", errno);
  constexpr int kBacklog = 16;
  if (::bind(fd.get(), address.get(), address.length) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    return Fail(ErrorId::kListenFailed, ToString(at), errno);
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return Fail(ErrorId::kListenFailed, ToString(at), errno);
  }
  // The port has the same place in both families.
  sockaddr_in as_v4{};
  std::memcpy(&as_v4, &bound, sizeof as_v4);
  return PlainListener(std::move(fd), ntohs(as_v4.sin_port));
}

Result<PlainSocket> PlainListener::Accept() {
  for (;;) {
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) {
      SendAtOnce(fd.get());
      return PlainSocket(std::move(fd));
    }
    if (errno != EINTR && errno != ECONNABORTED)
      return Fail(ErrorId::kClosed, "a plain listener", errno);
  }
}

void PlainListener::Shutdown() noexcept { ::shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace mooncake
