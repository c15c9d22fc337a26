// Internet addresses as values: parsed once at the border, printed with IPv6 brackets, never split
// at a colon.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mooncake {

/// An IPv4 or IPv6 address. IPv4 lives in the mapped range ::ffff:0:0/96, so that equal addresses
/// are equal.
struct IpAddress {
  std::array<std::uint8_t, 16> bytes{};  ///< Network order.
  std::uint32_t scope = 0;               ///< Interface index of a link-local IPv6 address, else 0.

  auto operator<=>(const IpAddress&) const = default;
  [[nodiscard]] bool is_v4() const noexcept;
  [[nodiscard]] bool is_loopback() const noexcept;
  [[nodiscard]] bool is_unspecified() const noexcept;  ///< 0.0.0.0 or ::
  [[nodiscard]] bool is_link_local() const noexcept;   ///< 169.254/16 or fe80::/10

  [[nodiscard]] static IpAddress V4(std::uint32_t host_order) noexcept;
  [[nodiscard]] static IpAddress LoopbackV4() noexcept { return V4(0x7F000001); }
  [[nodiscard]] static IpAddress AnyV6() noexcept { return {}; }
};

/// "192.168.0.137", "fd00::4", "fe80::1%2".
[[nodiscard]] std::string ToString(const IpAddress& address);
/// A literal address, without brackets or port. kBadAddress.
[[nodiscard]] Result<IpAddress> ParseIpAddress(std::string_view text);

struct Endpoint {
  IpAddress address;
  std::uint16_t port = 0;
  auto operator<=>(const Endpoint&) const = default;
};

/// "192.168.0.137:15624", "[fd00::4]:7700".
[[nodiscard]] std::string ToString(const Endpoint& endpoint);
/// A literal address with a port, "[v6]:port" or "v4:port". kBadAddress.
[[nodiscard]] Result<Endpoint> ParseEndpoint(std::string_view text);
/// The same, where to listen: port 0 is any free one.
[[nodiscard]] Result<Endpoint> ParseListenAddress(std::string_view text);

/// What a person wrote: a name or a literal address, and a port if there was one.
struct HostPort {
  std::string host;        ///< Without brackets.
  std::uint16_t port = 0;  ///< 0 if none was written.
};

/// Accepts "host", "host:port", "[v6]", "[v6]:port" and a bare IPv6 address. kBadAddress.
[[nodiscard]] Result<HostPort> ParseHostPort(std::string_view text);
/// "host:port", "[v6]:port": as URLs and headers need it.
[[nodiscard]] std::string ToString(const HostPort& address);

}  // namespace mooncake
