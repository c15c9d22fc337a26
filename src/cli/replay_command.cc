// mooncake replay: sends a trace to running instances and reports.
#include <fmt/format.h>

#include <cstdio>

#include "base/units.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "replay/replay.h"
#include "view/fetch_cluster.h"
#include "view/render.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOwnOptions[] = {
    {"trace", "", Unit::kText,
     "The trace: one JSON object a line with timestamp, input_length, output_length, hash_ids."},
    {"to", "", Unit::kText,
     "Instances to send to, in turn: http://host:port, separated by commas."},
    {"speed", "1", Unit::kNumber,
     "Of the trace's own time: 10 is ten times as fast; 0 sends as fast as --concurrency allows."},
    {"limit", "", Unit::kCount, "Only the first so many requests."},
    {"duration", "", Unit::kDuration,
     "Send no request after this time; those on their way are waited for. Without a value: all are "
     "sent."},
    {"concurrency", "64", Unit::kCount, "Requests on their way at once."},
    {"timeout", "60s", Unit::kDuration, "Of one request."},
    {"verify", "false", Unit::kFlag,
     "Compare every answer with that of one undivided computation."},
    {"json", "", Unit::kText, "Write the report to this file too, as JSON."},
};

constexpr auto kOptions = JoinOptions(kOwnOptions, kCredentialOptions);

constexpr std::uint64_t kTraceBytesMax = std::uint64_t{4} << 30;

std::string ProgressLine(const ReplayProgress& progress, std::size_t total) {
  constexpr std::size_t kBarWidth = 20;
  const ReplayReport& report = progress.report;
  const std::size_t filled =
      total == 0 ? kBarWidth : kBarWidth * std::min<std::size_t>(report.finished(), total) / total;
  const double seconds = std::max(1e-3, std::chrono::duration<double>(progress.elapsed).count());
  return fmt::format("[{}{}] {}/{} {:.1f}/s  first token p50 {:.1f} ms  moved {}  failed {}",
                     std::string(filled, '#'), std::string(kBarWidth - filled, '.'),
                     report.finished(), total, static_cast<double>(report.finished()) / seconds,
                     report.first_token_ms(0.5), FormatBytes(report.moved_bytes()),
                     report.failed());
}

// Tells how far a replay is: on a terminal a view drawn in place, else a line to stderr now and
// then.
class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total) {}

  void Show(const ReplayProgress& progress) {
    const std::optional<TerminalSize> terminal = FindTerminal();
    if (!terminal) return ShowLine(progress);
    std::string text = ProgressLine(progress, total_) + "\n\n";
    if (progress.now != nullptr)
      text += RenderCluster(*progress.now, progress.before, {.color = WantsColor()});
    Write(block_.Draw(text, *terminal));
  }

  // Makes room for the report.
  void Clear() {
    if (const std::optional<TerminalSize> terminal = FindTerminal())
      Write(block_.Draw("", *terminal));
  }

 private:
  void ShowLine(const ReplayProgress& progress) {
    constexpr Duration kInterval = std::chrono::seconds(5);
    if (progress.elapsed < next_ && progress.report.finished() < total_) return;
    next_ = progress.elapsed + kInterval;
    fmt::print(stderr, "{}\n", ProgressLine(progress, total_));
  }
  static void Write(const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  std::size_t total_;
  LiveBlock block_;
  Duration next_{};
};

Result<std::vector<HttpUrl>> ParseTargets(std::string_view list, const Credentials& credentials) {
  std::vector<HttpUrl> targets;
  while (true) {
    const std::size_t comma = list.find(',');
    Result<HttpUrl> target = ParseTarget(list.substr(0, comma), credentials);
    if (!target) return Fail(Within("--to", target.error()));
    targets.push_back(std::move(*target));
    if (comma == std::string_view::npos) return targets;
    list.remove_prefix(comma + 1);
  }
}

int RunReplay(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  for (const char* needed : {"trace", "to"}) {
    if (!input.options.IsSet(needed))
      return Report({ErrorId::kUsage, fmt::format("--{} is needed", needed)});
  }
  World& world = input.real.world();
  const std::string& file = input.options.Text("trace");
  const Result<std::string> text = world.files.Read(file, kTraceBytesMax);
  if (!text) return Report(text.error());
  const std::size_t limit = input.options.IsSet("limit") ? input.options.Count("limit") : SIZE_MAX;
  const Result<Trace> trace = ParseTrace(*text, file, limit);
  if (!trace) return Report(trace.error());

  ReplayOptions options;
  const Result<Credentials> credentials = LoadCredentials(world.files, input.options);
  if (!credentials) return Report(credentials.error());
  Result<std::vector<HttpUrl>> targets = ParseTargets(input.options.Text("to"), *credentials);
  if (!targets) return Report(targets.error());
  options.targets = std::move(*targets);
  options.speed = input.options.Number("speed");
  options.duration = input.options.Duration("duration");
  options.concurrency = std::max<std::uint64_t>(1, input.options.Count("concurrency"));
  options.verify = input.options.Flag("verify");
  options.timeout = input.options.Duration("timeout");
  if (FindTerminal()) options.sample_interval = std::chrono::milliseconds(500);
  Progress progress(trace->size());
  options.progress = [&progress](const ReplayProgress& now) { progress.Show(now); };
  const Result<ReplayResult> result = Replay(world, *trace, options);
  progress.Clear();
  if (!result) return Report(result.error());
  const Trace sent(trace->begin(), trace->begin() + static_cast<std::ptrdiff_t>(result->sent));
  const ReplayFacts facts{InspectTrace(sent), result->took, options.verify,
                          trace->size() - result->sent, result->moved};
  fmt::print("{}", result->report.Text(facts));
  if (input.options.IsSet("json")) {
    const Status written =
        world.files.Write(input.options.Text("json"), result->report.Json(facts));
    if (!written) return Report(written.error());
  }
  if (result->report.wrong() > 0) {
    return Report({ErrorId::kWrongAnswer, fmt::format("{} of {} answers", result->report.wrong(),
                                                      result->report.finished())});
  }
  return result->report.failed() == 0 ? kExitOk : kExitFailed;
}

}  // namespace

const Command kReplayCommand = {
    "replay",
    "Sends a trace of requests to running instances and reports",
    "replay --trace FILE --to URL[,URL...] [flags]",
    "Prints latencies, throughput, the bytes of KV cache moved over each path and the share of "
    "prompts found in caches.\n"
    "On a terminal it shows meanwhile what the instances do.\n\n"
    "Example: mooncake replay --trace day.jsonl --to http://127.0.0.1:8100 --speed 10 --limit 500 "
    "--verify\n"
    "Fails if a request failed or an answer was wrong.\n",
    kOptions,
    &RunReplay,
};

}  // namespace mooncake
