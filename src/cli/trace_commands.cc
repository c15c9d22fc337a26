// mooncake trace generate and mooncake trace inspect.
#include <fmt/format.h>

#include <cstdio>

#include "cli/command.h"
#include "trace/generate_trace.h"
#include "trace/inspect_trace.h"

namespace mooncake {
namespace {

constexpr OptionSpec kGenerateOptions[] = {
    {"out", "", Unit::kText, "The file to write; without a value, standard output."},
    {"requests", "1000", Unit::kCount, "Requests in all."},
    {"seed", "1", Unit::kCount, "Equal seeds give equal traces."},
    {"rate", "1", Unit::kNumber, "Requests per second on average."},
    {"conversations", "", Unit::kCount,
     "Conversations that share the requests: later turns repeat the prompts of earlier ones. "
     "Without a value, 200, or one for each request where those are fewer."},
    {"system_blocks", "2", Unit::kCount,
     "Blocks of 512 tokens at the start of every prompt, the same for all."},
    {"mean_input", "4096", Unit::kCount, "Tokens of a prompt on average."},
    {"mean_output", "256", Unit::kCount, "Tokens of an answer on average."},
};

int RunGenerate(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  const Options& o = input.options;
  const auto count = [&o](const char* name) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(o.Count(name), UINT32_MAX));
  };
  const std::uint32_t conversations =
      o.IsSet("conversations") ? count("conversations")
                               : std::min(TraceOptions{}.conversations, count("requests"));
  const Result<Trace> trace = GenerateTrace({.requests = count("requests"),
                                             .seed = o.Count("seed"),
                                             .requests_per_second = o.Number("rate"),
                                             .conversations = conversations,
                                             .system_blocks = count("system_blocks"),
                                             .mean_input_tokens = count("mean_input"),
                                             .mean_output_tokens = count("mean_output")});
  if (!trace) return Report(trace.error());
  const std::string text = FormatTrace(*trace);
  if (!o.IsSet("out")) {
    fmt::print("{}", text);
    return kExitOk;
  }
  const Status written = input.real.world().files.Write(o.Text("out"), text);
  return written ? kExitOk : Report(written.error());
}

int RunInspect(CommandInput& input) {
  if (input.words.size() != 1) return Report({ErrorId::kUsage, "one trace file is needed"});
  constexpr std::uint64_t kTraceBytesMax = std::uint64_t{4} << 30;
  const Result<std::string> text = input.real.world().files.Read(input.words[0], kTraceBytesMax);
  if (!text) return Report(text.error());
  const Result<Trace> trace = ParseTrace(*text, input.words[0]);
  if (!trace) return Report(trace.error());
  fmt::print("{}", StatisticsText(InspectTrace(*trace)));
  return kExitOk;
}

}  // namespace

const Command kTraceGenerateCommand = {
    "trace generate",
    "Makes a trace of conversations",
    "trace generate [--out FILE] [flags]",
    "Example: mooncake trace generate --requests 200 --out small.jsonl\n",
    kGenerateOptions,
    &RunGenerate};
const Command kTraceInspectCommand = {
    "trace inspect",
    "Tells what a trace contains",
    "trace inspect FILE",
    "Lengths, rates, and the share of prompt tokens that a prefix cache could save.\n",
    {},
    &RunInspect};

}  // namespace mooncake
