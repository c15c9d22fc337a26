// mooncake replay: sends a trace to running instances and reports.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/units.h"
#include "cli/command.h"
#include "replay/replay.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOptions[] = {
    {"trace", "", Unit::kText, "The trace: one JSON object a line with timestamp, input_length, output_length, hash_ids."},
    {"to", "", Unit::kText, "Instances to send to, in turn: http://host:port, separated by commas."},
    {"speed", "1", Unit::kNumber, "Of the trace's own time: 10 is ten times as fast; 0 sends as fast as --concurrency allows."},
    {"limit", "", Unit::kCount, "Only the first so many requests."},
    {"concurrency", "64", Unit::kCount, "Requests on their way at once."},
    {"timeout", "60s", Unit::kDuration, "Of one request."},
    {"verify", "false", Unit::kFlag, "Compare every answer with that of one undivided computation."},
    {"json", "", Unit::kText, "Write the report to this file too, as JSON."},
};

constexpr std::uint64_t kTraceBytesMax = std::uint64_t{4} << 30;

void ShowProgress(const ReplayReport& report, std::size_t total, Duration elapsed, bool terminal) {
  constexpr std::size_t kBarWidth = 30;
  const std::size_t filled = total == 0 ? kBarWidth : kBarWidth * report.finished() / total;
  const double seconds = std::max(1e-3, std::chrono::duration<double>(elapsed).count());
  const std::string line =
      fmt::format("[{}{}] {}/{}  {:.1f} requests/s  first token p50 {:.1f} ms  {} moved  {} failed", std::string(filled, '#'),
                  std::string(kBarWidth - filled, '.'), report.finished(), total, static_cast<double>(report.finished()) / seconds,
                  report.first_token_ms(0.5), FormatBytes(report.moved_bytes()), report.failed());
  fmt::print(stderr, "{}{}{}", terminal ? "\r" : "", line, terminal ? "\x1b[K" : "\n");
}

int RunReplay(CommandInput& input) {
  if (!input.words.empty()) return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  for (const char* needed : {"trace", "to"}) {
    if (!input.options.IsSet(needed)) return Report({ErrorId::kUsage, fmt::format("--{} is needed", needed)});
  }
  World& world = input.real.world();
  const std::string& file = input.options.Text("trace");
  const Result<std::string> text = world.files.Read(file, kTraceBytesMax);
  if (!text) return Report(text.error());
  const std::size_t limit = input.options.IsSet("limit") ? input.options.Count("limit") : SIZE_MAX;
  const Result<Trace> trace = ParseTrace(*text, file, limit);
  if (!trace) return Report(trace.error());

  ReplayOptions options;
  std::string_view rest = input.options.Text("to");
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    Result<HttpUrl> url = ParseHttpUrl(rest.substr(0, comma));
    if (!url) return Report(Within("--to", url.error()));
    options.targets.push_back(std::move(*url));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  options.speed = input.options.Number("speed");
  options.concurrency = std::max<std::uint64_t>(1, input.options.Count("concurrency"));
  options.verify = input.options.Flag("verify");
  options.timeout = input.options.Duration("timeout");
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  constexpr Duration kLineInterval = std::chrono::seconds(5);  // without a terminal: a line now and then
  Duration next{};
  options.progress = [&](const ReplayReport& report, Duration elapsed) {
    if (!terminal && elapsed < next && report.finished() < trace->size()) return;
    next = elapsed + kLineInterval;
    ShowProgress(report, trace->size(), elapsed, terminal);
  };
  const Result<ReplayResult> result = Replay(world, *trace, options);
  if (terminal) fmt::print(stderr, "\n");
  if (!result) return Report(result.error());
  const TraceStatistics statistics = InspectTrace(*trace);
  fmt::print("{}", result->report.Text(statistics, result->took, options.verify));
  if (input.options.IsSet("json")) {
    const Status written = world.files.Write(input.options.Text("json"), result->report.Json(statistics, result->took, options.verify));
    if (!written) return Report(written.error());
  }
  if (result->report.wrong() > 0) {
    return Report({ErrorId::kWrongAnswer, fmt::format("{} of {} answers", result->report.wrong(), result->report.finished())});
  }
  return result->report.failed() == 0 ? kExitOk : kExitFailed;
}

}  // namespace

const Command kReplayCommand = {
    "replay",
    "Sends a trace of requests to running instances and reports",
    "replay --trace FILE --to URL[,URL...] [flags]",
    "Prints latencies, throughput, the bytes of KV cache moved over each path and the share of prompts found in caches.\n\n"
    "Example: mooncake replay --trace day.jsonl --to http://127.0.0.1:8100 --speed 10 --limit 500 --verify\n"
    "Fails if a request failed or an answer was wrong.\n",
    kOptions,
    &RunReplay,
};

}  // namespace mooncake
