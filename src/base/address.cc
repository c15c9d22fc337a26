#include "base/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <cstring>

namespace mooncake {
namespace {

constexpr std::array<std::uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

Result<std::uint16_t> ParsePort(std::string_view text, std::string_view whole) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) {
    return Fail(ErrorId::kBadAddress,
                fmt::format("\"{}\": \"{}\" is not a port from 0 to 65535", whole, text));
  }
  return port;
}

}  // namespace

bool IpAddress::is_v4() const noexcept {
  return std::memcmp(bytes.data(), kMappedPrefix.data(), kMappedPrefix.size()) == 0;
}

bool IpAddress::is_loopback() const noexcept {
  if (is_v4()) return bytes[12] == 127;
  IpAddress one{};
  one.bytes[15] = 1;
  return bytes == one.bytes;
}

bool IpAddress::is_unspecified() const noexcept {
  return bytes == IpAddress{}.bytes || bytes == V4(0).bytes;
}

bool IpAddress::is_link_local() const noexcept {
  if (is_v4()) return bytes[12] == 169 && bytes[13] == 254;
  return bytes[0] == 0xFE && (bytes[1] & 0xC0) == 0x80;
}

IpAddress IpAddress::V4(std::uint32_t host_order) noexcept {
  IpAddress address;
  std::memcpy(address.bytes.data(), kMappedPrefix.data(), kMappedPrefix.size());
  for (int i = 0; i < 4; ++i) {
    address.bytes[static_cast<std::size_t>(12 + i)] =
        static_cast<std::uint8_t>(host_order >> (24 - 8 * i));
  }
  return address;
}

std::string ToString(const IpAddress& address) {
  char buffer[INET6_ADDRSTRLEN];
  if (address.is_v4()) return inet_ntop(AF_INET, address.bytes.data() + 12, buffer, sizeof buffer);
  std::string text = inet_ntop(AF_INET6, address.bytes.data(), buffer, sizeof buffer);
  if (address.scope != 0) text += fmt::format("%{}", address.scope);
  return text;
}

Result<IpAddress> ParseIpAddress(std::string_view text) {
  IpAddress address;
  std::string literal(text);
  in_addr v4{};
  if (inet_pton(AF_INET, literal.c_str(), &v4) == 1) return IpAddress::V4(ntohl(v4.s_addr));
  if (const std::size_t percent = literal.find('%'); percent != std::string::npos) {
    const std::string zone = literal.substr(percent + 1);
    const auto [end, error] =
        std::from_chars(zone.data(), zone.data() + zone.size(), address.scope);
    if (zone.empty() || error != std::errc{} || end != zone.data() + zone.size()) {
      return Fail(ErrorId::kBadAddress,
                  fmt::format("\"{}\": write the interface's number after %", text));
    }
    literal.resize(percent);
  }
  if (inet_pton(AF_INET6, literal.c_str(), address.bytes.data()) != 1) {
    return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" is not an IPv4 or IPv6 address", text));
  }
  return address;
}

std::string ToString(const Endpoint& endpoint) {
  if (endpoint.address.is_v4())
    return fmt::format("{}:{}", ToString(endpoint.address), endpoint.port);
  return fmt::format("[{}]:{}", ToString(endpoint.address), endpoint.port);
}

std::string ToString(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", address.host, v6 ? "]" : "", address.port);
}

Result<Endpoint> ParseEndpoint(std::string_view text) {
  MC_TRY(const Endpoint endpoint, ParseListenAddress(text));
  if (endpoint.port == 0)
    return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" has no port", text));
  return endpoint;
}

Result<Endpoint> ParseListenAddress(std::string_view text) {
  MC_TRY(const HostPort parts, ParseHostPort(text));
  MC_TRY(const IpAddress address, ParseIpAddress(parts.host));
  if (parts.port == 0 && !text.ends_with(":0"))
    return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" has no port", text));
  return Endpoint{address, parts.port};
}

Result<HostPort> ParseHostPort(std::string_view text) {
  if (text.empty()) return Fail(ErrorId::kBadAddress, "it is empty");
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '/') {
      return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" holds a space or a slash", text));
    }
  }
  HostPort parts;
  if (text.front() == '[') {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) {
      return Fail(ErrorId::kBadAddress, fmt::format("\"{}\": the bracket is never closed", text));
    }
    parts.host = text.substr(1, close - 1);
    const std::string_view rest = text.substr(close + 1);
    if (!rest.empty()) {
      if (rest.front() != ':')
        return Fail(ErrorId::kBadAddress, fmt::format("\"{}\": a port follows after \"]:\"", text));
      MC_TRY(parts.port, ParsePort(rest.substr(1), text));
    }
    MC_TRY([[maybe_unused]] const IpAddress address, ParseIpAddress(parts.host));
    return parts;
  }
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    parts.host = text;
    return parts;
  }
  if (text.find(':', colon + 1) !=
      std::string_view::npos) {  // two colons: a bare IPv6 address or nothing
    if (!ParseIpAddress(text)) {
      return Fail(
          ErrorId::kBadAddress,
          fmt::format("\"{}\": an IPv6 address with a port needs brackets, [address]:port", text));
    }
    parts.host = text;
    return parts;
  }
  parts.host = text.substr(0, colon);
  if (parts.host.empty())
    return Fail(ErrorId::kBadAddress, fmt::format("\"{}\" has no host", text));
  MC_TRY(parts.port, ParsePort(text.substr(colon + 1), text));
  return parts;
}

}  // namespace mooncake
