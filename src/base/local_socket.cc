#include "base/local_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace mooncake {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Descriptor = asio::posix::stream_descriptor;

constexpr int kLocalBacklog = 128;

struct AbstractAddress {
  sockaddr_un address{};
  socklen_t length = 0;
};

Result<AbstractAddress> MakeAddress(const std::string& name) {
  AbstractAddress result;
  if (name.empty() || name.size() + 1 > sizeof result.address.sun_path) {
    return Fail(ErrorId::kBadAddress, fmt::format("a local name of {} bytes", name.size()));
  }
  result.address.sun_family = AF_UNIX;
  std::memcpy(result.address.sun_path + 1, name.data(), name.size());
  result.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return result;
}

Error FromErrno(int cause, std::string context) {
  const bool closed = cause == EPIPE || cause == ECONNRESET || cause == ENOTCONN;
  return Error{closed ? ErrorId::kConnectionClosed : ErrorId::kNetwork, std::move(context), cause};
}

UniqueFd MakeSocket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// Room for the descriptors of one message, aligned as the kernel wants it.
struct alignas(cmsghdr) ControlBuffer {
  char bytes[CMSG_SPACE(sizeof(int) * kLocalDescriptorsMax)];
};

// Takes over every descriptor of the message, wanted or not: one that is left there would leak.
std::vector<UniqueFd> TakeDescriptors(msghdr& message) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      descriptors.emplace_back(fd);
    }
  }
  return descriptors;
}

// kPeerBusy: nothing there yet.
Result<LocalMessage> TryReceive(int fd) {
  LocalMessage message;
  message.bytes.resize(kLocalMessageBytesMax);
  iovec part{message.bytes.data(), message.bytes.size()};
  ControlBuffer control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof control.bytes;
  const ssize_t count = ::recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (count < 0) {
    const int cause = errno;
    if (cause == EAGAIN || cause == EINTR) return Fail(ErrorId::kPeerBusy, {});
    return Fail(FromErrno(cause, "local connection"));
  }
  message.descriptors = TakeDescriptors(header);
  if (count == 0) return Fail(ErrorId::kConnectionClosed, "local connection");
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return Fail(ErrorId::kFrameTooLarge, "a local message with too many bytes or descriptors");
  }
  message.bytes.resize(static_cast<std::size_t>(count));
  return message;
}

Status TrySend(int fd, Bytes bytes, std::span<const int> descriptors) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  ControlBuffer control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  if (::sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return {};
  const int cause = errno;
  if (cause == EAGAIN || cause == EINTR) return Fail(ErrorId::kPeerBusy, {});
  return Fail(FromErrno(cause, "local connection"));
}

// Waits until `descriptor` is ready, at most until `deadline`. kDeadline, kClosed.
Task<Status> WaitReady(Descriptor& descriptor, Descriptor::wait_type type, Instant deadline) {
  asio::steady_timer timer(descriptor.get_executor());
  const auto late = std::make_shared<bool>(false);
  if (deadline != kNever) {
    timer.expires_at(deadline);
    timer.async_wait([late, &descriptor](const error_code& code) {
      if (code || late.use_count() < 2) return;  // the waiting coroutine has gone on
      *late = true;
      error_code ignored;
      descriptor.cancel(ignored);
    });
  }
  error_code code;
  co_await descriptor.async_wait(type, asio::redirect_error(asio::use_awaitable, code));
  if (*late) co_return Fail(ErrorId::kDeadline, "local connection");
  if (code) co_return Fail(ErrorId::kClosed, "local connection");
  co_return Status{};
}

}  // namespace

bool LocalPeer::MayBeServed() const noexcept { return user == 0 || user == ::geteuid(); }

struct LocalSocket::Impl {
  Impl(const Executor& executor, UniqueFd fd) : descriptor(executor, fd.Release()) {
    ucred credentials{};
    socklen_t length = sizeof credentials;
    known = ::getsockopt(descriptor.native_handle(), SOL_SOCKET, SO_PEERCRED, &credentials,
                         &length) == 0;
    peer = {known ? credentials.uid : UINT32_MAX, known ? credentials.pid : 0};
  }
  Descriptor descriptor;
  LocalPeer peer;
  bool known = false;
};

LocalSocket::LocalSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalSocket::~LocalSocket() = default;
LocalPeer LocalSocket::peer() const noexcept { return impl_->peer; }

Result<std::shared_ptr<LocalSocket>> LocalSocket::Connect(const Executor& executor,
                                                          const std::string& name) {
  MC_TRY(const AbstractAddress to, MakeAddress(name));
  UniqueFd fd = MakeSocket();
  if (!fd) return Fail(ErrorId::kNetwork, "socket", errno);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to.address), to.length) != 0) {
    const int cause = errno;
    if (cause == ECONNREFUSED) return Fail(ErrorId::kConnectRefused, "local name " + name, cause);
    if (cause == EAGAIN) return Fail(ErrorId::kPeerBusy, "local name " + name, cause);
    return Fail(ErrorId::kNetwork, "local name " + name, cause);
  }
  return std::shared_ptr<LocalSocket>(
      new LocalSocket(std::make_unique<Impl>(executor, std::move(fd))));
}

Task<Result<LocalMessage>> LocalSocket::Receive(Instant deadline) {
  while (impl_->descriptor.is_open()) {
    Result<LocalMessage> message = TryReceive(impl_->descriptor.native_handle());
    if (message || message.error().id != ErrorId::kPeerBusy) co_return message;
    const Status ready = co_await WaitReady(impl_->descriptor, Descriptor::wait_read, deadline);
    if (!ready) co_return Fail(ready.error());
  }
  co_return Fail(ErrorId::kClosed, "local connection");
}

