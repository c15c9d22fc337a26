#include <gtest/gtest.h>

#include <random>

#include "kv/prefix_cache_trial.h"

namespace mooncake {
namespace {

TEST(PrefixCacheProperty, DoesWhatTheObviousImplementationDoes) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    prefix_cache_trial::Trial trial(
        [&random](unsigned bound) { return static_cast<unsigned>(random() % bound); });
    for (int step = 0; step < 150; ++step) {
      trial.Step();
      ASSERT_EQ(trial.wrong(), "") << "seed " << seed << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace mooncake
