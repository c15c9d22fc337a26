// A simulated cluster under drawn load and drawn faults: of engines, or of whole instances.
#pragma once

#include "outcome.h"
#include "plan.h"

namespace mooncake {

/// One run. Everything in it follows from `plan`.
[[nodiscard]] SimOutcome RunPlan(const Plan& plan, bool keep_history);

}  // namespace mooncake
