#include "transport/rdma/rdma_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"

namespace mooncake::rdma {
namespace {

constexpr std::uint64_t kPageBytes = 4096;

}  // namespace

bool RegisteredRegion::is_ready_anywhere() const noexcept {
  for (std::size_t device = 0; device < on.size(); ++device) {
    if (IsReadyOn(device)) return true;
  }
  return false;
}

void RegisteredRegion::OnDevice::Release() noexcept {
  for (Chunk& chunk : chunks) chunk.handle = nullptr;
}

RdmaMemory::RdmaMemory(World& world, Metrics& metrics,
                       std::vector<std::shared_ptr<RdmaDevice>> devices,
                       std::shared_ptr<DeviceMemory> gpus, const RdmaOptions& options)
    : world_(world),
      devices_(std::move(devices)),
      gpus_(std::move(gpus)),
      nearest_(options.nearest),
      chunk_bytes_(options.chunk_bytes_max),
      registered_bytes_(metrics.AddCounter("mooncake_rdma_registered_bytes_total",
                                           "Bytes registered on RDMA devices, on each of them.")),
      failures_(metrics.AddCounter("mooncake_rdma_registration_failures_total",
                                   "Regions that an RDMA device did not take.")) {
  for (const auto& device : devices_) {
    chunk_bytes_ = std::min(chunk_bytes_, device->registration_bytes_max());
    workers_.push_back(world_.threads.MakeWorker());
  }
  chunk_bytes_ = std::max(kPageBytes, chunk_bytes_ / kPageBytes * kPageBytes);
}

void RdmaMemory::Offer(const RegionInfo& info) {
  const auto region = std::make_shared<RegisteredRegion>(info, chunk_bytes_, devices_.size());
  for (std::size_t device = 0; device < devices_.size(); ++device)
    region->on[device].tier = TierOf(devices_[device]->name(), info.location);
  {
    const std::unique_lock lock(mutex_);
    if (closed_) return;
    by_id_[info.id] = region;
    by_base_[info.base] = region;
    version_.fetch_add(1, std::memory_order_acq_rel);
  }
  for (std::size_t device = 0; device < devices_.size(); ++device) {
    workers_[device]->Add(
        [self = shared_from_this(), device, region] { self->RegisterOn(device, region); });
  }
}

int RdmaMemory::TierOf(const std::string& device, const std::string& location) const {
  const auto found = nearest_.find(location);
  if (found == nearest_.end()) return 0;
  const auto& groups = found->second;
  const auto group = std::find_if(groups.begin(), groups.end(), [&device](const auto& names) {
    return std::find(names.begin(), names.end(), device) != names.end();
  });
  return static_cast<int>(group - groups.begin());
}

void RdmaMemory::RegisterOn(std::size_t device, const RegisteredRegionPtr& region) {
  const Status registered = RegisterChunks(*devices_[device], *region);
  RegisteredRegion::OnDevice& here = region->on[device];
  if (!registered) here.chunks.clear();
  if (!registered && registered.error().id != ErrorId::kCancelled) {
    failures_.Add();
    // One line: where one is refused, many will be, for the same reason.
    failed_ = true;
    if (!(IsOnGpu(region->info) ? told_of_gpu_ : told_of_host_).exchange(true))
      MC_LOG(warn, "{}", Within("registering memory for RDMA", registered.error()).Text());
  }
  here.state.store(registered ? RegisteredRegion::State::kReady : RegisteredRegion::State::kFailed,
                   std::memory_order_release);
  if (region->pending.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    Post(world_.control, [self = shared_from_this(), region] { self->Settle(region); });
  }
}

Status RdmaMemory::RegisterChunks(RdmaDevice& device, RegisteredRegion& region) {
  if (!IsOnGpu(region.info)) MC_TRY_STATUS(CheckLockLimit(device, region));
  auto& chunks = region.on[device.rank()].chunks;
  auto* const base = reinterpret_cast<std::byte*>(region.info.base);
  for (std::uint64_t at = 0; at < region.info.length_bytes; at += region.chunk_bytes) {
    if (region.withdrawn) return Fail(ErrorId::kCancelled, {});
    const std::uint64_t length = std::min(region.chunk_bytes, region.info.length_bytes - at);
    MC_TRY(MemoryRegion handle, RegisterChunk(device, region.info, base + at, length));
    const ibv_mr& keys = *handle;
    chunks.push_back({std::move(handle), keys.lkey, keys.rkey});
    registered_bytes_.Add(length);
  }
  return {};
}

Result<MemoryRegion> RdmaMemory::RegisterChunk(RdmaDevice& device, const RegionInfo& region,
                                               std::byte* base, std::uint64_t length_bytes) const {
  const bool read = Allows(region.access, Access::kRead);
  const bool write = Allows(region.access, Access::kWrite);
  if (!IsOnGpu(region)) return device.Register(base, length_bytes, read, write);
  std::string no_dmabuf;
  if (const Result<Dmabuf> dmabuf = gpus_->ExportDmabuf(base, length_bytes)) {
    Result<MemoryRegion> registered = device.Register(*dmabuf, base, length_bytes, read, write);
    if (registered) return registered;
    no_dmabuf = registered.error().Brief();
  } else {
    no_dmabuf = dmabuf.error().Brief();
  }
  Result<MemoryRegion> registered = device.Register(base, length_bytes, read, write);
  if (registered) return registered;
  return Fail(
      ErrorId::kRdmaCall,
      fmt::format("{} takes memory of {} neither by dmabuf ({}) nor as it is ({}): run `modprobe "
                  "nvidia_peermem`, or have a driver and a kernel (5.12 or newer) with dmabuf. "
                  "Until then it is copied by way of the host",
                  device.name(), region.location, no_dmabuf, registered.error().Brief()));
}

Status RdmaMemory::CheckLockLimit(RdmaDevice& device, const RegisteredRegion& region) const {
  const LockLimit limit = device.verbs().GetLockLimit();
  const std::uint64_t length = region.info.length_bytes;
  if (limit.unlimited || limit.locked_bytes + length <= limit.limit_bytes) return {};
  return Fail(
      ErrorId::kMemoryLock,
      fmt::format("{} on each of {} RDMA devices: {} of the {} that this process may lock are "
                  "locked already. Run `ulimit -l unlimited` before it, put LimitMEMLOCK=infinity "
                  "into its systemd unit, or start its container with --ulimit memlock=-1",
                  FormatBytes(length), devices_.size(), FormatBytes(limit.locked_bytes),
                  FormatBytes(limit.limit_bytes)));
}

void RdmaMemory::Settle(const RegisteredRegionPtr& region) {
  std::erase_if(waiting_, [&region](const auto& waiting) {
    if (waiting.first == region) waiting.second->Set(true);
    return waiting.first == region;
  });
}

Task<bool> RdmaMemory::Settled(RegisteredRegionPtr region, Instant deadline) {
  const auto self = shared_from_this();
  if (region->is_settled()) co_return true;
  const auto end = std::make_shared<OneShot<bool>>();
  waiting_.emplace_back(region, end);
  auto wait = WaitUntil(world_.clock, world_.control, end, deadline);
  const bool settled = co_await std::move(wait);
  std::erase_if(waiting_, [&end](const auto& waiting) { return waiting.second == end; });
  co_return settled;
}

Task<void> RdmaMemory::Withdraw(RegionId id) {
  const auto self = shared_from_this();
  RegisteredRegionPtr region;
  {
    const std::unique_lock lock(mutex_);
    const auto found = by_id_.find(id);
    if (found == by_id_.end()) co_return;
    region = found->second;
    by_id_.erase(found);
    by_base_.erase(region->info.base);
    version_.fetch_add(1, std::memory_order_acq_rel);
  }
  region->withdrawn = true;
  // After its registration, which the same worker has been given before.
  for (std::size_t device = 0; device < devices_.size(); ++device)
    workers_[device]->Add([region, device] { region->on[device].Release(); });
  for (const auto& worker : workers_) co_await Finished(*worker, world_.control);
}

RegisteredRegionPtr RdmaMemory::Find(RegionId id) const {
  const std::shared_lock lock(mutex_);
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

RegisteredRegionPtr RdmaMemory::FindLocal(const std::byte* place) const {
  const auto address = reinterpret_cast<std::uint64_t>(place);
  const std::shared_lock lock(mutex_);
  const auto next = by_base_.upper_bound(address);
  if (next == by_base_.begin()) return nullptr;
  const RegisteredRegionPtr& region = std::prev(next)->second;
  return address - region->info.base < region->info.length_bytes ? region : nullptr;
}

void RdmaMemory::Close() noexcept {
  std::vector<RegisteredRegionPtr> left;
  {
    const std::unique_lock lock(mutex_);
    closed_ = true;
    for (const auto& [id, region] : by_id_) left.push_back(region);
    by_id_.clear();
    by_base_.clear();
  }
  for (const RegisteredRegionPtr& region : left) region->withdrawn = true;
  for (const auto& worker : workers_) worker->Stop();
  for (const RegisteredRegionPtr& region : left) {
    for (RegisteredRegion::OnDevice& here : region->on) here.Release();
  }
}

}  // namespace mooncake::rdma
