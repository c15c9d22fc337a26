// mooncake instance: one prefill or decode instance, until it is told to stop.
#include <fmt/format.h>

#include <future>

#include "base/log.h"
#include "cli/command.h"
#include "instance/instance.h"
#include "instance/options.h"
#include "memory/copy.h"
#include "transports/transports.h"

namespace mooncake {
namespace {

int RunInstance(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  SetLogLevel(input.options.Text("log_level"));
  World& world = input.real.world();
  const auto stop = std::make_shared<std::promise<void>>();
  input.real.OnStopSignal([stop, told = std::make_shared<bool>(false)] {
    if (!std::exchange(*told, true)) stop->set_value();
  });
  const CopyEngine copy = CopyEngine::Measure(world.clock);
  Result<TransportPlan> plan = PlanTransports({.protocol = input.options.Text("protocol"),
                                               .device_name = input.options.Text("device_name"),
                                               .transports = input.options.List("transports"),
                                               .encrypted = input.options.IsSet("tls_ca")});
  if (!plan) return Report(plan.error());
  Result<std::unique_ptr<Instance>> instance =
      Instance::Open(world, input.options, copy, MakeTransports(std::move(*plan)));
  if (!instance) return Report(instance.error());
  Endpoint at = (*instance)->endpoint();
  if (at.address.is_unspecified())
    at.address = IpAddress::LoopbackV4();  // it listens everywhere; a person needs an address
  fmt::print("{} is ready at {}://{}\n", (*instance)->label(),
             (*instance)->encrypted() ? "https" : "http", ToString(at));
  std::fflush(stdout);
  stop->get_future().wait();
  MC_LOG(info, "draining");
  (*instance)->Drain(input.options.Duration("drain_timeout"));
  return kExitOk;
}

}  // namespace

const Command kInstanceCommand = {
    "instance",
    "Runs one prefill or decode instance",
    "instance [--config FILE] [--role prefill|decode|both] [flags]",
    "It serves the OpenAI completions API (POST /v1/completions), finds its partners in the "
    "directory and moves the KV\n"
    "cache between them over the best path there is. GET / on its port is a live view of the "
    "cluster.\n\n"
    "Example: mooncake instance --role prefill   and in another terminal   mooncake instance "
    "--role decode\n"
    "Ends with SIGTERM or SIGINT, after the requests it has.\n",
    InstanceOptions(),
    &RunInstance,
};

}  // namespace mooncake
