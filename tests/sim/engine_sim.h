// A simulated cluster of engines under drawn load and drawn faults, and the checker of what they
// did.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/world.h"

namespace mooncake {

struct SimOutcome {
  std::uint64_t seed = 0;
  std::uint64_t digest = 0;             ///< Over the ordered history and the number of events.
  std::vector<std::string> violations;  ///< What must not happen and did; at most 20.
  std::vector<std::string> history;     ///< Empty unless asked for.
  std::string shape;                    ///< "4 engines, tcp+fake, P2PHANDSHAKE".
  std::uint64_t events = 0;
  std::uint64_t batches = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t notifications = 0;
  std::uint64_t faults = 0;  ///< Cuts, partitions, stalls, crashes, restarts.
  Duration simulated{0};
};

/// One run. Everything in it follows from `seed`.
[[nodiscard]] SimOutcome RunEngineSim(std::uint64_t seed, bool keep_history);

}  // namespace mooncake
