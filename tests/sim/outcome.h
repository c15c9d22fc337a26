// What was seen of one run of the simulation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "history_checker.h"

namespace mooncake {

struct SimOutcome {
  std::uint64_t digest = 0;           ///< Over the ordered history and the number of events.
  std::vector<Violation> violations;  ///< What must not happen and did.
  std::vector<std::string> history;   ///< Empty unless asked for.
  std::uint64_t events = 0;
  std::uint64_t batches = 0;  ///< Or requests.
  std::uint64_t succeeded = 0;
  std::uint64_t notifications = 0;
  std::uint64_t faults = 0;
  bool crash_point_reached = false;
  Duration simulated{0};
};

}  // namespace mooncake
