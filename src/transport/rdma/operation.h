// A transfer on its way over the rails of a path.
#pragma once

#include <atomic>
#include <boost/container/small_vector.hpp>
#include <boost/intrusive/list.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "transport/rdma/path_regions.h"
#include "transport/rdma/rail.h"

namespace mooncake::rdma {

/// Guarded by the path's mutex.
struct Operation : boost::intrusive::list_base_hook<> {
  const Transfer* transfer = nullptr;
  Lane lane = Lane::kLong;
  std::function<void(Status)> done;  // of Start(); Run() waits at `ended`
  Instant begun;
  std::vector<Range> left;        // not posted, the next one last
  std::size_t pieces = 0;         // posted
  std::size_t unconfirmed = 0;    // rails that broke under its writes, and may still be alive there
  std::optional<Status> outcome;  // settled; reported once `pieces` is 0
  std::atomic<bool> ended = false;  // reported
  std::atomic<bool> held = false;   // by the caller of Run()
  boost::container::small_vector<bool, 8>
      cannot;                         // by place among the rails: cannot carry what is next
  std::unique_ptr<Timer> timer;       // data loop
  RegionCursor regions;               // of what was cut last
  std::shared_ptr<Operation> itself;  // while it is on the list

  /// For another transfer, after it has been reported.
  void Renew() noexcept {
    left.clear();
    cannot.clear();
    outcome.reset();
    ended.store(false, std::memory_order_relaxed);
  }
};
using OperationPtr = std::shared_ptr<Operation>;

/// Those that have not been reported, in order of arrival on each lane. One thread at a time:
/// whoever holds the path's mutex.
class OperationList {
 public:
  /// One that is not on the list yet. The one that was kept, if nobody has to do with it any more:
  /// it has its memory, and knows its regions.
  [[nodiscard]] [[gnu::always_inline]] OperationPtr Make(const PathRegions& regions,
                                                         const Transfer& transfer, Lane lane) {
    const bool is_free =
        spare_ && !spare_->held.load(std::memory_order_acquire) && spare_.use_count() == 1;
    OperationPtr operation;
    if (is_free) [[likely]] {
      operation = std::move(spare_);
      operation->Renew();
    } else {
      operation = std::make_shared<Operation>();
    }
    operation->transfer = &transfer;
    operation->lane = lane;
    operation->regions.Renew(regions);
    return operation;
  }
  /// Keeps one that has been reported for the next Make().
  void Keep(OperationPtr operation) { spare_ = std::move(operation); }

  void Add(const OperationPtr& operation) {
    operation->itself = operation;
    of(operation->lane).push_back(*operation);
  }
  /// It is on the list.
  [[nodiscard]] OperationPtr Remove(Operation& operation) noexcept;
  /// The rails are not the same any more: whichever of them could not carry a piece.
  void TryAllRails() noexcept;

  using List = boost::intrusive::list<Operation>;
  [[nodiscard]] List& of(Lane lane) noexcept { return lists_[static_cast<std::size_t>(lane)]; }
  [[nodiscard]] bool empty() const noexcept { return lists_[0].empty() && lists_[1].empty(); }
  /// For whoever removes some of them on the way.
  [[nodiscard]] std::vector<OperationPtr> All() const;
  /// Changes with every Remove().
  [[nodiscard]] std::uint64_t removed() const noexcept { return removed_; }
  [[nodiscard]] std::vector<OperationPtr> Using(RegionId region) const;

 private:
  OfEachLane<List> lists_;
  std::uint64_t removed_ = 0;
  OperationPtr spare_;
};

}  // namespace mooncake::rdma
