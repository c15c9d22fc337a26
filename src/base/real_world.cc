#include "base/real_world.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/log.h"
#include "base/outside_order.h"
#include "base/spin.h"
#include "base/unique_fd.h"
#include "base/worker.h"

namespace mooncake {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Tcp = asio::ip::tcp;
using Local = asio::local::stream_protocol;

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

class RealTimer final : public Timer {
 public:
  explicit RealTimer(const Executor& executor) : timer_(executor) {}
  ~RealTimer() override { *generation_ += 1; }

  void At(Instant when, std::function<void()> call) override {
    const std::uint64_t mine = *generation_ += 1;
    timer_.expires_at(when);
    timer_.async_wait(
        [mine, generation = generation_, call = std::move(call)](const error_code& code) {
          if (!code && *generation == mine) call();
        });
  }
  void Cancel() override {
    *generation_ += 1;
    timer_.cancel();
  }

 private:
  asio::steady_timer timer_;
  // Shared with the handler: an expired timer's handler may already be queued when the timer dies.
  std::shared_ptr<std::uint64_t> generation_ = std::make_shared<std::uint64_t>(0);
};

class RealClock final : public Clock {
 public:
  Instant Now() override { return std::chrono::steady_clock::now(); }
  WallTime WallNow() override { return std::chrono::system_clock::now(); }
  std::unique_ptr<Timer> MakeTimer(const Executor& executor) override {
    return std::make_unique<RealTimer>(executor);
  }
};

class RealRandom final : public Random {
 public:
  std::uint64_t Next() override {
    std::uint64_t bits = 0;
    if (::getrandom(&bits, sizeof bits, 0) != sizeof bits)
      AssertionFailed("getrandom", __FILE__, __LINE__);
    return bits;
  }
};

class RealFiles final : public Files {
 public:
  Result<std::string> Read(const std::string& path, std::uint64_t bytes_max) override {
    std::ifstream file(path, std::ios::binary);
    if (!file) return Fail(ErrorId::kFileAccess, "cannot open " + path, errno);
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored))
      return Fail(ErrorId::kFileAccess, path + " is a directory");
    std::string content;
    std::array<char, 65536> block{};
    while (file.read(block.data(), block.size()) || file.gcount() > 0) {
      content.append(block.data(), static_cast<std::size_t>(file.gcount()));
      if (content.size() > bytes_max) {
        return Fail(ErrorId::kFileAccess,
                    fmt::format("{} is larger than {} bytes", path, bytes_max));
      }
    }
    return content;
  }
  Status Write(const std::string& path, std::string_view content) override {
    const std::string beside = fmt::format("{}.{}.tmp", path, ::getpid());
    {
      std::ofstream file(beside, std::ios::binary | std::ios::trunc);
      file.write(content.data(), static_cast<std::streamsize>(content.size()));
      file.flush();
      if (!file) {
        const int cause = errno;
        ::unlink(beside.c_str());
        return Fail(ErrorId::kFileAccess, "cannot write " + path, cause);
      }
    }
    if (::rename(beside.c_str(), path.c_str()) != 0) {
      const int cause = errno;
      ::unlink(beside.c_str());
      return Fail(ErrorId::kFileAccess, "cannot replace " + path, cause);
    }
    return {};
  }
};

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

template <class Protocol>
class RealListener final : public Listener {
 public:
  RealListener(typename Protocol::acceptor acceptor, Endpoint bound)
      : acceptor_(std::move(acceptor)), bound_(bound) {}

  Task<Result<std::unique_ptr<Stream>>> Accept() override {
    error_code code;
    typename Protocol::socket socket =
        co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, code));
    if (code) co_return Fail(FromAsio(code, fmt::format("accept at {}", ToString(bound_))));
    co_return Wrap(std::move(socket));
  }
  Endpoint bound() const override { return bound_; }
  void Close() noexcept override {
    error_code ignored;
    acceptor_.close(ignored);
  }

 private:
  typename Protocol::acceptor acceptor_;
  Endpoint bound_;
};

constexpr int kBacklog = 1024;

Error ListenFailure(const error_code& code, const Endpoint& at) {
  const std::string where = ToString(at);
  if (code == asio::error::address_in_use) {
    const std::string holder = FindPortHolder(at);
    return Error{ErrorId::kPortTaken, fmt::format("{} is held by {}", where,
                                                  holder.empty() ? "another process" : holder)};
  }
  if (code == boost::system::errc::address_not_available) {
    return Error{ErrorId::kAddressNotOurs, where, code.value()};
  }
  if (code == boost::system::errc::permission_denied) {
    return Error{ErrorId::kListenFailed,
                 fmt::format("{}: ports below 1024 need a right of their own", where),
                 code.value()};
  }
  return Error{ErrorId::kListenFailed, where, code.value()};
}

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

