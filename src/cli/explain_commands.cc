// mooncake explain and mooncake config explain: the error catalogue and the options, as tables.
#include <fmt/format.h>

#include "base/error_catalogue.h"
#include "cli/command.h"
#include "instance/options.h"
#include "model/model_shape.h"

namespace mooncake {
namespace {

constexpr OptionSpec kExplainOptions[] = {
    {"all", "false", Unit::kFlag, "All of them, with what to do: the page docs/errors.md."},
};

void PrintErrorReference() {
  fmt::print(
      "# Errors\n\nPrinted by `mooncake explain --all`. The message names what failed, between "
      "whom, the cause and how we know; the id is\n"
      "stable: scripts may rely on it.\n\n| id | what failed | what to do |\n|---|---|---|\n");
  for (const ErrorEntry& entry : ErrorCatalogue())
    fmt::print("| {} | {} | {} |\n", ErrorName(entry.id), entry.title, entry.remedy);
}

int RunExplain(CommandInput& input) {
  if (input.options.Flag("all")) {
    PrintErrorReference();
    return kExitOk;
  }
  if (input.words.empty()) {
    for (const ErrorEntry& entry : ErrorCatalogue())
      fmt::print("{}  {}\n", ErrorName(entry.id), entry.title);
    return kExitOk;
  }
  for (const std::string& word : input.words) {
    bool found = false;
    for (const ErrorEntry& entry : ErrorCatalogue()) {
      if (ErrorName(entry.id) != word) continue;
      fmt::print("{}: {}.\nDo: {}\n", word, entry.title, entry.remedy);
      found = true;
    }
    if (!found)
      return Report({ErrorId::kUsage,
                     fmt::format("there is no error {}; `mooncake explain` lists all", word)});
  }
  return kExitOk;
}

int RunConfigExplain(CommandInput& input) {
  for (const Options::Value& value : input.options.Explain()) {
    if (value.spec->unit == Unit::kUnused) continue;
    fmt::print("{:<28} {:<24} {:<12} {}\n", value.spec->name, value.text.empty() ? "-" : value.text,
               ToString(value.origin), value.spec->help);
  }
  return kExitOk;
}

int RunOptions(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  fmt::print(
      "# Options of an instance\n\nPrinted by `mooncake options`. The same name stands in the file "
      "given with `--config` (JSON), in the environment\n"
      "(`MOONCAKE_KV_MEMORY`) and as a flag (`--kv-memory`); a flag wins over the environment, "
      "that over the file.\n"
      "`mooncake config explain` shows each value and where it came from.\n\n| option | default | "
      "meaning |\n|---|---|---|\n");
  std::string ignored;
  for (const OptionSpec& spec : InstanceOptions()) {
    if (spec.unit == Unit::kUnused) {
      ignored += fmt::format("{}`{}`", ignored.empty() ? "" : ", ", spec.name);
      continue;
    }
    std::string help(spec.help);
    if (!spec.choices.empty()) {
      std::string choices(spec.choices);
      for (std::size_t at = 0; (at = choices.find('|', at)) != std::string::npos; at += 4)
        choices.replace(at, 1, "`, `");
      help += fmt::format(" One of `{}`.", choices);
    }
    fmt::print("| `{}`{} | {} | {} |\n", spec.name,
               spec.flag.empty() ? std::string() : fmt::format(", flag `--{}`", spec.flag),
               spec.fallback.empty() ? "" : fmt::format("`{}`", spec.fallback), help);
  }
  fmt::print("\nAccepted because files that people have contain them, and without effect: {}.\n",
             ignored);
  return kExitOk;
}

int RunModels(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  fmt::print("{:<16} {:>6} {:>8} {:>8} {:>9} {:>16} {:>12}\n", "model", "layers", "KV heads",
             "head dim", "dtype", "KV bytes/token", "context");
  for (const ModelShape& model : AllModels()) {
    fmt::print("{:<16} {:>6} {:>8} {:>8} {:>9} {:>16} {:>12}\n", model.name, model.layers,
               model.kv_heads, model.head_dim, model.dtype, model.bytes_per_token(),
               model.max_context);
  }
  return kExitOk;
}

}  // namespace

const Command kExplainCommand = {
    "explain",
    "What an error id means and what to do",
    "explain [E005 …] [--all]",
    "Without an id: the list of all errors. Example: mooncake explain E005\n",
    kExplainOptions,
    &RunExplain};
const Command kOptionsCommand = {
    "options",         "Every option of an instance, as the reference page",
    "options",         "Example: mooncake options   or, as plain text, mooncake help options\n",
    InstanceOptions(), &RunOptions};
const Command kConfigExplainCommand = {
    "config explain",
    "Every option of an instance: its value and where it came from",
    "config explain [--config FILE] [flags of `mooncake instance`]",
    "Example: mooncake config explain --config prefill.json\n",
    InstanceOptions(),
    &RunConfigExplain};
const Command kModelsCommand = {
    "models", "Lists the model shapes that an instance can have",
    "models", "The numbers are the models' own; an instance keeps the share that --scale says.\n",
    {},       &RunModels};

}  // namespace mooncake
