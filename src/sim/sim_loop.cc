#include "sim/sim_loop.h"

#include <algorithm>

namespace mooncake {

void SimTurn::Add(internal::SimWorkPtr work) { loop_.AddAt(loop_.Now(), this, std::move(work)); }

void SimTurn::AddAt(Instant when, internal::SimWorkPtr work) {
  loop_.AddAt(when, this, std::move(work));
}

void SimTurn::Thaw() {
  frozen_ = false;
  for (internal::SimWorkPtr& work : std::exchange(held_, {})) Add(std::move(work));
}

void SimLoop::AddAt(Instant when, SimTurn* turn, internal::SimWorkPtr work) {
  if (clearing_) return;
  Event event{when, sequence_++, turn, std::move(work)};
  // What is due now comes after everything that was due before, and is most of what there is: no
  // heap for it. An event of the heap for the same instant was added earlier, when that instant
  // still lay ahead.
  if (when <= now_) {
    event.when = now_;
    ready_.push_back(std::move(event));
    return;
  }
  later_.push_back(std::move(event));
  std::push_heap(later_.begin(), later_.end(), std::greater<>());
}

bool SimLoop::Step(Instant limit) {
  const bool heap_first = !later_.empty() && (ready_.empty() || later_.front().when <= now_);
  if (ready_.empty() && (later_.empty() || later_.front().when > limit)) {
    if (limit != kNever) now_ = std::max(now_, limit);
    return false;
  }
  Event event;
  if (heap_first) {
    std::pop_heap(later_.begin(), later_.end(), std::greater<>());
    event = std::move(later_.back());
    later_.pop_back();
    now_ = event.when;
  } else {
    event = std::move(ready_.front());
    ready_.pop_front();
  }
  ++steps_;
  Run(event.turn, std::move(event.work));
  return true;
}

void SimLoop::Run(SimTurn* turn, internal::SimWorkPtr work) {
  if (turn != nullptr && turn->is_frozen()) {
    turn->held_.push_back(std::move(work));
    return;
  }
  work->Run();
  work.reset();
  if (on_step) on_step(turn);
}

void SimLoop::Clear() {
  clearing_ = true;  // what destructors post has nowhere to run
  while (!ready_.empty() || !later_.empty()) {
    const auto ready = std::exchange(ready_, {});
    const auto later = std::exchange(later_, {});
  }
  clearing_ = false;
}

}  // namespace mooncake
