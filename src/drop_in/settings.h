// The public project's environment variables, and how its calls name a directory.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/world.h"

namespace mooncake::drop_in {

/// What the environment asks for. docs/drop-in.md lists every variable, those without effect too.
struct Settings {
  bool force_tcp = false;            ///< MC_FORCE_TCP, any value.
  bool force_hca = false;            ///< MC_FORCE_HCA, any value.
  bool discover_devices = true;      ///< MC_MS_AUTO_DISC; false: 0.
  std::string device_filter;         ///< MC_MS_FILTERS: for calls that name no device.
  Duration transfer_timeout{};       ///< MC_TRANSFER_TIMEOUT.
  std::string bind_address;          ///< MC_TCP_BIND_ADDRESS; empty: all of the host's.
  bool legacy_port_binding = false;  ///< MC_LEGACY_RPC_PORT_BINDING, any value.
  std::string redis_password;        ///< MC_REDIS_PASSWORD.
  std::string log_level;             ///< MC_LOG_LEVEL in our words; empty: left as it is.
};

/// `read` returns the value of a variable, empty if unset. Values that cannot be used are as if
/// unset.
[[nodiscard]] Settings ReadSettings(const std::function<std::string(const char*)>& read);

/// `metadata_server` as OpenDirectory() takes it; a scheme is put before it only where it has none.
[[nodiscard]] std::string DirectoryAddress(std::string_view metadata_server,
                                           std::string_view metadata_type);

}  // namespace mooncake::drop_in
