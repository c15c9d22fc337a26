#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <set>

#include "base/log.h"
#include "run_plan.h"
#include "shrink.h"

namespace mooncake {
namespace {

class EngineSimulation : public testing::Test {
 protected:
  void SetUp() override { SetLogLevel(LogLevel::kWarn); }
  void TearDown() override { SetLogLevel(LogLevel::kInfo); }
};

TEST_F(EngineSimulation, ThirtySeedsHold) {
  constexpr std::uint64_t kSeeds = 30;
  std::uint64_t succeeded = 0;
  std::uint64_t notifications = 0;
  std::uint64_t faults = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const SimOutcome outcome = RunPlan(DrawPlan(seed), false);
    for (const Violation& violation : outcome.violations) {
      ADD_FAILURE() << "seed " << seed << ": " << violation.text
                    << "; replay with ./run sim --seed " << seed;
    }
    succeeded += outcome.succeeded;
    notifications += outcome.notifications;
    faults += outcome.faults;
  }
  // A simulation in which nothing happens would hold too.
  EXPECT_GT(succeeded, 10 * kSeeds);
  EXPECT_GT(notifications, kSeeds);
  EXPECT_GT(faults, kSeeds);
}

TEST_F(EngineSimulation, WhateverEventIsTheLastOfAProcessTheRunHolds) {
  constexpr std::uint64_t kStep = 41;  // mooncake_sim --crash-points tries every event
  for (const bool tcp : {true, false}) {
    Plan plan = CrashPlan(Subject::kEngines, tcp);
    for (std::size_t victim = 0; victim <= plan.shape.nodes; ++victim) {
      std::uint64_t reached = 0;
      for (std::uint64_t event = 1;; event += kStep) {
        plan.crash_point = CrashPoint{victim, event};
        const SimOutcome outcome = RunPlan(plan, false);
        for (const Violation& violation : outcome.violations)
          ADD_FAILURE() << Describe(plan) << ": " << violation.text;
        if (!outcome.crash_point_reached) break;
        reached += 1;
      }
      EXPECT_GT(reached, 2U) << victim;
    }
  }
}

TEST_F(EngineSimulation, AnActionThatIsLeftOutChangesNoOther) {
  const auto begun = [](const Plan& plan) {
    std::set<std::string> lines;
    for (const std::string& line : RunPlan(plan, true).history) {
      if (line.find(" connects to ") != std::string::npos) lines.insert(line);
    }
    return lines;
  };
  Plan plan = CrashPlan(Subject::kEngines, false);
  const std::set<std::string> all = begun(plan);
  plan.actions.pop_back();
  const std::set<std::string> fewer = begun(plan);
  EXPECT_GT(fewer.size(), 1U);
  EXPECT_TRUE(std::includes(all.begin(), all.end(), fewer.begin(), fewer.end()));
}

// Fails as long as two certain actions and one certain fault are in the plan.
TEST(Shrinking, LeavesWhatTheFailureNeedsAndNothingElse) {
  Plan plan = DrawPlan(7);
  while (plan.faults.empty() || plan.shape.nodes < 3) plan = DrawPlan(plan.seed + 1);
  const std::uint64_t one = plan.actions[3].seed;
  const std::uint64_t two = plan.actions[17].seed;
  const std::uint64_t three = plan.faults.back().seed;
  const auto has = [](const auto& list, std::uint64_t seed) {
    return std::any_of(list.begin(), list.end(), [seed](const auto& i) { return i.seed == seed; });
  };
  const auto run = [&](const Plan& candidate, bool) {
    SimOutcome outcome;
    if (has(candidate.actions, one) && has(candidate.actions, two) &&
        has(candidate.faults, three)) {
      outcome.violations.push_back({Rule::kLate, "as before"});
    } else if (candidate.actions.size() % 2 == 1) {
      outcome.violations.push_back({Rule::kWrongBytes, "another failure"});
    }
    return outcome;
  };
  const Shrunk shrunk = Shrink(plan, Rule::kLate, run);
  EXPECT_EQ(shrunk.plan.actions.size(), 2U);
  EXPECT_EQ(shrunk.plan.faults.size(), 1U);
  EXPECT_EQ(shrunk.plan.shape.nodes, 2U);
  EXPECT_EQ(shrunk.plan.shape.link.loss, 0);
  ASSERT_EQ(shrunk.outcome.violations.size(), 1U);
  EXPECT_EQ(shrunk.outcome.violations[0].rule, Rule::kLate);
  EXPECT_LT(shrunk.attempts, 500U);
}

TEST(Shrinking, EndsWhenItsAttemptsAreUsedUp) {
  std::size_t runs = 0;
  const auto run = [&runs](const Plan&, bool) {
    runs += 1;
    SimOutcome outcome;
    outcome.violations.push_back({Rule::kLate, "always"});
    return outcome;
  };
  EXPECT_EQ(Shrink(DrawPlan(1), Rule::kLate, run, 5).attempts, 5U);
  EXPECT_EQ(runs, 6U);  // and one for the history
}

TEST_F(EngineSimulation, ASeedIsTheWholeStory) {
  for (const std::uint64_t seed : {std::uint64_t{3}, std::uint64_t{4}, std::uint64_t{5}}) {
    const SimOutcome first = RunPlan(DrawPlan(seed), true);
    const SimOutcome second = RunPlan(DrawPlan(seed), false);
    EXPECT_EQ(first.digest, second.digest) << seed;
    EXPECT_FALSE(first.history.empty());
    EXPECT_NE(first.digest, RunPlan(DrawPlan(seed + 1000), false).digest);
    // And in another process, whose addresses are other ones.
    const std::filesystem::path program =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "../bin/mooncake_sim";
    FILE* const other = ::popen(fmt::format("{} --seed {}", program.string(), seed).c_str(), "r");
    ASSERT_NE(other, nullptr);
    std::string text;
    std::array<char, 4096> block{};
    while (const std::size_t count = std::fread(block.data(), 1, block.size(), other))
      text.append(block.data(), count);
    EXPECT_EQ(::pclose(other), 0) << text;
    EXPECT_NE(text.find(fmt::format("digest {:016x}", first.digest)), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace mooncake
