#include "transport/rdma/operation.h"

#include <algorithm>

namespace mooncake::rdma {

OperationPtr OperationList::Remove(Operation& operation) noexcept {
  removed_ += 1;
  list_.erase(list_.iterator_to(operation));
  return std::move(operation.itself);
}

void OperationList::TryAllRails() noexcept {
  for (Operation& operation : list_) operation.cannot.clear();
}

std::vector<OperationPtr> OperationList::All() const {
  std::vector<OperationPtr> all;
  for (const Operation& operation : list_) all.push_back(operation.itself);
  return all;
}

std::vector<OperationPtr> OperationList::Using(RegionId region) const {
  std::vector<OperationPtr> found;
  for (const Operation& operation : list_) {
    const auto& slices = operation.transfer->slices;
    if (std::any_of(slices.begin(), slices.end(),
                    [region](const Slice& slice) { return slice.region == region; }))
      found.push_back(operation.itself);
  }
  return found;
}

}  // namespace mooncake::rdma
