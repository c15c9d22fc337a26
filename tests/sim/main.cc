// mooncake_sim: runs the engine simulation for many seeds, or for one.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/log.h"
#include "base/real_world.h"
#include "engine_sim.h"

int main(int argc, char** argv) {
  CLI::App app{
      "Runs simulated clusters of engines under drawn load and faults, and checks what they did.\n"
      "Example: mooncake_sim --seeds 1000; mooncake_sim --seed 42 -v\n"
      "Exit codes: 0 all seeds hold, 1 one does not, 2 usage."};
  std::uint64_t seeds = 200;
  std::uint64_t first = 1;
  std::uint64_t seed = 0;
  bool verbose = false;
  std::string log = "off";
  app.add_option("--seeds", seeds, "How many seeds to run.")->capture_default_str();
  app.add_option("--first", first, "The first of them.")->capture_default_str();
  const CLI::Option* const one = app.add_option("--seed", seed, "Runs exactly this one.");
  app.add_flag("-v,--verbose", verbose, "Prints the history; with --seed.");
  app.add_option("--log", log, "Log level of what runs inside: debug, info, warn, error, off.")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!mooncake::SetLogLevel(log)) {
    fmt::print(stderr, "--log: \"{}\" is not one of debug, info, warn, error, off\n", log);
    return 2;
  }
  mooncake::KeepWarnings();
  // Runs take and give back the same buffers over and over: keep them instead of asking the kernel
  // each time.
  ::mallopt(M_MMAP_THRESHOLD, 64 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 512 << 20);

  if (*one) {
    first = seed;
    seeds = 1;
  }
  mooncake::RealWorld real;
  mooncake::Clock& clock = real.world().clock;
  const mooncake::Instant begin = clock.Now();
  std::uint64_t failed = 0;
  std::uint64_t events = 0;
  std::uint64_t batches = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t faults = 0;
  double simulated = 0;
  for (std::uint64_t i = 0; i < seeds; ++i) {
    const mooncake::SimOutcome outcome = mooncake::RunEngineSim(first + i, verbose);
    events += outcome.events;
    batches += outcome.batches;
    succeeded += outcome.succeeded;
    faults += outcome.faults;
    simulated += std::chrono::duration<double>(outcome.simulated).count();
    for (const std::string& line : outcome.history) fmt::print("{}\n", line);
    if (*one)
      fmt::print("seed {}: {}; {} events, digest {:016x}\n", outcome.seed, outcome.shape,
                 outcome.events, outcome.digest);
    if (outcome.violations.empty()) continue;
    failed += 1;
    fmt::print("seed {} ({}):\n", outcome.seed, outcome.shape);
    for (const std::string& violation : outcome.violations) fmt::print("  {}\n", violation);
    fmt::print("  replay with ./run sim --seed {}\n", outcome.seed);
    std::fflush(stdout);
  }
  const double took = std::chrono::duration<double>(clock.Now() - begin).count();
  fmt::print(
      "{} seeds, {} failed: {} events, {} batches ({} done), {} faults, {:.0f} simulated s in "
      "{:.1f} s ({:.0f} seeds/s)\n",
      seeds, failed, events, batches, succeeded, faults, simulated, took,
      static_cast<double>(seeds) / took);
  return failed == 0 ? 0 : 1;
}
