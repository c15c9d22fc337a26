// The engine: moves bytes between memory registered here and the segments of peers, over the best
// path there is, and over another one when that breaks.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/world.h"
#include "directory/directory.h"
#include "gpu/device_memory.h"
#include "memory/copy.h"
#include "memory/region_table.h"
#include "transport/transport.h"
#include "wire/port_server.h"

namespace mooncake {

/// One copy of a batch: `local` lies in memory registered with this engine, [offset, offset +
/// length_bytes) in the peer's region. A length of 0 is legal and does nothing.
using Copy = Slice;

struct EngineOptions {
  std::string cluster = "default";
  Duration connect_timeout = std::chrono::seconds(5);
  Duration unregister_timeout = std::chrono::seconds(5);
  RpcLimits rpc;  ///< Of the connections to peers that are opened here.
  Credentials credentials;
  /// Transports in use, by name; empty: all that were added.
  std::vector<std::string> transports;
};

/// One row of the path table of `mooncake status`.
struct PathRow {
  std::string peer_label;
  InstanceId peer;
  std::string transport;
  bool usable = false;
  std::string reason;       ///< Why it is not usable.
  std::string detail;       ///< What it consists of (Path::Describe()).
  std::uint64_t bytes = 0;  ///< Moved over it.
  std::uint64_t transfers = 0;
  std::uint64_t failures = 0;
  double gigabytes_per_second = 0;  ///< Of the transfers of at least 64 KiB, recent ones weighted.
  bool suspected = false;           ///< The peer has been silent.
};

struct Notification {
  InstanceId sender;
  std::string name;
  std::string message;
};

class Peer;
using PeerPtr = std::shared_ptr<Peer>;

/// A batch on its way. Any thread. Dropping the last reference does not cancel it.
class Batch {
 public:
  virtual ~Batch() = default;
  /// Blocks until the batch has ended; may do the copying on this thread. Its outcome: success
  /// means that every byte is in the destination's memory. kUnknownOutcome's kDeadline: some bytes
  /// may still arrive. After any outcome local memory is no longer touched.
  [[nodiscard]] virtual Status Wait() = 0;
  /// nullopt while it runs.
  [[nodiscard]] virtual std::optional<Status> Poll() = 0;
  /// On the control loop: as Wait().
  [[nodiscard]] virtual Task<Status> Done() = 0;
  /// Best effort: the batch still ends, with kCancelled if this came in time.
  virtual void Cancel() noexcept = 0;
  /// Called once with the outcome, on the control loop.
  virtual void OnDone(std::function<void(const Status&)> call) = 0;
  [[nodiscard]] virtual std::uint64_t total_bytes() const noexcept = 0;
  /// The transport that carried it; of the last piece, if several did. Empty until it has ended.
  [[nodiscard]] virtual std::string transport() const = 0;
};

struct BatchOptions {
  Instant deadline = kNever;
  /// Delivered to the peer after the bytes of this batch, exactly once, if the batch succeeds.
  std::optional<std::pair<std::string, std::string>> notify;
};

class Engine {
 public:
  /// `port` serves the connections of peers and must not have been started; `transports` in order
  /// of preference where they cost the same. Everything passed outlives the engine.
  Engine(World& world, Metrics& metrics, std::shared_ptr<PortServer> port, Directory& directory,
         Identity identity, EngineOptions options);
  ~Engine();  ///< Close().
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Whose GPUs memory may be registered of; without it there are none. Before AddTransport().
  void UseGpus(std::shared_ptr<DeviceMemory> gpus);
  /// Before Start().
  void AddTransport(std::unique_ptr<Transport> transport);
  /// Puts the engine's handlers on the port. On the control loop, before the port serves.
  void Start();
  /// Ends every batch with kClosed, closes paths and connections. Allocated memory stays until the
  /// engine is destroyed. Not from a loop. Idempotent.
  void Close();
  /// The same from the control loop, before the engine is destroyed there.
  [[nodiscard]] Task<void> CloseAsync();

  /// Shared with whoever serves peers' accesses to them.
  [[nodiscard]] const std::shared_ptr<RegionTable>& regions() const noexcept;
  [[nodiscard]] const std::shared_ptr<DeviceMemory>& gpus() const noexcept;
  /// What this engine says of itself at each hand-shake.
  [[nodiscard]] Introduction Introduce() const;
  [[nodiscard]] const Identity& identity() const noexcept;

