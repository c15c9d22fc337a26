// mooncake status: who is there, who sends to whom over what, and why not over something better.
// Once, or again and again.
#include <fmt/format.h>

#include <cstdio>

#include "base/await.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "directory/directory.h"
#include "view/fetch_cluster.h"
#include "view/render.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOwnOptions[] = {
    {"watch", "false", Unit::kFlag,
     "Show it again and again, with the rates of the moment, until interrupted."},
    {"interval", "1s", Unit::kDuration, "The time between two looks of --watch."},
    {"json", "false", Unit::kFlag, "Print what the instances say, one line of JSON for each look."},
    {"cluster", "default", Unit::kText, "Without a URL: the cluster whose instances are meant."},
};

constexpr auto kOptions = JoinOptions(kOwnOptions, kDirectoryOptions, kCredentialOptions);

constexpr Duration kTimeout = std::chrono::seconds(3);

// Every target at once; the answers in the order of the targets.
Task<std::vector<Result<std::string>>> FetchAll(World& world, std::vector<HttpUrl> targets) {
  struct Answers {
    std::vector<Result<std::string>> bodies;
    std::size_t left = 0;
    OneShot<bool> all;
  };
  const auto answers = std::make_shared<Answers>();
  answers->bodies.resize(targets.size());
  answers->left = targets.size();
  const Instant deadline = After(world.clock.Now(), kTimeout);
  const auto fetch_one = [](World& w, HttpUrl target, Instant limit, std::size_t at,
                            std::shared_ptr<Answers> into) -> Task<void> {
    auto fetch = FetchCluster(w, std::move(target), limit);
    into->bodies[at] = co_await std::move(fetch);
    if (--into->left == 0) into->all.Set(true);
  };
  for (std::size_t i = 0; i < targets.size(); ++i)
    Spawn(world.control, fetch_one(world, targets[i], deadline, i, answers));
  if (!targets.empty()) co_await answers->all.Get();
  co_return std::move(answers->bodies);
}

// Looks at the cluster, through the instances that were named or those that the directory lists.
class Looker {
 public:
  Looker(World& world, std::vector<HttpUrl> targets, std::unique_ptr<Directory> directory,
         std::string cluster, Credentials credentials)
      : world_(world),
        targets_(std::move(targets)),
        directory_(std::move(directory)),
        cluster_(std::move(cluster)),
        credentials_(std::move(credentials)) {}

  /// An answer of /cluster. kNoInstance and kNotAnInstance if nobody gives one.
  Task<Result<std::string>> Look() {
    if (targets_.empty()) {
      auto look = LookUp();
      co_return co_await std::move(look);
    }
    auto fetch = FetchAll(world_, targets_);
    std::vector<Result<std::string>> answers = co_await std::move(fetch);
    std::vector<std::string> bodies;
    std::vector<MissingView> missing;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (answers[i]) {
        bodies.push_back(std::move(*answers[i]));
      } else {
        missing.push_back({Describe(targets_[i]), answers[i].error().context});
      }
    }
    if (!bodies.empty()) co_return MergeClusters(bodies, missing);
    if (answers.size() == 1) co_return Fail(answers[0].error());
    std::string reasons;
    for (const MissingView& one : missing) reasons += (reasons.empty() ? "" : "; ") + one.reason;
    co_return Fail(ErrorId::kNoInstance, std::move(reasons));
  }

 private:
  // Any instance tells of all; the first that answers will do.
  Task<Result<std::string>> LookUp() {
    auto list = directory_->List(After(world_.clock.Now(), kTimeout));
    const Result<std::vector<Record>> records = co_await std::move(list);
    if (!records && records.error().id == ErrorId::kDirectoryRefused &&
        directory_->Describe().find("://") == std::string::npos) {
      co_return Fail(ErrorId::kNoInstance,
                     "none runs on this host; name one by its URL if it runs elsewhere");
    }
    if (!records) co_return Fail(records.error());
    const Instant end = After(world_.clock.Now(), 3 * kTimeout);
    std::string reasons;
    for (const Record& record : *records) {
      for (const Endpoint& endpoint : record.endpoints) {
        if (world_.clock.Now() >= end) break;
        const HttpUrl target =
            MakeTarget({ToString(endpoint.address), endpoint.port}, credentials_);
        auto fetch = FetchCluster(world_, target, After(world_.clock.Now(), kTimeout));
        Result<std::string> body = co_await std::move(fetch);
        if (body) co_return body;
        reasons += fmt::format("; {} at {}", record.identity.label, body.error().context);
      }
    }
    co_return Fail(ErrorId::kNoInstance,
                   fmt::format("{} lists {} in cluster \"{}\"{}", directory_->Describe(),
                               records->size(), cluster_, reasons));
  }

  World& world_;
  std::vector<HttpUrl> targets_;
  std::unique_ptr<Directory> directory_;  // null where targets were named
  std::string cluster_;
  Credentials credentials_;
};