HostIdentity ReadHostIdentity() {
  HostIdentity host;
  host.boot_id = FirstLine("/proc/sys/kernel/random/boot_id");
  host.host_name = FirstLine("/proc/sys/kernel/hostname");
  host.process = ::getpid();
  host.user = ::getuid();
  std::error_code ignored;
  host.process_namespace = std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string();
  return host;
}

Local::endpoint AbstractName(const std::string& name) {
  return Local::endpoint(std::string(1, '\0') + name);
}

class RealNetwork final : public Network {
 public:
  RealNetwork() : host_(ReadHostIdentity()) {}

  Result<std::unique_ptr<Listener>> Listen(const Executor& executor, const Endpoint& at) override {
    const Tcp::endpoint endpoint = ToAsio(at);
    Tcp::acceptor acceptor(executor);
    error_code code;
    acceptor.open(endpoint.protocol(), code);
    if (code) return Fail(ListenFailure(code, at));
    // Only so that a port whose old connections linger can be bound again; two listeners still
    // exclude each other.
    acceptor.set_option(Tcp::acceptor::reuse_address(true), code);
    if (endpoint.protocol() == Tcp::v6()) {
      acceptor.set_option(asio::ip::v6_only(!at.address.is_unspecified()), code);
    }
    acceptor.bind(endpoint, code);
    if (!code) acceptor.listen(kBacklog, code);
    if (code) return Fail(ListenFailure(code, at));
    const Tcp::endpoint bound = acceptor.local_endpoint(code);
    return std::make_unique<RealListener<Tcp>>(std::move(acceptor), FromAsio(bound));
  }

  Result<std::unique_ptr<Listener>> ListenLocal(const Executor& executor,
                                                const std::string& name) override {
    Local::acceptor acceptor(executor);
    error_code code;
    acceptor.open(Local(), code);
    if (!code) acceptor.bind(AbstractName(name), code);
    if (!code) acceptor.listen(kBacklog, code);
    if (code == asio::error::address_in_use) return Fail(ErrorId::kPortTaken, "local name " + name);
    if (code) return Fail(ErrorId::kListenFailed, "local name " + name, code.value());
    return std::make_unique<RealListener<Local>>(std::move(acceptor), Endpoint{});
  }

  Task<Result<std::unique_ptr<Stream>>> Connect(Executor executor, Endpoint to,
                                                Instant deadline) override {
    const Tcp::endpoint endpoint = ToAsio(to);
    Tcp::socket socket(executor);
    co_return co_await Dial<Tcp>(std::move(socket), endpoint, deadline, ToString(to));
  }

  Task<Result<std::unique_ptr<Stream>>> ConnectLocal(Executor executor, std::string name,
                                                     Instant deadline) override {
    const Local::endpoint endpoint = AbstractName(name);
    Local::socket socket(executor);
    co_return co_await Dial<Local>(std::move(socket), endpoint, deadline, "local name " + name);
  }

  Task<Result<std::vector<IpAddress>>> Resolve(Executor executor, std::string host,
                                               Instant deadline) override {
    if (const Result<IpAddress> literal = ParseIpAddress(host))
      co_return std::vector<IpAddress>{*literal};
    Tcp::resolver resolver(executor);
    RealTimer timer(executor);
    timer.At(deadline, [&resolver] { resolver.cancel(); });
    error_code code;
    const Tcp::resolver::results_type found =
        co_await resolver.async_resolve(host, "", asio::redirect_error(asio::use_awaitable, code));
    if (code)
      co_return Fail(ErrorId::kBadAddress,
                     fmt::format("the name \"{}\" cannot be resolved: {}", host, code.message()));
    std::vector<IpAddress> addresses;
    for (const auto& entry : found) addresses.push_back(FromAsio(entry.endpoint()).address);
    co_return addresses;
  }

