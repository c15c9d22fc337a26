// The time of one turn under a path's mutex: one look at the clock, and none where nobody asks, but
// after what may have taken long.
#pragma once

#include "base/world.h"

namespace mooncake::rdma {

/// One thread at a time: whoever holds the path's mutex.
class TurnClock {
 public:
  /// `clock` outlives it.
  explicit TurnClock(Clock& clock) noexcept : clock_(clock) {}
  /// A turn begins; `now` may have been looked at already.
  void Begin(Instant now = {}) noexcept { now_ = now; }
  [[nodiscard]] Instant Now() {
    if (now_ == Instant{}) now_ = clock_.Now();
    return now_;
  }
  /// Another look: something in this turn took its time.
  Instant Look() { return now_ = clock_.Now(); }

 private:
  Clock& clock_;
  Instant now_{};
};

}  // namespace mooncake::rdma
