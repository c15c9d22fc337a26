#include "base/real_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <climits>
#include <cstring>

#include "base/outside_order.h"
#include "base/spin.h"
#include "base/unique_fd.h"

namespace mooncake::real {

namespace asio = boost::asio;
using boost::system::error_code;

Error FromAsio(const error_code& code, std::string context) {
  if (code == asio::error::eof || code == asio::error::connection_reset ||
      code == asio::error::broken_pipe) {
    return Error{ErrorId::kConnectionClosed, std::move(context),
                 code == asio::error::eof ? 0 : code.value()};
  }
  if (code == asio::error::operation_aborted || code == asio::error::bad_descriptor) {
    return Error{ErrorId::kClosed, std::move(context), 0};
  }
  if (code == asio::error::connection_refused)
    return Error{ErrorId::kConnectRefused, std::move(context), code.value()};
  if (code == asio::error::timed_out)
    return Error{ErrorId::kConnectTimeout, std::move(context), code.value()};
  if (code == asio::error::no_descriptors || code.value() == ENFILE)
    return Error{ErrorId::kNoDescriptors, std::move(context), code.value()};
  return Error{ErrorId::kNetwork, std::move(context), code.value()};
}

Tcp::endpoint ToAsio(const Endpoint& endpoint) {
  const IpAddress& address = endpoint.address;
  if (address.is_v4()) {
    std::array<unsigned char, 4> bytes{};
    std::memcpy(bytes.data(), address.bytes.data() + 12, bytes.size());
    return {asio::ip::address_v4(bytes), endpoint.port};
  }
  return {asio::ip::address_v6(address.bytes, address.scope), endpoint.port};
}

Endpoint FromAsio(const Tcp::endpoint& endpoint) {
  if (endpoint.address().is_v4())
    return {IpAddress::V4(endpoint.address().to_v4().to_uint()), endpoint.port()};
  Endpoint result;
  const asio::ip::address_v6 v6 = endpoint.address().to_v6();
  result.address.bytes = v6.to_bytes();
  if (!result.address.is_v4()) result.address.scope = static_cast<std::uint32_t>(v6.scope_id());
  result.port = endpoint.port();
  return result;
}

namespace {

constexpr std::size_t kPartsMax = 160;  // of one system call

// Without waiting: what is there or fits, -1 with errno. Longer lists are for the next call.
ssize_t ReceiveNow(int fd, std::span<const MutableBytes> into) noexcept {
  std::array<iovec, kPartsMax> parts;
  const std::size_t count = std::min(into.size(), kPartsMax);
  for (std::size_t i = 0; i < count; ++i) parts[i] = {into[i].data(), into[i].size()};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  const ssize_t received = ::recvmsg(fd, &message, MSG_DONTWAIT);
  OrderAfterOutside();
  return received;
}
ssize_t SendNow(int fd, std::span<const Bytes> buffers) noexcept {
  std::array<iovec, kPartsMax> parts;
  const std::size_t count = std::min(buffers.size(), kPartsMax);
  for (std::size_t i = 0; i < count; ++i)
    parts[i] = {const_cast<std::byte*>(buffers[i].data()), buffers[i].size()};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  OrderBeforeOutside();
  return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

class RealThreadStream final : public ThreadStream {
 public:
  RealThreadStream(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}

  Status Write(std::span<const Bytes> buffers, Instant deadline) override {
    std::vector<Bytes>
        rest;  // a copy that may be changed, only where the kernel does not take all at once
    while (!buffers.empty()) {
      ssize_t sent = SendNow(fd_.get(), buffers);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno != EAGAIN) return Fail(Failure(errno));
      if (sent < 0) {
        MC_TRY_STATUS(Sleep(POLLOUT, deadline));
        continue;
      }
      while (!buffers.empty() && static_cast<std::size_t>(sent) >= buffers.front().size()) {
        sent -= static_cast<ssize_t>(buffers.front().size());
        buffers = buffers.subspan(1);
      }
      if (sent == 0) continue;
      if (rest.empty()) {
        rest.assign(buffers.begin(), buffers.end());
        buffers = rest;
      }
      Bytes& begun = rest[rest.size() - buffers.size()];
      begun = begun.subspan(static_cast<std::size_t>(sent));
    }
    return {};
  }

  Result<std::size_t> ReadSomeV(std::span<const MutableBytes> into, Instant deadline) override {
    ssize_t count = ReceiveNow(fd_.get(), into);
    if (count < 0 && errno == EAGAIN) {
      if (const Duration patience = habit_.Next(); patience > Duration::zero()) {
        const Instant end = std::min(deadline, std::chrono::steady_clock::now() + patience);
        do {
          YieldProcessor();
          count = ReceiveNow(fd_.get(), into);
        } while (count < 0 && errno == EAGAIN && std::chrono::steady_clock::now() < end);
        habit_.Learn(count >= 0 || errno != EAGAIN);
      }
    }
    while (count < 0) {
      if (errno != EAGAIN && errno != EINTR) return Fail(Failure(errno));
      if (errno == EAGAIN) MC_TRY_STATUS(Sleep(POLLIN, deadline));
      count = ReceiveNow(fd_.get(), into);
    }
    if (count == 0) return Fail(ErrorId::kConnectionClosed, name_);
    return static_cast<std::size_t>(count);
  }

  void Close() noexcept override { ::shutdown(fd_.get(), SHUT_RDWR); }

 private:
  Status Sleep(short events, Instant deadline) const {
    pollfd wanted{fd_.get(), events, 0};
    int milliseconds = -1;
    if (deadline != kNever) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now())
              .count();
      if (left <= 0) return Fail(ErrorId::kDeadline, name_);
      milliseconds = static_cast<int>(std::min<std::int64_t>(left, INT_MAX));
    }
    if (::poll(&wanted, 1, milliseconds) < 0 && errno != EINTR)
      return Fail(ErrorId::kNetwork, name_, errno);
    return {};
  }
  Error Failure(int cause) const {
    return FromAsio(error_code(cause, boost::system::system_category()), name_);
  }

