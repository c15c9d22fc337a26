// The allocator of KV pages with its prefix cache, beside a slow, obvious oracle.
#include "choices.h"
#include "kv/prefix_cache_trial.h"

MOONCAKE_FUZZER(page_allocator) {
  using namespace mooncake;
  constexpr int kStepsMax = 200;
  FuzzChoices choices(input);
  prefix_cache_trial::Trial trial(
      [&choices](unsigned bound) { return static_cast<unsigned>(choices.Below(bound)); });
  for (int step = 0; step < kStepsMax && !choices.exhausted(); ++step) {
    trial.Step();
    if (!trial.wrong().empty()) std::fprintf(stderr, "%s\n", trial.wrong().c_str());
    MC_FUZZ_CHECK(trial.wrong().empty());
  }
}
