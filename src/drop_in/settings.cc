#include "drop_in/settings.h"

#include <algorithm>
#include <charconv>

namespace mooncake::drop_in {
namespace {

constexpr std::uint64_t kTimeoutDefaultSeconds = 30;
constexpr std::uint64_t kTimeoutMinSeconds = 5;
constexpr std::uint64_t kTimeoutMaxSeconds = 24 * 3600;

Duration TimeoutFrom(const std::string& text) {
  std::uint64_t seconds = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (text.empty() || failure != std::errc() || end != text.data() + text.size())
    seconds = kTimeoutDefaultSeconds;
  return std::chrono::seconds(std::clamp(seconds, kTimeoutMinSeconds, kTimeoutMaxSeconds));
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : static_cast<char>(c);
  });
  return lower;
}

std::string LogLevelFrom(const std::string& text) {
  const std::string level = Lower(text);
  if (level == "trace" || level == "debug") return "debug";
  if (level == "warning" || level == "warn") return "warn";
  if (level == "info" || level == "error") return level;
  return {};
}

}  // namespace

Settings ReadSettings(const std::function<std::string(const char*)>& read) {
  Settings settings;
  settings.force_tcp = !read("MC_FORCE_TCP").empty();
  settings.force_hca = !read("MC_FORCE_HCA").empty();
  settings.discover_devices = read("MC_MS_AUTO_DISC") != "0";
  settings.device_filter = read("MC_MS_FILTERS");
  settings.transfer_timeout = TimeoutFrom(read("MC_TRANSFER_TIMEOUT"));
  settings.bind_address = read("MC_TCP_BIND_ADDRESS");
  settings.legacy_port_binding = !read("MC_LEGACY_RPC_PORT_BINDING").empty();
  settings.redis_password = read("MC_REDIS_PASSWORD");
  settings.log_level = LogLevelFrom(read("MC_LOG_LEVEL"));
  return settings;
}

std::string DirectoryAddress(std::string_view metadata_server, std::string_view metadata_type) {
  std::string address(metadata_server);
  const std::string type = Lower(metadata_type);
  if (type == "p2phandshake" || address == "P2PHANDSHAKE") return "P2PHANDSHAKE";
  const bool has_scheme = address.find("://") != std::string::npos;
  if (has_scheme || type.empty() || address.empty()) return address;
  address = type + "://" + address;
  const bool has_path = address.find('/', type.size() + 3) != std::string::npos;
  return type == "http" && !has_path ? address + "/metadata" : address;
}

}  // namespace mooncake::drop_in
