#include "memory/region_table.h"

#include <fmt/format.h>

#include <mutex>
#include <utility>

namespace mooncake {
namespace {

std::uint64_t AddressOf(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

tl::unexpected<Error> NotRegistered(const void* address, std::uint64_t length_bytes) {
  return Fail(ErrorId::kNotRegistered, fmt::format("{} bytes at {}", length_bytes, address));
}

}  // namespace

Result<RegionInfo> RegionTable::Register(void* base, std::uint64_t length_bytes,
                                         const RegisterOptions& options) {
  return Insert(AddressOf(base), length_bytes, options, nullptr);
}

Result<RegionInfo> RegionTable::Register(SharedSegment& segment, const RegisterOptions& options) {
  return Insert(AddressOf(segment.bytes().data()), segment.bytes().size(), options, &segment);
}

Result<RegionInfo> RegionTable::Insert(std::uint64_t base, std::uint64_t length_bytes,
                                       const RegisterOptions& options, SharedSegment* segment) {
  if (base == 0 || length_bytes == 0 || length_bytes > UINT64_MAX - base) {
    return Fail(ErrorId::kBadRange,
                fmt::format("cannot register {} bytes at {:#x}", length_bytes, base));
  }
  auto region = std::make_shared<internal::Region>();
  region->info = RegionInfo{{},
                            RegionKey{random_.Next()},
                            base,
                            length_bytes,
                            options.location == "*" ? "cpu:0" : options.location,
                            options.access,
                            segment != nullptr};
  region->listed = options.listed;
  region->segment = segment;
  const std::unique_lock lock(mutex_);
  const auto next = by_base_.lower_bound(base);
  const RegionInfo* overlapped = nullptr;
  if (next != by_base_.end() && next->first < base + length_bytes) overlapped = &next->second->info;
  if (next != by_base_.begin()) {
    const RegionInfo& before = std::prev(next)->second->info;
    if (before.base + before.length_bytes > base) overlapped = &before;
  }
  if (overlapped != nullptr) {
    return Fail(ErrorId::kRegionExists,
                fmt::format("{} bytes at {:#x} overlap the region of {} bytes at {:#x}",
                            length_bytes, base, overlapped->length_bytes, overlapped->base));
  }
  region->info.id = RegionId{next_id_++};
  by_base_.emplace(base, region);
  by_id_.emplace(region->info.id, region);
  if (IsOnGpu(region->info)) gpu_regions_.fetch_add(1, std::memory_order_acq_rel);
  if (options.listed) version_.fetch_add(1, std::memory_order_acq_rel);
  return region->info;
}

Status RegionTable::Unregister(RegionId id, std::function<void()> unused) {
  // Whoever resolved the region before it left the table holds a reference; ours goes here, after
  // the lock.
  RegionPtr region;
  RegionPtr remembered;
  const std::unique_lock lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end())
    return Fail(ErrorId::kRegionUnknown, fmt::format("region {}", static_cast<std::uint64_t>(id)));
  region = found->second;
  remembered = last_.Forget(region);
  region->unused = std::move(unused);
  by_base_.erase(region->info.base);
  by_id_.erase(found);
  if (IsOnGpu(region->info)) gpu_regions_.fetch_sub(1, std::memory_order_acq_rel);
  if (region->listed) version_.fetch_add(1, std::memory_order_acq_rel);
  return {};
}

Result<RegionInfo> RegionTable::FindBase(const void* base) const {
  const std::shared_lock lock(mutex_);
  const auto found = by_base_.find(AddressOf(base));
  if (found == by_base_.end())
    return Fail(ErrorId::kRegionUnknown, fmt::format("no region begins at {}", base));
  return found->second->info;
}

Result<RegionTable::RegionPtr> RegionTable::Find(RegionId id, RegionKey key) const {
  const std::shared_lock lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end())
    return Fail(ErrorId::kRegionUnknown, fmt::format("region {}", static_cast<std::uint64_t>(id)));
  if (found->second->info.key != key) {
    return Fail(ErrorId::kBadRegionKey, fmt::format("region {}", static_cast<std::uint64_t>(id)));
  }
  return found->second;
}

