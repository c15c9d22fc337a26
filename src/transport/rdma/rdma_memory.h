// This process's registered regions on all RDMA devices in use: registered in the background, in
// chunks, on all devices at once.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "base/metrics.h"
#include "memory/region_table.h"
#include "transport/rdma/rdma_device.h"

namespace mooncake::rdma {

/// One region on all devices. What belongs to a device is written once, before it is kReady there.
struct RegisteredRegion {
  enum class State : std::uint8_t { kPending, kReady, kFailed };
  struct Chunk {
    MemoryRegion handle;
    std::uint32_t local_key = 0;
    std::uint32_t remote_key = 0;
  };
  struct OnDevice {
    std::atomic<State> state = State::kPending;
    std::vector<Chunk> chunks;
    int tier =
        0;  ///< How far the device is from the memory: 0 is nearest. Set before it is offered.
    /// The keys stay, for whoever still looks at them, and open nothing any more.
    void Release() noexcept;
  };
  RegisteredRegion(RegionInfo i, std::uint64_t chunk, std::size_t devices)
      : info(std::move(i)), chunk_bytes(chunk), on(devices), pending(devices) {}
  [[nodiscard]] bool is_settled() const noexcept {
    return pending.load(std::memory_order_acquire) == 0;
  }
  [[nodiscard]] bool IsReadyOn(std::size_t device) const noexcept {
    return on[device].state.load(std::memory_order_acquire) == State::kReady;
  }
  [[nodiscard]] bool is_ready_anywhere() const noexcept;

  const RegionInfo info;
  const std::uint64_t chunk_bytes;
  std::vector<OnDevice> on;  ///< By the rank of the device.
  std::atomic<std::size_t> pending;
  std::atomic<bool> withdrawn = false;
};
using RegisteredRegionPtr = std::shared_ptr<RegisteredRegion>;

/// Any thread, unless said otherwise.
class RdmaMemory : public std::enable_shared_from_this<RdmaMemory> {
 public:
  /// `gpus` tells devices how to reach memory of GPUs.
  RdmaMemory(World& world, Metrics& metrics, std::vector<std::shared_ptr<RdmaDevice>> devices,
             std::shared_ptr<DeviceMemory> gpus, const RdmaOptions& options);
  /// Begins to register. The memory stays until Withdraw() has returned, or Close().
  void Offer(const RegionInfo& region);
  /// Afterwards no device reads or writes the region's memory, for whomever. On the control loop.
  [[nodiscard]] Task<void> Withdraw(RegionId id);
  /// Null: not offered, or withdrawn.
  [[nodiscard]] RegisteredRegionPtr Find(RegionId id) const;
  /// The region around `place`. Null as Find().
  [[nodiscard]] RegisteredRegionPtr FindLocal(const std::byte* place) const;
  /// Grows with every region that is offered or withdrawn.
  [[nodiscard]] std::uint64_t version() const noexcept {
    return version_.load(std::memory_order_acquire);
  }
  /// Returns once the region is registered, or is not to be, on each device; false: not by
  /// `deadline`. On the control loop.
  [[nodiscard]] Task<bool> Settled(RegisteredRegionPtr region, Instant deadline);
  /// Whether a region could not be registered anywhere: nobody need look otherwise.
  [[nodiscard]] bool has_failed() const noexcept { return failed_.load(std::memory_order_relaxed); }
  /// Releases everything, once the chunks that are being registered have been. Afterwards Offer()
  /// does nothing.
  void Close() noexcept;

 private:
  [[nodiscard]] int TierOf(const std::string& device, const std::string& location) const;
  void RegisterOn(std::size_t device, const RegisteredRegionPtr& region);
  [[nodiscard]] Status RegisterChunks(RdmaDevice& device, RegisteredRegion& region);
  [[nodiscard]] Result<MemoryRegion> RegisterChunk(RdmaDevice& device, const RegionInfo& region,
                                                   std::byte* base,
                                                   std::uint64_t length_bytes) const;
  [[nodiscard]] Status CheckLockLimit(RdmaDevice& device, const RegisteredRegion& region) const;
  void Settle(const RegisteredRegionPtr& region);

  World& world_;
  const std::vector<std::shared_ptr<RdmaDevice>> devices_;
  const std::shared_ptr<DeviceMemory> gpus_;
  const std::map<std::string, std::vector<std::vector<std::string>>> nearest_;
  std::uint64_t chunk_bytes_;
  std::vector<std::unique_ptr<Worker>> workers_;  // one for each device
  Counter& registered_bytes_;
  Counter& failures_;
  std::atomic<bool> failed_ = false;
  std::atomic<bool> told_of_host_ = false;  // the warning of this kind has been written
  std::atomic<bool> told_of_gpu_ = false;
  mutable std::shared_mutex mutex_;
  bool closed_ = false;                                      // guarded by mutex_
  std::unordered_map<RegionId, RegisteredRegionPtr> by_id_;  // guarded by mutex_
  std::map<std::uint64_t, RegisteredRegionPtr> by_base_;     // guarded by mutex_
  std::atomic<std::uint64_t> version_ = 0;                   // written under mutex_
  // Who waits for which region. Control loop.
  std::vector<std::pair<RegisteredRegionPtr, std::shared_ptr<OneShot<bool>>>> waiting_;
};

}  // namespace mooncake::rdma
