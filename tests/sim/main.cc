// mooncake_sim: runs the simulation for many seeds, for one, or with a crash at every point; makes
// a failing run smaller.
#include <malloc.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <span>
#include <thread>

#include "base/log.h"
#include "base/real_world.h"
#include "run_plan.h"
#include "shrink.h"

namespace {

using namespace mooncake;

// What one process of a sweep has seen. Goes through a pipe as it is.
struct Tally {
  std::uint64_t runs = 0;
  std::uint64_t failed = 0;
  std::uint64_t first_failed = UINT64_MAX;
  std::uint64_t events = 0;
  std::uint64_t batches = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t faults = 0;
  double simulated = 0;

  void Add(std::uint64_t seed, const SimOutcome& outcome) {
    runs += 1;
    events += outcome.events;
    batches += outcome.batches;
    succeeded += outcome.succeeded;
    faults += outcome.faults;
    simulated += std::chrono::duration<double>(outcome.simulated).count();
    if (outcome.violations.empty()) return;
    failed += 1;
    first_failed = std::min(first_failed, seed);
  }
  void Add(const Tally& other) {
    runs += other.runs;
    failed += other.failed;
    first_failed = std::min(first_failed, other.first_failed);
    events += other.events;
    batches += other.batches;
    succeeded += other.succeeded;
    faults += other.faults;
    simulated += other.simulated;
  }
};

// The real world has threads, and must be gone when a sweep makes processes.
Instant RealNow() {
  RealWorld real;
  return real.world().clock.Now();
}

void PrintViolations(const SimOutcome& outcome) {
  for (const Violation& violation : outcome.violations)
    fmt::print("  ({}) {}\n", ToString(violation.rule), violation.text);
}

void PrintFailure(const Plan& plan, const SimOutcome& outcome) {
  fmt::print("seed {} ({}):\n", plan.seed, Describe(plan));
  PrintViolations(outcome);
  fmt::print("  replay with ./run sim --seed {}\n", plan.seed);
  std::fflush(stdout);
}

// Every `step`th of `seeds` seeds, the current one told to `running`. Stops at its first failure if
// `brief`.
Tally RunSeeds(std::uint64_t first, std::uint64_t seeds, std::uint64_t begin, std::uint64_t step,
               bool brief, std::uint64_t& running) {
  Tally tally;
  for (std::uint64_t i = begin; i < seeds; i += step) {
    running = first + i;
    const Plan plan = DrawPlan(first + i);
    const SimOutcome outcome = RunPlan(plan, false);
    tally.Add(first + i, outcome);
    if (outcome.violations.empty()) continue;
    PrintFailure(plan, outcome);
    if (brief) break;
  }
  return tally;
}

// One process for each core: a run owns its process's log.
Tally Sweep(std::uint64_t first, std::uint64_t seeds, std::uint64_t jobs, bool brief) {
  std::uint64_t alone = 0;
  if (jobs <= 1) return RunSeeds(first, seeds, 0, 1, brief, alone);
  // What a process that dies of an assertion was at, for its parent to read.
  void* const shared = ::mmap(nullptr, jobs * sizeof(std::uint64_t), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return Tally{.failed = 1};
  const std::span<std::uint64_t> running(static_cast<std::uint64_t*>(shared), jobs);
  std::vector<std::pair<pid_t, int>> children;
  for (std::uint64_t job = 0; job < jobs; ++job) {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) break;
    std::fflush(stdout);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(ends[0]);
      const Tally tally = RunSeeds(first, seeds, job, jobs, brief, running[job]);
      const bool told = ::write(ends[1], &tally, sizeof tally) == sizeof tally;
      std::fflush(stdout);
      ::_exit(told ? 0 : 1);
    }
    ::close(ends[1]);
    children.emplace_back(child, ends[0]);
  }
  Tally all;
  for (std::size_t job = 0; job < children.size(); ++job) {
    const auto& [child, end] = children[job];
    Tally tally;
    int status = 0;
    const bool told = ::read(end, &tally, sizeof tally) == sizeof tally;
    ::close(end);
    ::waitpid(child, &status, 0);
    if (!told || status != 0) {
      fmt::print(
          "seed {}:\n  ({}) its process ended with status {}\n  replay with ./run sim --seed {}\n",
          running[job], ToString(Rule::kCrashed), status, running[job]);
      tally = Tally{.failed = 1};
    }
    all.Add(tally);
  }
  ::munmap(shared, jobs * sizeof(std::uint64_t));
  return all;
}

void PrintShrunk(std::uint64_t seed) {
  const Plan plan = DrawPlan(seed);
  const SimOutcome outcome = RunPlan(plan, false);
  if (outcome.violations.empty()) {
    fmt::print("seed {} holds: there is nothing to make smaller\n", seed);
    return;
  }
  const Rule rule = outcome.violations.front().rule;
  fmt::print("seed {} breaks the rule \"{}\"; making it smaller\n", seed, ToString(rule));
  std::fflush(stdout);
  const Shrunk shrunk = Shrink(plan, rule, RunPlan);
  fmt::print("after {} runs, {} of {} actions and {} of {} faults are left:\n", shrunk.attempts,
             shrunk.plan.actions.size(), plan.actions.size(), shrunk.plan.faults.size(),
             plan.faults.size());
  fmt::print("{}", Listing(shrunk.plan));
  for (const std::string& line : shrunk.outcome.history) fmt::print("{}\n", line);
  PrintViolations(shrunk.outcome);
}

std::string CrashPlace(const Plan& plan) {
  return fmt::format("{}:{}:{}:{}", plan.subject == Subject::kEngines ? "engines" : "instances",
                     plan.shape.tcp ? "tcp" : "fake", plan.crash_point->victim,
                     plan.crash_point->event);
}

