// The interface of every way to move bytes. A transport opens paths; a path moves the slices of a
// batch between this process and one peer. The engine picks the path; nothing about one transport
// is known outside its folder.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/world.h"
#include "memory/region_table.h"

namespace mooncake {

enum class Direction : std::uint8_t {
  kWrite,
  kRead
};  ///< As the caller sees it: kWrite goes to the peer.

/// One contiguous range to copy. `local` lies in this process, [offset, offset + length) in the
/// peer's region.
struct Slice {
  std::byte* local = nullptr;
  RegionId region{};
  std::uint64_t offset = 0;
  std::uint64_t length_bytes = 0;
};
static_assert(sizeof(Slice) == 32,
              "two to a cache line: batches of tiny ranges are bound by reading them");

/// What this side knows of the peer's regions. Any thread.
class PeerRegions {
 public:
  virtual ~PeerRegions() = default;
  /// Null if unknown. The pointer stays valid as long as this object.
  [[nodiscard]] virtual const RegionInfo* Find(RegionId id) const = 0;
  /// Whether any region that was ever told of is a GPU's. A load.
  [[nodiscard]] virtual bool has_gpu_regions() const noexcept = 0;
};

/// A group of slices of one direction on its way. Owned by whoever runs it until the end.
struct Transfer {
  Direction direction = Direction::kWrite;
  std::span<const Slice> slices;
  std::uint64_t total_bytes = 0;
  std::uint32_t region_count =
      1;  ///< Runs of slices of the same region: 1 means that all are of one.
  const RegionInfo* region =
      nullptr;          ///< That one, where it has been looked up already (PeerRegions::Find()).
  bool on_gpu = false;  ///< Some of its memory, here or there, is a GPU's: the processor stays off.
  Instant deadline = kNever;
  const std::atomic<bool>* cancelled =
      nullptr;  ///< Looked at between pieces of at most 2 MiB. May be null.
};

/// What a transfer touches: each region once.
struct TransferNeeds {
  Direction direction = Direction::kWrite;
  std::vector<RegionId> local;   ///< Of this process.
  std::vector<RegionId> remote;  ///< Of the peer.
};

/// The peer as a transport sees it when it opens a path.
struct PeerInfo {
  InstanceId id;
  std::string label;
  HostIdentity host;
  Endpoint endpoint;  ///< Where this peer answered, proven by the control connection.
  /// What the peer's transport of the same name said of itself (Transport::Advertise()); a peer's
  /// bytes, so: data.
  std::string advertisement;
  std::shared_ptr<const PeerRegions> regions;
};

/// A transport between two given ends. Opened once per peer and transport, used by many threads.
///
/// Done means: when Run() or `done` reports success, every byte is in the destination's memory.
/// After either has reported anything, no byte of local memory is touched any more.
class Path {
 public:
  virtual ~Path() = default;

  /// What the transfer is expected to take, or nothing if this path cannot carry it (a region that
  /// is not mappable, or a GPU's where the processor copies). Cheap: asked for every batch.
  [[nodiscard]] virtual std::optional<Duration> Estimate(const Transfer& transfer) const = 0;
  /// Whether Run() would find everything in place; false: co_await Prepare() first. Any thread.
  [[nodiscard]] virtual bool IsPrepared(const Transfer& transfer) const = 0;
  /// Fetches what Run() needs for these regions (maps them, say). On the control loop.
  /// kPathUnusable where Estimate() says from now on that the path cannot carry them.
  [[nodiscard]] virtual Task<Status> Prepare(TransferNeeds needs, Instant deadline) = 0;

