#include "engine_sim.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "base/log.h"

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
    const SimOutcome outcome = RunEngineSim(seed, false);
    for (const std::string& violation : outcome.violations) {
      ADD_FAILURE() << "seed " << seed << ": " << violation << "; replay with ./run sim --seed "
                    << seed;
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

TEST_F(EngineSimulation, ASeedIsTheWholeStory) {
  for (const std::uint64_t seed : {std::uint64_t{3}, std::uint64_t{4}, std::uint64_t{5}}) {
    const SimOutcome first = RunEngineSim(seed, true);
    const SimOutcome second = RunEngineSim(seed, false);
    EXPECT_EQ(first.digest, second.digest) << seed;
    EXPECT_FALSE(first.history.empty());
    EXPECT_NE(first.digest, RunEngineSim(seed + 1000, false).digest);
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