Task<Status> LocalSocket::Send(Bytes bytes, std::span<const int> descriptors, Instant deadline) {
  MC_ASSERT(!bytes.empty() && bytes.size() <= kLocalMessageBytesMax);
  MC_ASSERT(descriptors.size() <= kLocalDescriptorsMax);
  while (impl_->descriptor.is_open()) {
    Status sent = TrySend(impl_->descriptor.native_handle(), bytes, descriptors);
    if (sent || sent.error().id != ErrorId::kPeerBusy) co_return sent;
    const Status ready = co_await WaitReady(impl_->descriptor, Descriptor::wait_write, deadline);
    if (!ready) co_return Fail(ready.error());
  }
  co_return Fail(ErrorId::kClosed, "local connection");
}

void LocalSocket::Close() noexcept {
  error_code ignored;
  impl_->descriptor.close(ignored);
}

struct LocalListener::Impl {
  Impl(const Executor& executor, UniqueFd fd) : descriptor(executor, fd.Release()) {}
  Descriptor descriptor;
};

LocalListener::LocalListener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalListener::~LocalListener() = default;

Result<std::shared_ptr<LocalListener>> LocalListener::Listen(const Executor& executor,
                                                             const std::string& name) {
  MC_TRY(const AbstractAddress at, MakeAddress(name));
  UniqueFd fd = MakeSocket();
  if (!fd) return Fail(ErrorId::kListenFailed, "socket", errno);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at.address), at.length) != 0 ||
      ::listen(fd.get(), kLocalBacklog) != 0) {
    const int cause = errno;
    return Fail(cause == EADDRINUSE ? ErrorId::kPortTaken : ErrorId::kListenFailed,
                "local name " + name, cause);
  }
  return std::shared_ptr<LocalListener>(
      new LocalListener(std::make_unique<Impl>(executor, std::move(fd))));
}

Task<Result<std::shared_ptr<LocalSocket>>> LocalListener::Accept() {
  const Executor executor = impl_->descriptor.get_executor();
  while (impl_->descriptor.is_open()) {
    UniqueFd fd(::accept4(impl_->descriptor.native_handle(), nullptr, nullptr,
                          SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd) {
      co_return std::shared_ptr<LocalSocket>(
          new LocalSocket(std::make_unique<LocalSocket::Impl>(executor, std::move(fd))));
    }
    const int cause = errno;
    if (cause == EINTR || cause == ECONNABORTED) continue;
    if (cause != EAGAIN) co_return Fail(ErrorId::kNetwork, "accept on a local name", cause);
    const Status ready = co_await WaitReady(impl_->descriptor, Descriptor::wait_read, kNever);
    if (!ready) co_return Fail(ready.error());
  }
  co_return Fail(ErrorId::kClosed, "local listener");
}

void LocalListener::Close() noexcept {
  error_code ignored;
  impl_->descriptor.close(ignored);
}

// The loop's own duplicate: closing it with the loop leaves the threads that Ring() and Wait()
// alone.
Doorbell::Doorbell(UniqueFd fd) : fd_(std::move(fd)) {}
Doorbell::~Doorbell() = default;

Result<std::pair<std::unique_ptr<Doorbell>, UniqueFd>> Doorbell::MakePair() {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return Fail(ErrorId::kNetwork, "socketpair", errno);
  }
  return std::pair{std::unique_ptr<Doorbell>(new Doorbell(UniqueFd(ends[0]))), UniqueFd(ends[1])};
}

Result<std::unique_ptr<Doorbell>> Doorbell::Adopt(UniqueFd fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX) {
    return Fail(ErrorId::kBadFrame, "a doorbell that is not a Unix socket");
  }
  return std::unique_ptr<Doorbell>(new Doorbell(std::move(fd)));
}

void Doorbell::Ring() noexcept {
  const char ring = 1;
  // A full queue means that rings enough wait to be heard; a closed one is seen by whoever waits.
  static_cast<void>(::send(fd_.get(), &ring, sizeof ring, MSG_DONTWAIT | MSG_NOSIGNAL));
}

Doorbell::Heard Doorbell::Listen() noexcept {
  constexpr int kRingsMax = 64;  // a peer that rings without end is not listened to without end
  Heard heard = Heard::kNothing;
  for (int i = 0; i < kRingsMax; ++i) {
    char rings[16];
    const ssize_t count = ::recv(fd_.get(), rings, sizeof rings, MSG_DONTWAIT);
    if (count == 0) return Heard::kGone;
    if (count < 0) return errno == EAGAIN || errno == EINTR ? heard : Heard::kGone;
    heard = Heard::kRung;
  }
  return heard;
}

Doorbell::Heard Doorbell::Wait(Duration patience) noexcept {
  pollfd wanted{fd_.get(), POLLIN, 0};
  const auto nanoseconds = std::max<std::int64_t>(0, patience.count());
  const timespec time{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
  if (::ppoll(&wanted, 1, &time, nullptr) <= 0) return Heard::kNothing;
  return Listen();
}

Task<Doorbell::Heard> Doorbell::Hear(Executor executor) {
  if (!watch_) {
    Result<std::shared_ptr<DescriptorWatch>> watch = DescriptorWatch::Open(executor, fd_.get());
    if (!watch) co_return Heard::kGone;
    watch_ = std::move(*watch);
  }
  while (true) {
    const Heard heard = Listen();
    if (heard != Heard::kNothing) co_return heard;
    const std::shared_ptr<DescriptorWatch> watch = watch_;
    if (!co_await watch->Readable()) co_return Heard::kGone;
  }
}

void Doorbell::Cut() noexcept { ::shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace mooncake