  /// Whether Run() is the only way, which does the work on the calling thread. Otherwise there is
  /// Start().
  [[nodiscard]] virtual bool is_synchronous() const noexcept = 0;
  /// Whether Run() is a good way now. May be wrong a moment later: Run() works then too, but may
  /// wait for its turn.
  [[nodiscard]] virtual bool MayRun(const Transfer&) const noexcept { return is_synchronous(); }
  /// Moves all slices, on the calling thread. Errors: kPathFailed, kPeerGone (the path is dead; the
  /// outcome of each slice is unknown), kDeadline, kCancelled, kBadRegionKey, kOutOfRegion,
  /// kRegionUnknown.
  [[nodiscard]] virtual Status Run(const Transfer& transfer) = 0;
  /// Run(), if that is a good way now (MayRun()) and IsPrepared(); else nullopt, and nothing was
  /// done.
  [[nodiscard]] virtual std::optional<Status> TryRun(const Transfer& transfer) {
    if (!MayRun(transfer) || !IsPrepared(transfer)) return std::nullopt;
    return Run(transfer);
  }
  /// Begins to move all slices; `transfer` and its slices stay until `done` is called, once, on the
  /// data loop. Errors as Run(). Called on the data loop.
  virtual void Start(const Transfer& transfer, std::function<void(Status)> done) = 0;
  /// A transfer that was started has been cancelled: it ends now, not when its next piece would
  /// move. On the data loop.
  virtual void EndCancelled() {}

  /// Gives the peer a short message, which its Transport::OnMessage() takes. False: it is too long
  /// for this path, or there is no room now; `answered` is not called. Else that is called once, on
  /// any thread, and must not call back: whether the peer has taken it, or false where nobody
  /// knows. Any thread.
  [[nodiscard]] virtual bool Send(std::string_view /*message*/,
                                  std::function<void(bool taken)> /*answered*/) {
    return false;
  }

  /// The peer has unregistered the region: when this returns, no copy touches it any more. Any
  /// thread but the loops'.
  virtual void Forget(RegionId region) = 0;
  /// What it consists of and what is missing, for a person ("rail mlx5_0; without mlx5_1: the port
  /// is down"). Empty: nothing but itself. Any thread.
  [[nodiscard]] virtual std::string Describe() const { return {}; }
  /// Ends everything in flight with kPathFailed. Idempotent; any thread.
  virtual void Close() noexcept = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  /// What the peers' transport of this name must know to reach this process; sent in the
  /// hand-shake.
  [[nodiscard]] virtual std::string Advertise() const = 0;
  /// Proves that the way works (a nonce goes through it) and returns it. On the control loop.
  /// kPathUnusable says why not with this peer; that is an answer, not a failure. kClosed after
  /// Close(), also when that comes while it waits; by then nothing but the transport itself need be
  /// left.
  [[nodiscard]] virtual Task<Result<std::shared_ptr<Path>>> Open(
      std::shared_ptr<const PeerInfo> peer, Instant deadline) = 0;
  /// Serves a connection on which a peer asked for this transport. On the data loop. Transports
  /// that use no connection of the common port close it.
  virtual void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) = 0;
  /// Whether bytes that were sent over a path may still land at the peer after the path was closed.
  [[nodiscard]] virtual bool lands_late() const noexcept = 0;
  /// The peer has lost its path to this process and will try again: when this returns, nothing that
  /// it sent over the old one lands any more. On the data loop. Asked for only where bytes land
  /// late.
  virtual void EndTransfersOf(const InstanceId& peer) = 0;
  /// A region of this process that peers and batches may use from now on. Its memory stays until
  /// Withdraw() has returned, or Close(). Any thread.
  virtual void Offer(const RegionInfo&) {}
  /// The region has left the table and nobody copies for it any more: when this returns, no device
  /// reads or writes its memory either. On the control loop.
  [[nodiscard]] virtual Task<void> Withdraw(RegionId) { co_return; }
  /// What is called, on the control loop, when paths that could not be opened may have become
  /// possible: to this peer, or to all. Before the first Open().
  virtual void OnChance(std::function<void(std::optional<InstanceId>)>) {}
  /// What is called with each message that a peer sends (Path::Send()), on the data loop; tells
  /// whether it is taken. A message may come again. Before the first Serve().
  virtual void OnMessage(std::function<bool(const InstanceId& from, const std::string&)>) {}
  /// Stops serving and ends all paths. Afterwards no thread of this transport touches registered
  /// memory.
  virtual void Close() noexcept = 0;
};

}  // namespace mooncake
