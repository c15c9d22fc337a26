#include "transport/transfer_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace mooncake {
namespace {

Error OutOfRegion(const Slice& slice, const RegionInfo& info) {
  return Error{
      ErrorId::kOutOfRegion,
      fmt::format("{} bytes at offset {} of region {}, which has {} bytes", slice.length_bytes,
                  slice.offset, static_cast<std::uint64_t>(info.id), info.length_bytes)};
}

}  // namespace

Status CheckSlices(const Transfer& transfer, const PeerRegions& regions) {
  const RegionInfo* info = nullptr;  // of the slice before; the first of a transfer may be known
  if (transfer.region != nullptr &&
      Allows(transfer.region->access, WantedAccess(transfer.direction)))
    info = transfer.region;
  const Access wanted = WantedAccess(transfer.direction);
  for (const Slice& slice : transfer.slices) {
    if (info == nullptr || info->id != slice.region) {
      info = regions.Find(slice.region);
      if (info == nullptr) {
        return Fail(ErrorId::kRegionUnknown, fmt::format("the peer has told of no region {}",
                                                         static_cast<std::uint64_t>(slice.region)));
      }
      if (!Allows(info->access, wanted)) {
        return Fail(ErrorId::kBadRegionKey,
                    fmt::format("region {} is not for {}", static_cast<std::uint64_t>(slice.region),
                                wanted == Access::kWrite ? "writing" : "reading"));
      }
    }
    if (!HasRange(*info, slice)) return Fail(OutOfRegion(slice, *info));
  }
  return {};
}

Status CheckPace(const Transfer& transfer, Clock& clock) {
  if (transfer.cancelled != nullptr && transfer.cancelled->load(std::memory_order_acquire)) {
    return Fail(ErrorId::kCancelled, {});
  }
  if (transfer.deadline != kNever && clock.Now() >= transfer.deadline)
    return Fail(ErrorId::kDeadline, "a transfer");
  return {};
}

void CostModel::Observe(const Transfer& transfer, Duration actual) noexcept {
  // What slows one path down (a busy processor, the first touch of memory) slows them all, but only
  // the one in use is seen: neither one slow transfer nor a slow time may turn the choice of paths
  // over.
  constexpr double kNewShare = 0.125;
  const double ratio =
      std::clamp(static_cast<double>(actual.count()) / Uncorrected(transfer), 0.25, 3.0);
  const auto before = static_cast<double>(correction_.load(std::memory_order_relaxed));
  correction_.store(static_cast<float>(before + kNewShare * (ratio - before)),
                    std::memory_order_relaxed);
}

void CallGate::AwaitEmpty() const noexcept {
  while (inside_.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
}

}  // namespace mooncake
