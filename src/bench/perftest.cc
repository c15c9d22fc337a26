#include "bench/perftest.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "base/await.h"
#include "base/child_process.h"
#include "topology/topology.h"

namespace mooncake {
namespace {

constexpr std::uint64_t kBytes = 64 << 20;  // of one measurement of bandwidth
constexpr std::uint64_t kIterationsMin = 16;
constexpr std::uint64_t kIterationsMax = 5000;
constexpr std::uint64_t kPings = 5000;
constexpr Duration kTimeout = std::chrono::seconds(60);

// Its output to the end.
std::string ReadAll(ChildProcess& process) {
  std::string output;
  while (const Result<std::string> line = process.ReadLine(kTimeout)) output += *line + "\n";
  return output;
}

std::optional<int> FindGid(const std::string& device) {
  for (const RdmaDevice& one : ReadTopology().devices) {
    if (one.name != device || one.ports.empty()) continue;
    const std::vector<RdmaGid>& gids = one.ports.front().gids;
    for (const RdmaGid& gid : gids) {
      if (gid.type == "RoCE v2" && !gid.address.starts_with("fe80")) return gid.index;
    }
    if (!gids.empty()) return gids.front().index;
  }
  return std::nullopt;
}

}  // namespace

std::optional<double> ParsePerftest(std::string_view output, BenchMetric metric) {
  constexpr double kBitsPerByte = 8;
  std::optional<double> found;
  std::istringstream lines{std::string(output)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    double bytes = 0;
    double iterations = 0;
    double first = 0;   // peak, or the least time
    double second = 0;  // average, or the longest time
    if (!(words >> bytes >> iterations >> first >> second)) continue;
    if (metric == BenchMetric::kThroughput) found = second / kBitsPerByte;
    if (double typical = 0; metric == BenchMetric::kLatency && words >> typical) found = typical;
  }
  return found;
}

Result<PerftestLimit> PerftestLimit::Open(World& world, std::string device) {
  const std::optional<int> gid = FindGid(device);
  if (!gid) return Fail(ErrorId::kNotFound, fmt::format("an address of {}", device));
  return PerftestLimit(world, std::move(device), *gid);
}

Result<std::string> PerftestLimit::Run(const std::string& program,
                                       std::vector<std::string> arguments) const {
  // It takes no port 0; ours is as likely as any to be free.
  constexpr std::uint64_t kPortFirst = 20000;
  constexpr std::uint64_t kPorts = 10000;
  arguments.insert(arguments.end(),
                   {"-p", std::to_string(kPortFirst + world_->random.Below(kPorts))});
  MC_TRY(const std::unique_ptr<ChildProcess> server, ChildProcess::Start(program, arguments));
  arguments.emplace_back("127.0.0.1");
  std::string output;
  constexpr int kAttempts = 20;  // until the server listens
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Await(world_->control, world_->clock.SleepFor(world_->control, std::chrono::milliseconds(250)));
    MC_TRY(const std::unique_ptr<ChildProcess> client, ChildProcess::Start(program, arguments));
    output = ReadAll(*client);
    if (output.find("Couldn't connect") == std::string::npos) break;
  }
  return output;
}

Result<PerftestFigure> PerftestLimit::Measure(BenchMetric metric, Direction direction,
                                              std::uint64_t range_bytes) const {
  const bool latency = metric == BenchMetric::kLatency;
  const std::string program = fmt::format(
      "ib_{}_{}", direction == Direction::kWrite ? "write" : "read", latency ? "lat" : "bw");
  const std::uint64_t iterations =
      latency ? kPings : std::clamp(kBytes / range_bytes, kIterationsMin, kIterationsMax);
  std::vector<std::string> arguments = {"-d",
                                        device_,
                                        "-x",
                                        std::to_string(gid_),
                                        "-F",
                                        "-s",
                                        std::to_string(range_bytes),
                                        "-n",
                                        std::to_string(iterations)};
  if (!latency) arguments.emplace_back("--report_gbits");
  std::string output;
  constexpr int kRuns = 3;  // it says 0 when it has not found out the rate of the processor's clock
  for (int run = 0; run < kRuns; ++run) {
    MC_TRY(output, Run(program, arguments));
    const std::optional<double> figure = ParsePerftest(output, metric);
    if (!figure) break;
    if (*figure <= 0) continue;
    // ib_write_lat halves its round trip. A write that has been acknowledged has made a whole one.
    const double trips = latency && direction == Direction::kWrite ? 2 : 1;
    const double value = trips * *figure;
    const double nanoseconds =
        static_cast<double>(iterations) *
        (latency ? 1e3 * value : static_cast<double>(range_bytes) / value);  // GB/s: bytes in one
    return PerftestFigure{value, Duration(static_cast<std::int64_t>(nanoseconds))};
  }
  return Fail(ErrorId::kInternal, fmt::format("{} says: {}", program, output));
}

}  // namespace mooncake