  std::vector<IpAddress> LocalAddresses() override {
    std::vector<IpAddress> addresses;
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return addresses;
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
      if (entry->ifa_addr->sa_family == AF_INET) {
        sockaddr_in v4{};
        std::memcpy(&v4, entry->ifa_addr, sizeof v4);
        addresses.push_back(IpAddress::V4(ntohl(v4.sin_addr.s_addr)));
      } else if (entry->ifa_addr->sa_family == AF_INET6) {
        sockaddr_in6 v6{};
        std::memcpy(&v6, entry->ifa_addr, sizeof v6);
        IpAddress address;
        std::memcpy(address.bytes.data(), &v6.sin6_addr, address.bytes.size());
        address.scope = address.is_link_local() ? v6.sin6_scope_id : 0;
        addresses.push_back(address);
      }
    }
    ::freeifaddrs(list);
    const auto rank = [](const IpAddress& a) {
      return a.is_loopback() ? 2 : a.is_link_local() ? 1 : 0;
    };
    std::stable_sort(addresses.begin(), addresses.end(),
                     [&rank](const IpAddress& a, const IpAddress& b) { return rank(a) < rank(b); });
    return addresses;
  }

  const HostIdentity& host() const override { return host_; }

 private:
  template <class Protocol>
  static Task<Result<std::unique_ptr<Stream>>> Dial(typename Protocol::socket socket,
                                                    typename Protocol::endpoint endpoint,
                                                    Instant deadline, std::string name) {
    const Executor executor = socket.get_executor();
    RealTimer timer(executor);
    bool late = false;
    timer.At(deadline, [&socket, &late] {
      late = true;
      error_code ignored;
      socket.close(ignored);
    });
    error_code code;
    co_await socket.async_connect(endpoint, asio::redirect_error(asio::use_awaitable, code));
    if (late) co_return Fail(ErrorId::kConnectTimeout, name);
    if (code) co_return Fail(FromAsio(code, name));
    co_return Wrap(std::move(socket));
  }

  HostIdentity host_;
};

class RealThreads final : public Threads {
 public:
  std::unique_ptr<Worker> MakeWorker(WorkerUrgency urgency) override {
    return std::make_unique<ThreadWorker>(urgency);
  }
};

// A loop and its thread; the work guard keeps it waiting while there is nothing to do.
class LoopThread {
 public:
  LoopThread() : guard_(context_.get_executor()), thread_([this] { context_.run(); }) {}
  ~LoopThread() { Join(); }
  void Stop() { context_.stop(); }
  void Join() {
    Stop();
    if (thread_.joinable()) thread_.join();
  }
  /// After Join(): runs what is ready, on the calling thread, and tells whether there was anything.
  bool RunReady() {
    constexpr int kOnceMax = 1000;  // the other loop gets its turn
    context_.restart();
    int count = 0;
    while (count < kOnceMax && context_.poll_one() > 0) ++count;
    return count > 0;
  }
  asio::io_context& context() { return context_; }

 private:
  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::thread thread_;
};

// Of both loops at the end. One that is not quiet by then has a coroutine that never sleeps.
constexpr int kLastTurnsMax = 1000;

}  // namespace

struct RealWorld::Impl {
  bool stopped = false;
  RealClock clock;
  RealRandom random;
  RealNetwork network;
  RealFiles files;
  RealThreads threads;
  LoopThread control;
  LoopThread data;
  asio::signal_set signals{control.context()};
  World world{clock,
              random,
              network,
              files,
              threads,
              control.context().get_executor(),
              data.context().get_executor()};

  void WaitForSignal(std::function<void()> call) {
    signals.async_wait([this, call = std::move(call)](const error_code& code, int) {
      if (code) return;
      call();
      WaitForSignal(call);
    });
  }
};

RealWorld::RealWorld() : impl_(std::make_unique<Impl>()) {}
RealWorld::~RealWorld() { Stop(); }

World& RealWorld::world() noexcept { return impl_->world; }

void RealWorld::OnStopSignal(std::function<void()> call) {
  Post(impl_->world.control, [impl = impl_.get(), call = std::move(call)]() mutable {
    error_code ignored;
    impl->signals.add(SIGINT, ignored);
    impl->signals.add(SIGTERM, ignored);
    impl->WaitForSignal(std::move(call));
  });
}

void RealWorld::Stop() {
  impl_->data.Join();
  impl_->control.Join();
  if (std::exchange(impl_->stopped, true)) return;
  // What was asked of the loops before, above all to close: a coroutine that waits for another one
  // is freed by nobody else.
  for (int turns = kLastTurnsMax; turns > 0; --turns) {
    const bool data = impl_->data.RunReady();
    const bool control = impl_->control.RunReady();
    if (!data && !control) break;
  }
}

void YieldToEverybody() noexcept {
  // Not SCHED_IDLE: on a busy machine that may mean seconds without a look at whether to stop.
  constexpr int kNicest = 19;
  static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNicest));
}

Duration ProcessCpuTime() noexcept {
  timespec spent{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
}

std::string ReadEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

}  // namespace mooncake
