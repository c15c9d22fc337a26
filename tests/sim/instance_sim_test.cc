// Whole instances in the simulator, and stories that it told first.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/log.h"
#include "base/test_support.h"
#include "directory/p2p/p2p_directory.h"
#include "instance/core.h"
#include "run_plan.h"
#include "sim/sim_world.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

class InstanceSimulation : public testing::Test {
 protected:
  void SetUp() override { SetLogLevel(LogLevel::kWarn); }
  void TearDown() override { SetLogLevel(LogLevel::kInfo); }
  static void ExpectHolds(const Plan& plan, const SimOutcome& outcome) {
    for (const Violation& violation : outcome.violations)
      ADD_FAILURE() << "seed " << plan.seed << " (" << Describe(plan) << "): " << violation.text;
  }
};

TEST_F(InstanceSimulation, TenSeedsHold) {
  constexpr std::uint64_t kSeeds = 10;
  std::uint64_t right = 0;
  std::uint64_t faults = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const Plan plan = DrawPlan(seed, Subject::kInstances);
    const SimOutcome outcome = RunPlan(plan, false);
    ExpectHolds(plan, outcome);
    right += outcome.succeeded;
    faults += outcome.faults;
  }
  EXPECT_GT(right, 20 * kSeeds);
  EXPECT_GT(faults, kSeeds);
}

TEST_F(InstanceSimulation, ASeedIsTheWholeStory) {
  for (const std::uint64_t seed : {std::uint64_t{1}, std::uint64_t{2}}) {
    const Plan plan = DrawPlan(seed, Subject::kInstances);
    EXPECT_EQ(RunPlan(plan, true).digest, RunPlan(plan, false).digest) << seed;
  }
}

TEST_F(InstanceSimulation, WhateverEventIsTheLastOfAProcessTheRunHolds) {
  constexpr std::uint64_t kStep = 211;  // mooncake_sim --crash-points tries every event
  Plan plan = CrashPlan(Subject::kInstances, true);
  for (std::size_t victim = 0; victim <= plan.shape.nodes; ++victim) {
    for (std::uint64_t event = 1;; event += kStep) {
      plan.crash_point = CrashPoint{victim, event};
      const SimOutcome outcome = RunPlan(plan, false);
      ExpectHolds(plan, outcome);
      if (!outcome.crash_point_reached) break;
    }
  }
}

// Seed 299: requests waited for their turn behind others long after their own time had passed.
TEST_F(InstanceSimulation, WhoWaitsForItsTurnGoesWhenItsTimeHasPassed) {
  SimWorld sim(1);
  SimProcess& process = sim.Start(sim.AddHost());
  World& world = process.world();
  Turnstile turnstile(world, 1, 3);
  std::vector<std::string> story;
  const auto enter = [&](std::string name, Duration patience) {
    Spawn(world.control,
          [](Turnstile& at, World& w, std::vector<std::string>& told, std::string who,
             Duration how_long) -> Task<void> {
            const Status entered = co_await at.Enter(After(w.clock.Now(), how_long));
            told.push_back(who + (entered ? " enters" : " gets " + ErrorName(entered.error().id)));
          }(turnstile, world, story, std::move(name), patience));
  };
  enter("first", 1s);
  enter("hurried", 2s);
  enter("patient", 1h);
  enter("fourth", 1h);
  sim.RunFor(1s);
  EXPECT_THAT(story, testing::ElementsAre("first enters", "fourth gets E502"));
  sim.RunFor(2s);
  EXPECT_EQ(story.back(), "hurried gets E108");
  EXPECT_EQ(turnstile.waiting(), 1U);
  turnstile.Leave();
  sim.RunFor(1s);
  EXPECT_EQ(story.back(), "patient enters");
  turnstile.Leave();
  EXPECT_EQ(turnstile.inside(), 0U);
}

// Seed 792: an instance that stopped read its pages once more, after its engine had freed them.
TEST_F(InstanceSimulation, AllocatedMemoryStaysUntilTheEngineIsDestroyed) {
  SimWorld sim(1);
  SimProcess& process = sim.Start(sim.AddHost());
  World& world = process.world();
  Metrics metrics;
  const std::unique_ptr<Directory> directory = MakeP2pDirectory(world);
  auto port = std::make_shared<PortServer>(world, metrics, PortServerOptions{});
  auto engine = std::make_unique<Engine>(
      world, metrics, port, *directory,
      Identity{world.random.DrawInstanceId(), 1, "engine", world.network.host(), "test"},
      EngineOptions{});
  engine->Start();
  const Result<RegionInfo> region = engine->Allocate("pages", 10'000);
  ASSERT_TRUE(Succeeds(region));
  ASSERT_TRUE(sim.Run(process, engine->CloseAsync(), After(sim.Now(), 1min)));
  std::memset(reinterpret_cast<void*>(region->base), 1, region->length_bytes);
  port->Close(Error{ErrorId::kClosed, "the test ends"});
  engine = nullptr;
}

}  // namespace
}  // namespace mooncake
