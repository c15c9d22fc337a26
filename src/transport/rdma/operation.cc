#include "transport/rdma/operation.h"

#include <algorithm>

namespace mooncake::rdma {

OperationPtr OperationList::Make(const PathRegions& regions) {
  OperationPtr operation;
  if (spare_ && !spare_->held.load(std::memory_order_acquire) && spare_.use_count() == 1) {
    operation = std::move(spare_);
    operation->left.clear();
    operation->cannot.clear();
    operation->outcome.reset();
    operation->ended = false;
  } else {
    operation = std::make_shared<Operation>();
  }
  operation->regions.Renew(regions);
  return operation;
}

OperationPtr OperationList::Remove(Operation& operation) {
  OperationPtr removed;
  if (all_.front().get() == &operation) {
    removed = std::move(all_.front());
    all_.pop_front();
  } else {
    removed = operation.shared_from_this();
    std::erase(all_, removed);
  }
  return removed;
}

void OperationList::TryAllRails() noexcept {
  for (const OperationPtr& operation : all_) operation->cannot.clear();
}

std::vector<OperationPtr> OperationList::Using(RegionId region) const {
  std::vector<OperationPtr> found;
  for (const OperationPtr& operation : all_) {
    const auto& slices = operation->transfer->slices;
    if (std::any_of(slices.begin(), slices.end(),
                    [region](const Slice& slice) { return slice.region == region; }))
      found.push_back(operation);
  }
  return found;
}

}  // namespace mooncake::rdma