int ShowOnce(World& world, Looker& looker, bool json) {
  const Result<std::string> body = Await(world.control, looker.Look());
  if (!body) return Report(body.error());
  Result<ClusterView> view = ParseCluster(*body);
  if (!view) return Report(view.error());
  const bool complete = view->missing.empty();
  if (json) {
    fmt::print("{}\n", body->substr(0, body->find_last_not_of('\n') + 1));
  } else {
    const bool color = FindTerminal() && WantsColor();
    fmt::print("{}", RenderCluster({std::move(*view), {}}, nullptr, {.color = color}));
  }
  return complete ? kExitOk : kExitFailed;
}

// One look after another until `stop`; what went wrong is shown in the place of the cluster, and
// the next look may be better.
Task<int> Watch(World& world, Looker& looker, bool json, Duration interval,
                std::shared_ptr<Signal> wake, std::shared_ptr<bool> stop) {
  LiveBlock block;
  std::optional<ClusterSample> before;
  const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
  while (!*stop) {
    const Result<std::string> body = co_await looker.Look();
    Result<ClusterView> view = body ? ParseCluster(*body) : Result<ClusterView>(Fail(body.error()));
    const std::optional<TerminalSize> terminal = FindTerminal();
    std::string text;
    if (!view) {
      text = view.error().Text() + "\n";
      if (json) fmt::print(stderr, "mooncake: {}", text);
    } else if (json) {
      fmt::print("{}\n", body->substr(0, body->find_last_not_of('\n') + 1));
    } else {
      ClusterSample now{std::move(*view), world.clock.Now()};
      text = RenderCluster(now, before ? &*before : nullptr, {.color = terminal && WantsColor()});
      before = std::move(now);
    }
    if (!json) fmt::print("{}", terminal ? block.Draw(text, *terminal) : text + "\n");
    std::fflush(stdout);
    timer->At(After(world.clock.Now(), interval), [wake] { wake->Notify(); });
    if (!*stop) co_await wake->Wait();
  }
  co_return kExitOk;
}

int RunStatus(CommandInput& input) {
  SetLogLevel(LogLevel::kWarn);
  World& world = input.real.world();
  const Result<Credentials> credentials = LoadCredentials(world.files, input.options);
  if (!credentials) return Report(credentials.error());
  std::vector<HttpUrl> targets;
  for (const std::string& word : input.words) {
    Result<HttpUrl> target = ParseTarget(word, *credentials);
    if (!target) return Report(target.error());
    targets.push_back(std::move(*target));
  }
  std::unique_ptr<Directory> directory;
  const std::string& cluster = input.options.Text("cluster");
  if (targets.empty()) {
    const Result<DirectoryAccess> access =
        ReadDirectoryAccess(world.files, input.options, *credentials, DirectoryUse::kReader);
    if (!access) return Report(access.error());
    Result<std::unique_ptr<Directory>> opened =
        OpenDirectory(world, input.options.Text("metadata_server"), cluster, *access);
    if (!opened) return Report(opened.error());
    directory = std::move(*opened);
  }
  Looker looker(world, std::move(targets), std::move(directory), cluster, *credentials);
  const bool json = input.options.Flag("json");
  if (!input.options.Flag("watch")) return ShowOnce(world, looker, json);
  const auto wake = std::make_shared<Signal>();
  const auto stop = std::make_shared<bool>(false);
  input.real.OnStopSignal([wake, stop] {
    *stop = true;
    wake->Notify();
  });
  constexpr Duration kIntervalMin = std::chrono::milliseconds(20);
  const Duration interval = std::max(kIntervalMin, input.options.Duration("interval"));
  return Await(world.control, Watch(world, looker, json, interval, wake, stop));
}

}  // namespace

const Command kStatusCommand = {
    "status",
    "Shows the instances, the paths between them and why each other path is not used",
    "status [URL|HOST:PORT ...] [--watch] [--json] [flags]",
    "Any instance tells of its whole cluster. Without a URL, this host's own directory (or "
    "--directory) names one.\n"
    "MOVED is what a path has carried since its sender started, NOW what it carries at the moment, "
    "SPEED how fast its\n"
    "transfers of 64 KiB and more were.\n\n"
    "Example: mooncake status http://127.0.0.1:8100 --watch\n"
    "Fails if an instance does not answer, also where others do.\n",
    kOptions,
    &RunStatus,
};

}  // namespace mooncake
