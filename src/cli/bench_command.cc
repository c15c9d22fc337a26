// mooncake bench transfer: how fast bytes move, beside what this machine can do.
#include <fmt/format.h>

#include <cstdio>
#include <future>

#include "base/child_process.h"
#include "base/log.h"
#include "bench/bench_peer.h"
#include "bench/transfer_bench.h"
#include "cli/command.h"
#include "transports/transports.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOptions[] = {
    {"rows", "", Unit::kText,
     "Only these rows, separated by commas: 64B,1MiB,1000x4KiB. Without a value: all."},
    {"transports", "", Unit::kText,
     "Only these, separated by commas: shm,ring,cma,tcp,rdma. Without a value: all."},
    {"device_name", "", Unit::kText,
     "RDMA devices: names, patterns (mlx5_*), exclusions (^mlx5_2). Without a value: all that can "
     "be "
     "used."},
    {"seconds", "1", Unit::kNumber,
     "Of each row, transport and direction, half of it for the limit; beside ib_write_bw at least "
     "as long as that takes."},
    {"json", "", Unit::kText, "Write the results to this file too, as JSON."},
    {"tiny", "false", Unit::kFlag,
     "Little memory, short calls, once: whether it works, not how fast."},
    {"peer", "", Unit::kText,
     "host:port of a --listen on another host. Without a value: a process of its own on this one."},
    {"listen", "", Unit::kText,
     "Be the peer of a benchmark that runs elsewhere: address:port to listen on; port 0 is any "
     "free one."},
    {"until_eof", "false", Unit::kFlag,
     "With --listen: end when standard input does, not by a signal."},
};

constexpr std::string_view kReady = "bench peer at ";
constexpr Duration kPeerTimeout = std::chrono::seconds(30);

Status Listen(CommandInput& input) {
  World& world = input.real.world();
  const auto stop = std::make_shared<std::promise<void>>();
  input.real.OnStopSignal([stop, told = std::make_shared<bool>(false)] {
    if (!std::exchange(*told, true)) stop->set_value();
  });
  MC_TRY(const Endpoint at, ParseListenAddress(input.options.Text("listen")));
  const std::uint64_t area_bytes =
      input.options.Flag("tiny") ? kBenchAreaBytesTiny : kBenchAreaBytes;
  MC_TRY(TransportPlan plan, PlanTransports({.device_name = input.options.Text("device_name")}));
  MC_TRY(const std::unique_ptr<BenchPeer> peer,
         BenchPeer::Open(world, MakeTransports(std::move(plan)), CopyEngine::Measure(world.clock),
                         at, area_bytes));
  fmt::print("{}{}\n", kReady, ToString(peer->endpoint()));
  std::fflush(stdout);
  if (input.options.Flag("until_eof")) {
    AwaitEndOfInput();
  } else {
    stop->get_future().wait();
  }
  return {};
}

struct StartedPeer {
  std::unique_ptr<ChildProcess> process;
  std::string address;
};

Result<StartedPeer> StartPeer(bool tiny, const std::string& device_name) {
  std::vector<std::string> arguments = {"bench", "transfer", "--listen", "127.0.0.1:0",
                                        "--until-eof"};
  if (tiny) arguments.emplace_back("--tiny");
  if (!device_name.empty()) arguments.insert(arguments.end(), {"--device-name", device_name});
  StartedPeer peer;
  MC_TRY(peer.process, ChildProcess::StartSelf(arguments));
  MC_TRY(const std::string line, peer.process->ReadLine(kPeerTimeout));
  if (!line.starts_with(kReady)) return Fail(ErrorId::kInternal, "the peer says \"" + line + "\"");
  peer.address = line.substr(kReady.size());
  return peer;
}

Result<bool> Bench(CommandInput& input) {
  const Options& options = input.options;
  World& world = input.real.world();
  TransferBenchOptions bench;
  MC_TRY(bench.rows, SelectRows(options.Text("rows")));
  MC_TRY(bench.transports, SelectTransports(options.Text("transports")));
  bench.duration = std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(options.Number("seconds")));
  const bool tiny = options.Flag("tiny");
  if (tiny) {
    bench.duration = std::chrono::milliseconds(20);
    bench.rounds = 1;
    bench.call_bytes_max = 1 << 20;
    bench.idle_duration = std::chrono::milliseconds(100);
  }
  StartedPeer own;
  bench.peer = options.Text("peer");
  if (bench.peer.empty()) {
    MC_TRY(own, StartPeer(tiny, options.Text("device_name")));
    bench.peer = own.address;
  }
  fmt::print("{}", BenchHeading());
  bench.on_entry = [](const BenchEntry& entry) {
    fmt::print("{}", BenchLine(entry));
    std::fflush(stdout);
  };
  bench.on_skipped = [](const std::string& why) { fmt::print("not measured: {}\n", why); };
  TransportChoice choice{.device_name = options.Text("device_name")};
  for (const BenchTransport transport : bench.transports)
    choice.transports.emplace_back(ToString(transport));
  MC_TRY(TransportPlan plan, PlanTransports(choice));
  if (!plan.rdma_devices.empty()) bench.verbs_device = plan.rdma_devices.front();
  bench.why_no_rdma = plan.why_no_rdma;
  MC_TRY(const std::vector<BenchEntry> entries,
         RunTransferBench(world, MakeTransports(std::move(plan)), CopyEngine::Measure(world.clock),
                          bench));
  fmt::print("{}", BenchSummary(entries));
  if (options.IsSet("json"))
    MC_TRY_STATUS(world.files.Write(options.Text("json"), BenchJson(entries)));
  return std::all_of(entries.begin(), entries.end(),
                     [](const BenchEntry& entry) { return entry.verified; });
}

int RunBench(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  SetLogLevel(LogLevel::kWarn);
  if (input.options.IsSet("listen")) {
    const Status served = Listen(input);
    return served ? kExitOk : Report(served.error());
  }
  const Result<bool> verified = Bench(input);
  if (!verified) return Report(verified.error());
  return *verified ? kExitOk : kExitFailed;
}

}  // namespace

const Command kBenchTransferCommand = {
    "bench transfer",
    "Measures how fast bytes move, beside the limits of this machine",
    "bench transfer [--rows LIST] [--transports LIST] [--json FILE] [flags]",
    "Starts a second process and moves bytes between both, over each transport, in both "
    "directions; every call waits until\n"
    "they are in place. Each row alternates with bare code that does the same and nothing else (a "
    "copy into a mapping,\n"
    "process_vm_writev, a plain TCP stream or ping-pong, ib_write_bw): \"of limit\" is the ratio, "
    "\"goal\" what it should be.\n"
    "Calls go through all of the memory in turn. Beside ib_write_bw they stay at one place and are "
    "on their way together, as\n"
    "its are, and p50 is from the end of one to that of the next. Processor time is that of both "
    "processes. Afterwards every byte\n"
    "of the target is checked.\n\n"
    "Example: mooncake bench transfer --rows 64B,1MiB --transports shm,tcp\n"
    "Between two hosts: mooncake bench transfer --listen 192.168.0.137:15000   there, and here\n"
    "                   mooncake bench transfer --peer 192.168.0.137:15000\n"
    "Fails if a target held wrong bytes; a goal that is not reached is only shown.\n",
    kOptions,
    &RunBench,
};

}  // namespace mooncake
