#include "base/real_network.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/ip/udp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/outside_order.h"
#include "base/real_stream.h"
#include "base/unique_fd.h"

namespace mooncake {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using real::FromAsio;
using real::Local;
using real::Tcp;
using real::ToAsio;
using real::Wrap;

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
  // A child that was forked meanwhile has the socket too: the shutdown ends it for both.
  void Close() noexcept override {
    error_code ignored;
    acceptor_.cancel(ignored);
    if (acceptor_.is_open()) ::shutdown(acceptor_.native_handle(), SHUT_RDWR);
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
  explicit RealNetwork(Clock& clock) : clock_(clock), host_(ReadHostIdentity()) {}

  Result<std::unique_ptr<Listener>> Listen(const Executor& executor, const Endpoint& at) override {
    const Tcp::endpoint endpoint = ToAsio(at);
    Tcp::acceptor acceptor(executor);
    error_code code;
    acceptor.open(endpoint.protocol(), code);
    if (code == asio::error::address_family_not_supported && at.address == IpAddress::AnyV6())
      return Listen(executor, {IpAddress::V4(0), at.port});  // a host without IPv6
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
    const std::unique_ptr<Timer> timer = clock_.MakeTimer(executor);
    timer->At(deadline, [&resolver] { resolver.cancel(); });
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

  Result<IpAddress> SourceAddressTo(const IpAddress& to, const std::string& interface) override {
    constexpr std::uint16_t kAnyPort = 9;  // connecting a datagram socket only looks up the route
    const asio::ip::udp::endpoint there(ToAsio(Endpoint{to, kAnyPort}).address(), kAnyPort);
    const int family = there.protocol().family();
    const UniqueFd fd(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd) return Fail(ErrorId::kNetwork, "socket", errno);
    const auto context = [&] { return fmt::format("{} through {}", ToString(to), interface); };
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(),
                     static_cast<socklen_t>(interface.size())) != 0)
      return Fail(ErrorId::kNetwork, context(), errno);
    if (::connect(fd.get(), there.data(), static_cast<socklen_t>(there.size())) != 0)
      return Fail(ErrorId::kNetwork, context(), errno);
    asio::ip::udp::endpoint here;
    auto length = static_cast<socklen_t>(here.capacity());
    if (::getsockname(fd.get(), here.data(), &length) != 0)
      return Fail(ErrorId::kNetwork, context(), errno);
    here.resize(length);
    return FromAsio(Tcp::endpoint(here.address(), 0)).address;
  }

  const HostIdentity& host() const override { return host_; }

 private:
  template <class Protocol>
  Task<Result<std::unique_ptr<Stream>>> Dial(typename Protocol::socket socket,
                                             typename Protocol::endpoint endpoint, Instant deadline,
                                             std::string name) {
    const Executor executor = socket.get_executor();
    const std::unique_ptr<Timer> timer = clock_.MakeTimer(executor);
    bool late = false;
    timer->At(deadline, [&socket, &late] {
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

  Clock& clock_;
  HostIdentity host_;
};

}  // namespace

std::unique_ptr<Network> MakeRealNetwork(Clock& clock) {
  return std::make_unique<RealNetwork>(clock);
}

}  // namespace mooncake
