#include "transport/cuda/local_memory.h"

#include <mutex>

namespace mooncake::cuda {

void LocalMemory::Add(const RegionInfo& region) {
  const std::unique_lock lock(mutex_);
  by_base_[region.base] = {region.base, region.length_bytes, IsOnGpu(region)};
  base_of_[region.id] = region.base;
}

void LocalMemory::Remove(RegionId id) {
  const std::unique_lock lock(mutex_);
  const auto found = base_of_.find(id);
  if (found == base_of_.end()) return;
  by_base_.erase(found->second);
  base_of_.erase(found);
}

Result<LocalMemory::Around> LocalMemory::Find(std::byte* at) const {
  const std::shared_lock lock(mutex_);
  const auto next = by_base_.upper_bound(reinterpret_cast<std::uint64_t>(at));
  if (next != by_base_.begin() && std::prev(next)->second.Holds(at)) return std::prev(next)->second;
  return Fail(ErrorId::kNotRegistered, "it was unregistered under a transfer");
}

}  // namespace mooncake::cuda
