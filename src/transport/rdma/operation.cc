#include "transport/rdma/operation.h"

#include <algorithm>

namespace mooncake::rdma {

OperationPtr OperationList::Remove(Operation& operation) noexcept {
  removed_ += 1;
  List& list = of(operation.lane);
  list.erase(list.iterator_to(operation));
  return std::move(operation.itself);
}

void OperationList::TryAllRails() noexcept {
  for (List& list : lists_) {
    for (Operation& operation : list) operation.cannot.clear();
  }
}

std::vector<OperationPtr> OperationList::All() const {
  std::vector<OperationPtr> all;
  for (const List& list : lists_) {
    for (const Operation& operation : list) all.push_back(operation.itself);
  }
  return all;
}

std::vector<OperationPtr> OperationList::Using(RegionId region) const {
  std::vector<OperationPtr> found = All();
  std::erase_if(found, [region](const OperationPtr& operation) {
    const auto& slices = operation->transfer->slices;
    return std::none_of(slices.begin(), slices.end(),
                        [region](const Slice& slice) { return slice.region == region; });
  });
  return found;
}

}  // namespace mooncake::rdma
