#include "plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace mooncake {
namespace {

using namespace std::chrono_literals;

void DrawTransports(Shape& shape, SimRandom& random) {
  shape.fake = random.Chance(0.66);
  shape.tcp = !shape.fake || random.Chance(0.5);
  shape.tcp_options.lanes = random.Between(std::uint64_t{1}, std::uint64_t{3});
  shape.tcp_options.frames_in_flight = random.Between(std::uint64_t{1}, std::uint64_t{8});
  shape.tcp_options.frame_bytes_max = random.Skewed(200, 200'000);
  FakeOptions& fake = shape.fake_options;
  fake.synchronous = random.Chance(0.3);
  fake.piece_bytes_max = random.Skewed(500, 100'000);
  fake.delay_max = random.Chance(0.3) ? Duration(0) : random.Skewed(Duration(1ns), Duration(3ms));
  fake.reorder = random.Chance(0.7);
  fake.repeats = random.Chance(0.5) ? 0.2 : 0;
  fake.failures = random.Chance(0.6) ? 0.002 : 0;
  fake.refusals = random.Chance(0.3) ? 0.3 : 0;
  fake.fixed_cost = random.Chance(0.5) ? 1us : 200us;
}

void DrawNetwork(Shape& shape, SimRandom& random) {
  shape.link.latency = random.Skewed(Duration(1us), Duration(20ms));
  shape.link.jitter = random.Chance(0.5) ? Duration(0) : shape.link.latency;
  shape.link.bytes_per_second = static_cast<double>(random.Skewed(300'000, 10'000'000'000));
  shape.link.loss = std::array{0.0, 0.0, 0.02, 0.08}[random.Below(4)];
  SimStreamOptions& streams = shape.streams;
  streams.segment_bytes_max = random.Skewed(500, 64 << 10);
  streams.send_buffer_bytes = random.Skewed(1'000, 256 << 10);
  streams.receive_buffer_bytes = random.Skewed(1'000, 256 << 10);
  streams.odd_reads = random.Chance(0.5) ? 0 : 0.3;
  streams.pauses = random.Chance(0.5) ? 0 : 0.3;
  streams.lag_max = random.Chance(0.6) ? Duration(0) : random.Skewed(Duration(1us), Duration(10ms));
  shape.clock_drift_ppm_max = std::array<std::uint64_t, 4>{0, 50, 500, 5000}[random.Below(4)];
}

void DrawEngine(Shape& shape, SimRandom& random) {
  EngineOptions& engine = shape.engine;
  engine.connect_timeout = random.Skewed(Duration(50ms), Duration(5s));
  engine.connect_timeout = std::max(  // two round trips and more
      engine.connect_timeout, 20 * (shape.link.latency + shape.streams.lag_max));
  engine.unregister_timeout = random.Skewed(Duration(10ms), Duration(5s));
  engine.rpc.ping_interval = random.Skewed(Duration(500ms), Duration(2s));
  engine.rpc.dead_after = random.Skewed(Duration(5s), Duration(60s));
  shape.port.rpc = engine.rpc;
  shape.port.handshake_timeout = random.Skewed(Duration(500ms), Duration(5s));
}

void DrawInstances(Plan& plan, SimRandom& random) {
  InstanceShape& instances = plan.instances;
  for (std::size_t node = 0; node < plan.shape.nodes; ++node) {
    constexpr std::array kRoles = {"prefill", "decode", "both"};
    // The first two can do everything together, so that fewer nodes are still a cluster.
    instances.roles.emplace_back(node < 2 ? kRoles[node] : kRoles[random.Below(kRoles.size())]);
  }
  instances.scale = std::array{0.0625, 0.25, 1.0}[random.Below(3)];
  instances.page_tokens = random.Skewed(1, 32);
  // Room for a few of the longest requests, or for many.
  const std::uint64_t longest = 170 / instances.page_tokens + 2;
  instances.kv_pages = longest + random.Skewed(0, 6 * longest);
  instances.queue_max = random.Skewed(2, 64);
  instances.running_max = random.Skewed(1, 16);
  instances.request_timeout = random.Skewed(Duration(2s), Duration(20s));
  instances.prefill_tokens_per_second = random.Chance(0.5) ? 0 : random.Skewed(100, 100'000);
  instances.decode_tokens_per_second = random.Chance(0.6) ? 0 : random.Skewed(50, 10'000);
}

FaultKind DrawKind(SimRandom& random, bool no_server) {
  constexpr std::array kKinds = {
      FaultKind::kCut,     FaultKind::kCut,   FaultKind::kPartition, FaultKind::kPairPartition,
      FaultKind::kStall,   FaultKind::kCrash, FaultKind::kStop,      FaultKind::kDirectoryCrash,
      FaultKind::kWallStep};
  const FaultKind kind = kKinds[random.Below(kKinds.size())];
  return no_server && kind == FaultKind::kDirectoryCrash ? FaultKind::kCrash : kind;
}

}  // namespace

std::string_view ToString(FaultKind kind) noexcept {
  constexpr std::array kNames = {"cut",   "partition", "pair partition",  "stall",
                                 "crash", "stop",      "directory crash", "wall step"};
  return kNames[static_cast<std::size_t>(kind)];
}

Plan DrawPlan(std::uint64_t seed) {
  constexpr double kInstances = 0.2;
  SimRandom random(StreamSeed(seed, "subject", 0));
  return DrawPlan(seed, random.Chance(kInstances) ? Subject::kInstances : Subject::kEngines);
}

Plan DrawPlan(std::uint64_t seed, Subject subject) {
  SimRandom random(StreamSeed(seed, "plan", 0));
  Plan plan;
  plan.seed = seed;
  plan.subject = subject;
  Shape& shape = plan.shape;
  shape.nodes = shape.nodes_drawn = random.Between(std::uint64_t{2}, std::uint64_t{6});
  shape.share_hosts = random.Chance(0.3);
  shape.p2p = random.Chance(0.4) && subject == Subject::kEngines;
  if (subject == Subject::kInstances)
    shape.own_directory = SimRandom(StreamSeed(seed, "own directory", 0)).Chance(0.2);
  DrawTransports(shape, random);
  DrawNetwork(shape, random);
  DrawEngine(shape, random);
  shape.memory_bytes = random.Skewed(6'000, 500'000);

  const std::uint64_t actions = random.Between(std::uint64_t{20}, std::uint64_t{120});
  const std::uint64_t faults =
      random.Chance(0.2) ? 0 : random.Between(std::uint64_t{1}, std::uint64_t{12});
  const Duration gap_min = subject == Subject::kEngines ? Duration(20us) : Duration(1ms);
  const Duration action_gap = random.Skewed(gap_min, Duration(100ms));
  const Duration fault_gap = action_gap * static_cast<std::int64_t>(1 + actions / (1 + faults)) * 2;
  Duration at{};
  for (std::uint64_t i = 0; i < actions; ++i) {
    at += random.About(action_gap);
    plan.actions.push_back({at, StreamSeed(seed, "action", i)});
  }
  at = {};
  for (std::uint64_t i = 0; i < faults; ++i) {
    at += random.About(fault_gap);
    plan.faults.push_back(
        {at, DrawKind(random, shape.p2p || shape.own_directory), StreamSeed(seed, "fault", i)});
  }
  if (subject == Subject::kInstances) DrawInstances(plan, random);
  return plan;
}

Plan CrashPlan(Subject subject, bool tcp) {
  Plan plan;
  plan.seed = 1;
  plan.subject = subject;
  if (subject == Subject::kInstances) plan.instances.roles = {"prefill", "decode"};
  Shape& shape = plan.shape;
  shape.tcp = tcp;
  shape.fake = !tcp;
  shape.tcp_options.lanes = 1;
  shape.tcp_options.frame_bytes_max = 4000;
  shape.fake_options.piece_bytes_max = 2000;
  shape.fake_options.delay_max = 300us;
  shape.engine.connect_timeout = 1s;
  shape.engine.rpc.dead_after = 5s;
  shape.port.rpc = shape.engine.rpc;
  shape.memory_bytes = 30'000;
  shape.link.latency = 200us;
  for (std::uint64_t i = 0; i < 16; ++i)
    plan.actions.push_back({2ms * static_cast<std::int64_t>(1 + i), StreamSeed(1, "action", i)});
  plan.faults.push_back({36ms, FaultKind::kStop, StreamSeed(1, "fault", 0)});
  return plan;
}

std::string Describe(const Plan& plan) {
  const Shape& shape = plan.shape;
  std::string text = fmt::format(
      "{} {}, {}{}{}, {}, {} actions, {} faults, latency {} us", shape.nodes,
      plan.subject == Subject::kEngines ? "engines" : "instances", shape.tcp ? "tcp" : "",
      shape.tcp && shape.fake ? "+" : "", shape.fake ? "fake" : "",
      shape.p2p             ? "P2PHANDSHAKE"
      : shape.own_directory ? "their host's directory"
                            : "mooncake://",
      plan.actions.size(), plan.faults.size(), shape.link.latency.count() / 1000);
  if (shape.link.loss > 0) text += ", loss";
  if (shape.link.jitter > Duration(0)) text += ", jitter";
  if (shape.streams.lag_max > Duration(0)) text += ", lag";
  if (shape.clock_drift_ppm_max > 0)
    text += fmt::format(", clocks {} ppm apart", shape.clock_drift_ppm_max);
  if (plan.crash_point) {
    text += fmt::format(", {} killed after its event {}",
                        plan.crash_point->victim < shape.nodes
                            ? fmt::format("node {}", plan.crash_point->victim)
                            : "the directory",
                        plan.crash_point->event);
  }
  return text;
}

}  // namespace mooncake