  // ---- memory: any thread ----
  /// Memory of the host or of a GPU. Errors: as RegionTable::Register(), kBadRange (also where
  /// options.location contradicts), kGpuCall.
  [[nodiscard]] Result<RegionInfo> Register(void* base, std::uint64_t length_bytes,
                                            const RegisterOptions& options = {});
  /// Memory of the engine's own that peers of this host can map: transfers to it are single copies.
  /// Populated in the background.
  [[nodiscard]] Result<RegionInfo> Allocate(const std::string& name, std::uint64_t length_bytes,
                                            const RegisterOptions& options = {});
  /// Afterwards neither a peer nor a batch of this engine touches the memory: what is under way is
  /// waited for. Allocated memory is freed. Not from a loop. kRegionUnknown. kDeadline: the
  /// registration has ended, but the memory is still touched.
  [[nodiscard]] Status Unregister(RegionId id);
  /// The same from the control loop.
  [[nodiscard]] Task<Status> UnregisterAsync(RegionId id);
  /// Nothing that `peer` has sent so far lands in this process's memory after the return, unless it
  /// maps that memory: what is on its way is dropped, and its batches in flight are sent again. On
  /// the control loop.
  [[nodiscard]] Task<void> EndTransfersOf(InstanceId peer);

  // ---- peers ----
  /// By label or by id, over a connection that exists or a new one; one hand-shake per peer at a
  /// time. On the control loop. Errors: as Directory::Find, kConnectRefused, kConnectTimeout,
  /// kWrongPeer, kVersionMismatch.
  [[nodiscard]] Task<Result<PeerPtr>> Connect(std::string label, Instant deadline);
  [[nodiscard]] Task<Result<PeerPtr>> Connect(Record record, Instant deadline);
  /// Blocks. Not from a loop.
  [[nodiscard]] Result<PeerPtr> ConnectNow(const std::string& label, Instant deadline);

  // ---- moving bytes: any thread but the loops, unless said otherwise ----
  /// On the calling thread where the path allows. Outcome as Batch::Wait().
  [[nodiscard]] Status Run(const PeerPtr& peer, Direction direction, std::span<const Copy> copies,
                           const BatchOptions& options = {});
  /// Returns at once. `copies` is copied; the memory it names is left alone until the batch has
  /// ended. Any thread.
  [[nodiscard]] std::shared_ptr<Batch> Submit(const PeerPtr& peer, Direction direction,
                                              std::vector<Copy> copies, BatchOptions options = {});

  // ---- notifications ----
  /// On the control loop. Delivered exactly once, or an error.
  [[nodiscard]] Task<Status> Notify(PeerPtr peer, std::string name, std::string message,
                                    Instant deadline);
  /// Everything that arrived since the last call, at most 65,536 kept. Any thread.
  [[nodiscard]] std::vector<Notification> TakeNotifications();

  /// One row for each peer and transport. Any thread.
  [[nodiscard]] std::vector<PathRow> Paths() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

/// The transports that a program wants, given to an engine before it starts. Filled in plain sight
/// by the program.
using TransportFactory = std::function<void(World&, Metrics&, Engine&, const CopyEngine&)>;

/// A peer that this engine has met. Any thread, unless said otherwise.
class Peer {
 public:
  virtual ~Peer() = default;
  [[nodiscard]] virtual const Identity& identity() const = 0;
  [[nodiscard]] virtual bool is_connected() const = 0;
  /// Since when it has been silent, if suspiciously long.
  [[nodiscard]] virtual bool is_suspected() const = 0;
  /// A remote call to it, over the control connection, on the control loop; reconnects once where
  /// the connection had broken before the call was sent.
  [[nodiscard]] virtual Task<Result<Reply>> Call(Method method, std::string body, Instant deadline,
                                                 std::vector<std::byte> payload = {}) = 0;
  [[nodiscard]] virtual Task<Result<Reply>> CallStream(Method method, std::string body,
                                                       Instant deadline,
                                                       std::vector<std::byte> payload,
                                                       std::function<bool(Reply)> on_item) = 0;
  /// Tells the engine of a region that the peer does not list but has described to the application.
  virtual void AddRegion(const RegionInfo& region) = 0;
  /// The peer's listed regions as last fetched; Refresh() fetches them (on the control loop).
  [[nodiscard]] virtual std::vector<RegionInfo> ListedRegions() const = 0;
  [[nodiscard]] virtual Task<Status> Refresh(Instant deadline) = 0;
  /// Changes with every region that becomes known or ends.
  [[nodiscard]] virtual std::uint64_t regions_version() const noexcept = 0;
};

}  // namespace mooncake