Result<PinnedRange> RegionTable::Pin(RegionId id, RegionKey key, Access wanted, Reach reach) const {
  MC_TRY(RegionPtr region, Find(id, key));
  const RegionInfo& info = region->info;
  if (!Allows(info.access, wanted)) {
    return Fail(ErrorId::kBadRegionKey, fmt::format("region {} does not allow this access",
                                                    static_cast<std::uint64_t>(id)));
  }
  if (reach == Reach::kHost && IsOnGpu(info)) {
    return Fail(ErrorId::kMemoryKind,
                fmt::format("region {} is memory of {}, which this transport does not reach",
                            static_cast<std::uint64_t>(id), info.location));
  }
  return PinnedRange(std::move(region));
}

Result<PinnedRange> RegionTable::Resolve(RegionId id, RegionKey key, std::uint64_t offset,
                                         std::uint64_t length_bytes, Access wanted) const {
  MC_TRY(PinnedRange whole, Pin(id, key, wanted));
  if (offset > whole.bytes().size() || length_bytes > whole.bytes().size() - offset) {
    return Fail(ErrorId::kOutOfRegion, fmt::format("{} bytes at offset {} of a region of {} bytes",
                                                   length_bytes, offset, whole.bytes().size()));
  }
  return std::move(whole).Narrow(offset, length_bytes);
}

Result<std::pair<UniqueFd, std::uint64_t>> RegionTable::ResolveSegment(RegionId id, RegionKey key,
                                                                       Access wanted) const {
  MC_TRY([[maybe_unused]] const PinnedRange pin,
         Pin(id, key, wanted));  // the segment outlives its pins
  MC_TRY(const RegionPtr region, Find(id, key));
  if (region->segment == nullptr) {
    return Fail(ErrorId::kMapFailed, fmt::format("region {} was allocated by the application",
                                                 static_cast<std::uint64_t>(id)));
  }
  MC_TRY(UniqueFd fd, region->segment->Duplicate(Allows(wanted, Access::kWrite)));
  return std::pair{std::move(fd), region->info.length_bytes};
}

const RegionTable::RegionPtr* RegionTable::Around(std::uint64_t begin,
                                                  std::uint64_t length_bytes) const {
  const auto next = by_base_.upper_bound(begin);
  if (next == by_base_.begin()) return nullptr;
  const RegionPtr& region = std::prev(next)->second;
  return Contains(region->info, begin, length_bytes) ? &region : nullptr;
}

void RegionTable::Remembered::Set(const RegionPtr& region) noexcept {
  RegionPtr before = region;
  const std::unique_lock lock(lock_, std::try_to_lock);
  if (lock) region_.swap(before);
}

RegionTable::RegionPtr RegionTable::Remembered::Forget(const RegionPtr& region) noexcept {
  const std::lock_guard lock(lock_);
  return region_ == region ? std::exchange(region_, nullptr) : nullptr;
}

Result<RegionInfo> RegionTable::FindLocal(const void* address, std::uint64_t length_bytes) const {
  const std::shared_lock lock(mutex_);
  if (const RegionPtr* const region = Around(AddressOf(address), length_bytes))
    return (*region)->info;
  return NotRegistered(address, length_bytes);
}

Result<MutableBytes> RegionTable::FindLocalBytes(const void* address,
                                                 std::uint64_t length_bytes) const {
  const std::shared_lock lock(mutex_);
  if (const RegionPtr* const region = Around(AddressOf(address), length_bytes))
    return BytesOf((*region)->info);
  return NotRegistered(address, length_bytes);
}

Result<PinnedRange> RegionTable::LookUp(const void* address, std::uint64_t length_bytes) const {
  const std::shared_lock lock(mutex_);
  const RegionPtr* const region = Around(AddressOf(address), length_bytes);
  if (region == nullptr) return NotRegistered(address, length_bytes);
  last_.Set(*region);
  return PinnedRange(*region);
}

std::vector<RegionInfo> RegionTable::List(RegionId after, std::size_t count_max) const {
  std::vector<RegionInfo> list;
  const std::shared_lock lock(mutex_);
  for (auto it = by_id_.upper_bound(after); it != by_id_.end() && list.size() < count_max; ++it) {
    if (it->second->listed) list.push_back(it->second->info);
  }
  return list;
}

std::vector<RegionInfo> RegionTable::All(std::size_t count_max) const {
  std::vector<RegionInfo> all;
  const std::shared_lock lock(mutex_);
  for (auto it = by_id_.begin(); it != by_id_.end() && all.size() < count_max; ++it)
    all.push_back(it->second->info);
  return all;
}

std::size_t RegionTable::size() const {
  const std::shared_lock lock(mutex_);
  return by_id_.size();
}

}  // namespace mooncake
