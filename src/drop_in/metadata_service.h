// The HTTP metadata service of the public project: a port that clients name as
// http://host:port/metadata.
#pragma once

#include <memory>
#include <string_view>

#include "base/metrics.h"
#include "base/real_world.h"
#include "wire/port_server.h"

namespace mooncake::drop_in {

/// Serves as long as it lives, with loops of its own. docs/wire.md has the protocol.
class MetadataService {
 public:
  /// `host`: an address of this host, or "localhost"; "0.0.0.0" and "::" are all of them. `port` 0
  /// is any free one. Errors as Network::Listen; kBadAddress.
  [[nodiscard]] static Result<std::unique_ptr<MetadataService>> Open(std::string_view host,
                                                                     std::uint16_t port);
  ~MetadataService();
  MetadataService(const MetadataService&) = delete;
  MetadataService& operator=(const MetadataService&) = delete;

  [[nodiscard]] const Endpoint& bound() const noexcept { return bound_; }
  /// Calls `call` when the process gets SIGINT or SIGTERM.
  void OnStopSignal(std::function<void()> call) { real_->OnStopSignal(std::move(call)); }

 private:
  MetadataService();

  std::unique_ptr<RealWorld> real_;
  Metrics metrics_;
  std::shared_ptr<PortServer> port_;
  Endpoint bound_;
};

}  // namespace mooncake::drop_in