  UniqueFd fd_;
  std::string name_;
  SpinHabit habit_;
};

// A connected socket of either kind (TCP or Unix).
template <class Protocol>
class RealStream final : public Stream {
 public:
  RealStream(typename Protocol::socket socket, Endpoint local, Endpoint remote)
      : socket_(std::move(socket)), local_(local), remote_(remote) {}

  Task<Result<std::size_t>> ReadSome(MutableBytes into) override {
    // As ReadSomeV(), without its room for many parts: this is where idle connections wait.
    if (ended_) co_return Fail(Failure(asio::error::eof));
    if (expects_more_) {
      const std::array<MutableBytes, 1> one = {into};
      auto look = Look(one);
      const std::size_t count = co_await std::move(look);
      if (count > 0) co_return count;
    }
    error_code code;
    const std::size_t count = co_await socket_.async_read_some(
        asio::buffer(into.data(), into.size()), asio::redirect_error(asio::use_awaitable, code));
    OrderAfterOutside();
    if (code) co_return Fail(Ended(code));
    co_return count;
  }

  Task<Result<std::size_t>> ReadSomeV(std::span<const MutableBytes> into) override {
    if (ended_) co_return Fail(Failure(asio::error::eof));
    if (expects_more_) {
      auto look = Look(into);
      const std::size_t count = co_await std::move(look);
      if (count > 0) co_return count;
    }
    const std::size_t parts = std::min(into.size(), kPartsMax);
    std::array<asio::mutable_buffer, kPartsMax> buffers;
    for (std::size_t i = 0; i < parts; ++i) buffers[i] = {into[i].data(), into[i].size()};
    error_code code;
    const std::size_t count = co_await socket_.async_read_some(
        std::span(buffers).first(parts), asio::redirect_error(asio::use_awaitable, code));
    OrderAfterOutside();
    if (code) co_return Fail(Ended(code));
    co_return count;
  }

  Task<Status> Write(std::span<const Bytes> buffers) override {
    // Mostly the kernel takes all at once.
    std::size_t written = TrySend(buffers);
    std::vector<asio::const_buffer> left;
    for (const Bytes& bytes : buffers) {
      const std::size_t skipped = std::min(written, bytes.size());
      written -= skipped;
      if (skipped < bytes.size()) left.emplace_back(bytes.data() + skipped, bytes.size() - skipped);
    }
    if (left.empty()) {
      auto turn = GiveTurn();
      co_await std::move(turn);
      co_return Status{};
    }
    error_code code;
    co_await asio::async_write(socket_, left, asio::redirect_error(asio::use_awaitable, code));
    if (code) co_return Fail(Failure(code));
    co_return Status{};
  }

  void Close() noexcept override {
    error_code ignored;
    socket_.shutdown(Protocol::socket::shutdown_both, ignored);
    socket_.close(ignored);
  }

  Status MoveTo(const Executor& executor) override {
    error_code code;
    const auto protocol = socket_.local_endpoint(code).protocol();
    if (code) return Fail(Failure(code));
    const int fd = socket_.release(code);
    if (code) return Fail(Failure(code));
    typename Protocol::socket moved(executor);
    moved.assign(protocol, fd, code);
    if (code) {
      ::close(fd);
      return Fail(Failure(code));
    }
    socket_ = std::move(moved);
    return {};
  }

