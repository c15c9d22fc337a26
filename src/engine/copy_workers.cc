#include "engine/copy_workers.h"

#include <algorithm>

namespace mooncake {

void CopyWorkers::Add(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  const auto least =
      std::min_element(seats_.begin(), seats_.end(),
                       [](const SeatPtr& a, const SeatPtr& b) { return a->pieces < b->pieces; });
  SeatPtr seat;
  if (least != seats_.end() && ((*least)->pieces == 0 || seats_.size() == kWorkersMax)) {
    seat = *least;
  } else {
    seat = seats_.emplace_back(std::make_shared<Seat>());
    seat->worker = world_.threads.MakeWorker();
  }
  seat->pieces += 1;
  seat->worker->Add([self = shared_from_this(), seat, work = std::move(work)] {
    work();
    self->Done(seat);
  });
}

void CopyWorkers::Done(const SeatPtr& seat) {
  const std::lock_guard lock(mutex_);
  seat->pieces -= 1;
  if (seat->pieces > 0 || seats_.empty() || seat == seats_.front()) return;
  // A worker cannot end itself.
  Post(world_.control, [self = shared_from_this(), seat] { self->Retire(seat); });
}

void CopyWorkers::Retire(const SeatPtr& seat) {
  std::unique_ptr<Worker> idle;
  {
    const std::lock_guard lock(mutex_);
    if (seat->pieces > 0 || std::erase(seats_, seat) == 0) return;
    idle = std::move(seat->worker);
  }
}  // `idle` ends here: it has nothing to do

Task<void> CopyWorkers::Close() {
  const auto self = shared_from_this();
  std::vector<SeatPtr> seats;
  {
    const std::lock_guard lock(mutex_);
    seats = std::exchange(seats_, {});
  }
  for (const SeatPtr& seat : seats) {
    co_await Finished(*seat->worker, world_.control);
    seat->worker = nullptr;
  }
}

}  // namespace mooncake
