// The memory of an engine as peers see it: told of in pages, given out until it is taken back.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/world.h"
#include "gpu/device_memory.h"
#include "memory/region_table.h"
#include "memory/shared_segment.h"
#include "wire/rpc.h"

namespace mooncake {

class OwnMemory : public std::enable_shared_from_this<OwnMemory> {
 public:
  OwnMemory(World& world, Duration unregister_timeout);

  [[nodiscard]] const std::shared_ptr<RegionTable>& regions() const noexcept { return regions_; }
  /// Before Register().
  void UseGpus(std::shared_ptr<DeviceMemory> gpus) { gpus_ = std::move(gpus); }
  [[nodiscard]] const std::shared_ptr<DeviceMemory>& gpus() const noexcept { return gpus_; }
  /// As Engine::Register(): finds out whose memory it is. Any thread.
  [[nodiscard]] Result<RegionInfo> Register(void* base, std::uint64_t length_bytes,
                                            RegisterOptions options);
  /// As Engine::Allocate(). Any thread.
  [[nodiscard]] Result<RegionInfo> Allocate(const std::string& name, std::uint64_t length_bytes,
                                            const RegisterOptions& options);

  // ---- the rest on the control loop ----
  /// As Engine::UnregisterAsync(). `withdraw` takes the region from the transports, once nobody
  /// copies for it any more.
  [[nodiscard]] Task<Status> Unregister(RegionId id, std::function<Task<void>(RegionId)> withdraw);
  /// Answers ListRegions.
  [[nodiscard]] Result<Reply> List(const Frame& request) const;
  /// A connection that a peer has opened: it may map regions, and must hear when they end.
  void AddCaller(const std::shared_ptr<RpcConnection>& caller);
  /// Begins the end: memory that is still being populated is left as it is.
  void StopPopulating();
  /// Once nobody copies for a peer any more, all memory is the process's own again. Allocated
  /// segments stay mapped until this object is destroyed: whoever computes in them does so.
  [[nodiscard]] Task<void> Close();

 private:
  struct Telling;
  /// False: somebody still copies at `deadline`.
  [[nodiscard]] Task<Result<bool>> WaitUntilUnused(RegionId id, Instant deadline);
  [[nodiscard]] Task<Status> TellCallers(RegionId id, Instant deadline);
  [[nodiscard]] static Task<void> Tell(std::shared_ptr<RpcConnection> caller, std::string body,
                                       Instant deadline, std::shared_ptr<Telling> telling);

  World& world_;
  const Duration unregister_timeout_;
  std::shared_ptr<DeviceMemory> gpus_ = DeviceMemory::None();
  std::shared_ptr<RegionTable> regions_;
  std::vector<std::weak_ptr<RpcConnection>> callers_;
  std::mutex segments_mutex_;
  std::map<RegionId, std::unique_ptr<SharedSegment>> segments_;  // guarded by segments_mutex_
  std::unique_ptr<Worker> background_;                           // populates memory
};

}  // namespace mooncake