  std::unique_ptr<ThreadStream> TakeForThreads() override {
    error_code code;
    UniqueFd fd(socket_.release(code));
    if (code) return nullptr;
    return std::make_unique<RealThreadStream>(
        std::move(fd), fmt::format("connection {} to {}", ToString(local_), ToString(remote_)));
  }
  void ExpectMore() noexcept override { expects_more_ = true; }

  Endpoint local() const override { return local_; }
  Endpoint remote() const override { return remote_; }

 private:
  static constexpr Duration kLookOnce =
      std::chrono::microseconds(2);  // at a stretch: others of the loop get their turn between
  static constexpr int kOperationsInRowMax = 8;

  // What is there, or comes within a while; 0: neither, or an error, which the kernel will repeat.
  Task<std::size_t> Look(std::span<const MutableBytes> into) {
    std::size_t count = TryReceive(into);
    if (count > 0) {
      auto turn = GiveTurn();
      co_await std::move(turn);
      co_return count;
    }
    const Duration patience = habit_.Next();
    if (patience == Duration::zero()) co_return 0;
    const Instant end = std::chrono::steady_clock::now() + patience;
    for (Instant now{}; count == 0 && now < end;) {
      co_await asio::post(socket_.get_executor(), asio::use_awaitable);
      const Instant pause = std::chrono::steady_clock::now() + kLookOnce;
      do {
        count = TryReceive(into);
        if (count == 0) YieldProcessor();
        now = std::chrono::steady_clock::now();
      } while (count == 0 && now < pause);
    }
    habit_.Learn(count > 0);
    co_return count;
  }

  // An operation that did not have to wait has not given way to others of the loop either: after
  // some in a row, that is due.
  Task<void> GiveTurn() {
    if (++in_row_ < kOperationsInRowMax) co_return;
    in_row_ = 0;
    co_await asio::post(socket_.get_executor(), asio::use_awaitable);
  }

  std::size_t TryReceive(std::span<const MutableBytes> into) noexcept {
    return socket_.is_open() ? std::max<ssize_t>(0, ReceiveNow(socket_.native_handle(), into)) : 0;
  }
  std::size_t TrySend(std::span<const Bytes> buffers) noexcept {
    return socket_.is_open() ? std::max<ssize_t>(0, SendNow(socket_.native_handle(), buffers)) : 0;
  }

  // The end of a connection is reported by the kernel once (Asio's readiness is edge-triggered):
  // another read would wait for ever.
  Error Ended(const error_code& code) {
    ended_ = ended_ || code == asio::error::eof;
    return Failure(code);
  }
  Error Failure(const error_code& code) const {
    if (remote_.port == 0) return FromAsio(code, "local connection");
    return FromAsio(code, fmt::format("connection {} to {}", ToString(local_), ToString(remote_)));
  }

  typename Protocol::socket socket_;
  Endpoint local_;
  Endpoint remote_;
  bool ended_ = false;
  bool expects_more_ = false;
  int in_row_ = 0;
  SpinHabit habit_;
};

// Without these the kernel keeps an idle connection for ever, and one with unanswered bytes for a
// quarter of an hour.
void EndWhenPathIsDead(Tcp::socket& socket) {
  constexpr int kIdleSeconds = 8;
  constexpr int kProbeSeconds = 4;
  constexpr int kProbes = 3;
  static_assert(std::chrono::seconds(kIdleSeconds + kProbes * kProbeSeconds) <= kDeadPathMax);
  constexpr int kUserTimeoutMs =
      std::chrono::duration_cast<std::chrono::milliseconds>(kDeadPathMax).count();
  const int fd = socket.native_handle();
  const auto set = [fd](int level, int name, int value) {
    static_cast<void>(
        ::setsockopt(fd, level, name, &value, sizeof value));  // refused: only slower to notice
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, kIdleSeconds);
  set(IPPROTO_TCP, TCP_KEEPINTVL, kProbeSeconds);
  set(IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
}

}  // namespace

std::unique_ptr<Stream> Wrap(Tcp::socket socket) {
  error_code ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  EndWhenPathIsDead(socket);
  const Tcp::endpoint local = socket.local_endpoint(ignored);
  const Tcp::endpoint remote = socket.remote_endpoint(ignored);
  return std::make_unique<RealStream<Tcp>>(std::move(socket), FromAsio(local), FromAsio(remote));
}
std::unique_ptr<Stream> Wrap(Local::socket socket) {
  return std::make_unique<RealStream<Local>>(std::move(socket), Endpoint{}, Endpoint{});
}

}  // namespace mooncake::real
