// What the engine knows of one peer: its connection, its regions, and a path for each transport, or
// why there is none.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/spin.h"
#include "engine/engine.h"

namespace mooncake {

/// The regions of a peer, as far as this process has been told. Any thread.
class KnownRegions final : public PeerRegions {
 public:
  [[nodiscard, gnu::always_inline]] const RegionInfo* Find(RegionId id) const override {
    const Known* const last = last_.load(std::memory_order_acquire);
    return last && last->info.id == id ? &last->info : LookUp(id);
  }
  [[nodiscard]] bool has_gpu_regions() const noexcept override {
    return has_gpu_regions_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool KnowsAll(std::span<const Slice> slices) const;
  /// Whether any of the slices is in memory of a GPU.
  [[nodiscard]] bool AnyOnGpu(std::span<const Slice> slices) const {
    return has_gpu_regions() && FindOnGpu(slices);
  }
  void Add(const RegionInfo& region, bool listed);
  void Remove(RegionId id);
  [[nodiscard]] std::vector<RegionInfo> Listed() const;
  /// Changes after each Add() and Remove() that changed something.
  [[nodiscard]] std::uint64_t version() const noexcept {
    return version_.load(std::memory_order_acquire);
  }

 private:
  struct Known {
    RegionInfo info;
    bool listed;
  };
  [[nodiscard]] const RegionInfo* LookUp(RegionId id) const;
  [[nodiscard]] bool FindOnGpu(std::span<const Slice> slices) const;
  mutable std::shared_mutex mutex_;
  std::unordered_map<RegionId, const Known*> by_id_;  // guarded by mutex_
  std::deque<Known> all_;  // guarded by mutex_; keeps what Find() has handed out
  mutable std::atomic<const Known*> last_ = nullptr;  // found; written under mutex_
  std::atomic<std::uint64_t> version_ = 0;            // written under mutex_
  std::atomic<bool> has_gpu_regions_ = false;
};

/// One transport between this process and the peer.
struct PathSlot : std::enable_shared_from_this<PathSlot> {
  PathSlot(std::shared_ptr<Transport> t, Counter& b, Counter& n, Counter& f)
      : transport(std::move(t)), bytes_total(b), transfers_total(n), failures_total(f) {}
  std::shared_ptr<Transport>
      transport;  // shared with the engine: an Open() may return after the engine is gone
  std::mutex mutex;
  std::shared_ptr<Path> path;                 // guarded by mutex; null: not usable, see reason
  std::string reason = "not tried yet";       // guarded by mutex
  std::atomic<bool> coming = true;            // the path is being opened, or will be
  std::weak_ptr<RpcConnection> opening_over;  // control loop
  std::atomic<bool> loose_ends =
      false;                // a path was lost, and what was sent over it may still land
  int failures_in_row = 0;  // control loop
  std::atomic<std::uint64_t> bytes = 0;
  std::atomic<std::uint64_t> transfers = 0;
  std::atomic<std::uint64_t> failures = 0;
  std::atomic<double> gigabytes_per_second = 0;
  Counter& bytes_total;
  Counter& transfers_total;
  Counter& failures_total;

  /// `took` may be unknown: zero.
  void Record(std::uint64_t moved_bytes, Duration took) noexcept {
    bytes.fetch_add(moved_bytes, std::memory_order_relaxed);
    transfers.fetch_add(1, std::memory_order_relaxed);
    bytes_total.Add(moved_bytes);
    transfers_total.Add();
    if (took > Duration::zero()) Observe(moved_bytes, took);
  }
  void Observe(std::uint64_t moved_bytes, Duration took) noexcept;
  [[nodiscard]] std::shared_ptr<Path> Get() {
    const std::lock_guard lock(mutex);
    return path;
  }
};
using PathSlotPtr = std::shared_ptr<PathSlot>;

/// What a transfer goes over.
struct PathChoice {
  PathSlot* slot = nullptr;  ///< Of the peer, and as long as it.
  std::shared_ptr<Path> path;
};
using PathChoices = std::vector<PathChoice>;

class PeerImpl final : public Peer, public std::enable_shared_from_this<PeerImpl> {
 public:
  PeerImpl(World& world, Identity identity, Record record, std::vector<PathSlotPtr> slots);

