// Makes a failing run smaller: fewer faults, fewer actions, fewer nodes, a simpler network, as long
// as it still breaks the same rule.
#pragma once

#include <functional>

#include "run_plan.h"

namespace mooncake {

struct Shrunk {
  Plan plan;
  SimOutcome outcome;  ///< Of the smaller plan, with its history.
  std::size_t attempts = 0;
};

/// `run` is RunPlan(), or what stands for it. `plan` fails: `rule` is what it is to go on
/// breaking. Ends after `attempts_max` runs at the latest.
[[nodiscard]] Shrunk Shrink(Plan plan, Rule rule,
                            const std::function<SimOutcome(const Plan&, bool keep_history)>& run,
                            std::size_t attempts_max = 2000);

/// One line for each action and fault that is left, and the shape.
[[nodiscard]] std::string Listing(const Plan& plan);

}  // namespace mooncake
