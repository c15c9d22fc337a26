// A simulated cluster of engines under drawn load and drawn faults, and what was seen of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/world.h"
#include "history_checker.h"
#include "plan.h"

namespace mooncake {

struct SimOutcome {
  std::uint64_t digest = 0;           ///< Over the ordered history and the number of events.
  std::vector<Violation> violations;  ///< What must not happen and did.
  std::vector<std::string> history;   ///< Empty unless asked for.
  std::uint64_t events = 0;
  std::uint64_t batches = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t notifications = 0;
  std::uint64_t faults = 0;
  bool crash_point_reached = false;
  Duration simulated{0};
};

/// One run. Everything in it follows from `plan`.
[[nodiscard]] SimOutcome RunEngines(const Plan& plan, bool keep_history);

}  // namespace mooncake