// Kills each process of a small run after its first event, its second, … until the run ends first.
Tally RunCrashPoints(std::uint64_t step) {
  Tally tally;
  for (const auto& [subject, tcp] : {std::pair{Subject::kEngines, true},
                                     {Subject::kEngines, false},
                                     {Subject::kInstances, true}}) {
    Plan plan = CrashPlan(subject, tcp);
    for (std::size_t victim = 0; victim <= plan.shape.nodes; ++victim) {
      std::uint64_t event = 1;
      for (;; event += step) {
        plan.crash_point = CrashPoint{victim, event};
        const SimOutcome outcome = RunPlan(plan, false);
        tally.Add(event, outcome);
        if (!outcome.violations.empty()) {
          fmt::print("{}:\n", Describe(plan));
          PrintViolations(outcome);
          fmt::print("  replay with ./run sim --crash-at {}\n", CrashPlace(plan));
        }
        if (!outcome.crash_point_reached) break;
      }
      fmt::print("{}: each of {} events was the last one once\n", Describe(plan), event - 1);
      std::fflush(stdout);
    }
  }
  return tally;
}

int RunCrashAt(const std::string& place) {
  for (const Subject subject : {Subject::kEngines, Subject::kInstances}) {
    for (const bool tcp : {true, false}) {
      Plan plan = CrashPlan(subject, tcp);
      plan.crash_point = CrashPoint{};
      const std::string prefix = CrashPlace(plan).substr(0, CrashPlace(plan).size() - 3);
      if (!place.starts_with(prefix) ||
          std::sscanf(place.c_str() + prefix.size(), "%zu:%lu", &plan.crash_point->victim,
                      &plan.crash_point->event) != 2)
        continue;
      const SimOutcome outcome = RunPlan(plan, true);
      for (const std::string& line : outcome.history) fmt::print("{}\n", line);
      PrintViolations(outcome);
      return outcome.violations.empty() ? 0 : 1;
    }
  }
  fmt::print(stderr, "--crash-at: \"{}\" is not engines|instances:tcp|fake:VICTIM:EVENT\n", place);
  return 2;
}

int RunOne(std::uint64_t seed, bool verbose) {
  const Plan plan = DrawPlan(seed);
  const SimOutcome outcome = RunPlan(plan, verbose);
  for (const std::string& line : outcome.history) fmt::print("{}\n", line);
  fmt::print("seed {}: {}; {} events, digest {:016x}\n", seed, Describe(plan), outcome.events,
             outcome.digest);
  if (outcome.violations.empty()) return 0;
  PrintFailure(plan, outcome);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Runs simulated clusters of engines, and of whole instances, under drawn load and faults, "
      "and checks what they did.\n"
      "Examples: mooncake_sim --seeds 1000; mooncake_sim --seed 42 -v; mooncake_sim --seed 42 "
      "--shrink;\n"
      "mooncake_sim --crash-points\n"
      "Exit codes: 0 all runs hold, 1 one does not, 2 usage."};
  std::uint64_t seeds = 200;
  std::uint64_t first = 1;
  std::uint64_t seed = 0;
  std::uint64_t jobs = std::thread::hardware_concurrency();
  std::uint64_t crash_step = 1;
  std::string crash_at;
  bool verbose = false;
  bool shrink = false;
  bool brief = false;
  bool points = false;
  std::string log = "off";
  app.add_option("--seeds", seeds, "How many seeds to run.")->capture_default_str();
  app.add_option("--first", first, "The first of them.")->capture_default_str();
  app.add_option("--jobs", jobs, "Processes that share the seeds.")->capture_default_str();
  app.add_flag("--brief", brief, "Ends at the first failure, which is not made smaller.");
  const CLI::Option* const one = app.add_option("--seed", seed, "Runs exactly this one.");
  app.add_flag("--shrink", shrink, "With --seed: makes a failing run smaller and prints it.");
  app.add_flag("--crash-points", points,
               "A small run again and again, one process killed after its 1st, 2nd, … event.");
  app.add_option("--crash-step", crash_step, "With --crash-points: only every Nth event.")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  const CLI::Option* const at = app.add_option(
      "--crash-at", crash_at, "One of them, with its history: engines:tcp:VICTIM:EVENT.");
  app.add_flag("-v,--verbose", verbose, "Prints the history; with --seed.");
  app.add_option("--log", log, "Log level of what runs inside: debug, info, warn, error, off.")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!SetLogLevel(log)) {
    fmt::print(stderr, "--log: \"{}\" is not one of debug, info, warn, error, off\n", log);
    return 2;
  }
  KeepWarnings();
  // Runs take and give back the same buffers over and over: keep them instead of asking the kernel
  // each time.
  ::mallopt(M_MMAP_THRESHOLD, 64 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 512 << 20);

  if (*at) return RunCrashAt(crash_at);
  if (*one && !shrink) return RunOne(seed, verbose);
  if (*one) {
    PrintShrunk(seed);
    return 0;
  }
  const Instant begin = RealNow();
  const Tally tally = points ? RunCrashPoints(crash_step) : Sweep(first, seeds, jobs, brief);
  const double took = std::chrono::duration<double>(RealNow() - begin).count();
  if (!points && !brief && tally.first_failed != UINT64_MAX) PrintShrunk(tally.first_failed);
  fmt::print(
      "{} runs, {} failed: {} events, {} batches ({} done), {} faults, {:.0f} simulated s in "
      "{:.1f} s ({:.0f} runs/s)\n",
      tally.runs, tally.failed, tally.events, tally.batches, tally.succeeded, tally.faults,
      tally.simulated, took, static_cast<double>(tally.runs) / took);
  return tally.failed == 0 ? 0 : 1;
}
