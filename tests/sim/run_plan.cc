#include "run_plan.h"

#include "engine_run.h"
#include "instance_run.h"

namespace mooncake {

SimOutcome RunPlan(const Plan& plan, bool keep_history) {
  std::unique_ptr<ClusterRun> run;
  if (plan.subject == Subject::kEngines) {
    run = std::make_unique<EngineRun>(plan, keep_history);
  } else {
    run = std::make_unique<InstanceRun>(plan, keep_history);
  }
  SimOutcome outcome = run->Run();
  if (!run->taken_down())
    run.release();  // NOLINT: what still runs cannot be destroyed; its run has failed
  return outcome;
}

}  // namespace mooncake