  const Identity& identity() const override { return identity_; }
  bool is_connected() const override { return connected_.load(std::memory_order_acquire); }
  bool is_suspected() const override;
  Task<Result<Reply>> Call(Method method, std::string body, Instant deadline,
                           std::vector<std::byte> payload) override;
  Task<Result<Reply>> CallStream(Method method, std::string body, Instant deadline,
                                 std::vector<std::byte> payload,
                                 std::function<bool(Reply)> on_item) override;
  void AddRegion(const RegionInfo& region) override { regions_->Add(region, false); }
  std::vector<RegionInfo> ListedRegions() const override { return regions_->Listed(); }
  Task<Status> Refresh(Instant deadline) override;
  std::uint64_t regions_version() const noexcept override { return regions_->version(); }

  // ---- for the engine; on the control loop unless said otherwise ----
  [[nodiscard]] const std::shared_ptr<KnownRegions>& regions() const noexcept { return regions_; }
  [[nodiscard]] const std::vector<PathSlotPtr>& slots() const noexcept { return slots_; }
  [[nodiscard]] const Record& record() const noexcept { return record_; }
  [[nodiscard]] std::shared_ptr<RpcConnection> connection() const { return connection_; }
  /// A new connection to the same process: closes what was before, then opens the paths.
  [[nodiscard]] Task<void> Attach(std::shared_ptr<RpcConnection> connection, Instant deadline);
  /// How the engine reconnects this peer, for Call().
  std::function<Task<Status>(std::shared_ptr<PeerImpl>, Instant)> reconnect;

  /// The fastest usable path for `transfer`, by its own estimate. Any thread.
  [[nodiscard]] PathChoice Choose(const Transfer& transfer) const;
  /// Takes a path out of use and tries to open it again after a while. Any thread.
  void Failed(const PathChoice& choice, const Error& error);
  /// Whether bytes that were sent over a lost path may still land. Any thread.
  [[nodiscard]] bool has_loose_ends() const;
  /// Has the peer end them: a batch that is tried again would be overwritten by its own past, after
  /// it has reported.
  [[nodiscard]] Task<Status> EndLooseEnds(Instant deadline);
  /// Opens the path over this transport now, if it is to be opened later.
  void OpenNow(std::string_view transport);
  /// Returns when a path has come or gone, or (false) at `deadline`.
  [[nodiscard]] Task<bool> WaitForChange(Instant deadline);
  [[nodiscard]] bool is_opening() const;
  /// Opens every path that was given up: what was refused before may be possible now.
  void OpenAll();
  /// Why no path can be used for `transfer`: "shm: …; tcp: …". Any thread.
  [[nodiscard]] std::string Reasons(const Transfer& transfer) const;
  /// Ends all paths and the connection. Idempotent.
  void Close(const Error& cause);

 private:
  Task<void> OpenSlot(PathSlotPtr slot);
  Task<void> Reopen(PathSlotPtr slot);
  void ClosePaths(const Error& cause);
  void PathsChanged();
  void Changed();

  World& world_;
  Identity identity_;
  Record record_;
  std::vector<PathSlotPtr> slots_;
  // The paths of all slots, so that a transfer takes one lock and not one for each of them.
  std::mutex paths_mutex_;                    // of whoever makes them; before those of the slots
  mutable SpinLock paths_lock_;               // the last one to be taken
  std::shared_ptr<const PathChoices> paths_;  // guarded by paths_lock_; never null
  // Shared with every PeerInfo, which paths keep.
  std::shared_ptr<KnownRegions> regions_ = std::make_shared<KnownRegions>();
  std::shared_ptr<RpcConnection> connection_;
  std::atomic<bool> connected_ = false;
  bool closed_ = false;
  bool ending_ = false;  // somebody is in EndLooseEnds()
  std::vector<std::shared_ptr<OneShot<bool>>> waiting_;
  std::vector<std::shared_ptr<OneShot<bool>>> pausing_;  // before a path is opened again
};

}  // namespace mooncake
