// What Initialize() brings to life: loops, a port, a directory and an engine, and what it knows of
// the segments that it was asked for.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/metrics.h"
#include "base/real_world.h"
#include "drop_in/address_index.h"
#include "drop_in/managed_memory.h"
#include "drop_in/settings.h"
#include "drop_in/transfer_engine.h"
#include "engine/engine.h"
#include "memory/copy.h"

namespace mooncake::drop_in {

/// A segment of a peer: the connection to it, and where its memory lies.
struct Segment {
  PeerPtr peer;
  std::shared_ptr<const AddressIndex> addresses;
  std::uint64_t version = 0;  ///< Peer::regions_version() that `addresses` shows, or a newer one.
};

/// Any thread, once open.
class RunningEngine {
 public:
  /// Errors: as Network::Listen, OpenDirectory and Directory::Publish; kBadAddress.
  [[nodiscard]] static Result<std::unique_ptr<RunningEngine>> Open(std::string_view local_hostname,
                                                                   std::string_view metadata_server,
                                                                   std::string_view metadata_type,
                                                                   std::string_view protocol,
                                                                   std::string_view devices);
  ~RunningEngine();

  [[nodiscard]] Engine& engine() noexcept { return *engine_; }
  [[nodiscard]] ManagedMemory& managed() noexcept { return managed_; }
  [[nodiscard]] const CopyEngine& copy() const noexcept { return copy_; }
  [[nodiscard]] std::uint16_t port() const noexcept { return bound_.port; }
  [[nodiscard]] const std::string& address() const noexcept { return address_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] bool IsSelf(std::string_view segment) const noexcept {
    return segment == name_ || segment == address_;
  }
  [[nodiscard]] Instant Deadline() const {
    return After(world().clock.Now(), settings_.transfer_timeout);
  }
  [[nodiscard]] Instant ProbeDeadline() const;

  /// The segment as it is known, over a connection that exists or a new one. Errors as
  /// Engine::Connect() and Peer::Refresh().
  [[nodiscard]] Result<Segment> Find(const std::string& name, Instant deadline);
  /// The same without waiting; nullopt: there is no connection yet.
  [[nodiscard]] std::optional<Segment> Known(const std::string& name);
  /// With the peer's regions as they are now. Fails also where the peer does not answer.
  [[nodiscard]] Result<Segment> Refresh(const std::string& name, Instant deadline);
  /// What is known of it is of no use any more: its process is gone.
  void Forget(const std::string& name, const PeerPtr& peer);
  [[nodiscard]] Status Notify(const PeerPtr& peer, const TransferNotify& notify, Instant deadline);

 private:
  RunningEngine();
  [[nodiscard]] Status Start(std::string_view local_hostname, const std::string& directory,
                             std::string_view protocol, std::string_view devices);
  [[nodiscard]] Result<Endpoint> PlaceToListen(const HostPort& wanted, bool p2p);
  [[nodiscard]] Result<Segment> Meet(const std::string& name, Instant deadline);
  Segment Remember(const std::string& name, PeerPtr peer);
  [[nodiscard]] World& world() const noexcept { return real_->world(); }

  const Settings settings_;
  std::unique_ptr<RealWorld> real_;
  CopyEngine copy_;
  Metrics metrics_;
  std::unique_ptr<Directory> directory_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
  ManagedMemory managed_;
  Endpoint bound_;
  std::string address_;
  std::string name_;
  bool published_ = false;
  std::shared_mutex segments_mutex_;
  std::map<std::string, Segment> segments_;  // guarded by segments_mutex_
  // Held by the thread that connects: a segment that many want is met once, and one that does not
  // answer holds up nobody else's.
  std::map<std::string, std::shared_ptr<std::mutex>> meetings_;  // guarded by segments_mutex_
};

}  // namespace mooncake::drop_in
