// mooncake explain and mooncake config explain: the error catalogue and the options, as tables.
#include <fmt/format.h>

#include "base/error_catalogue.h"
#include "cli/command.h"
#include "instance/options.h"
#include "model/model_shape.h"

namespace mooncake {
namespace {

int RunExplain(CommandInput& input) {
  if (input.words.empty()) {
    for (const ErrorEntry& entry : ErrorCatalogue()) fmt::print("{}  {}\n", ErrorName(entry.id), entry.title);
    return kExitOk;
  }
  for (const std::string& word : input.words) {
    bool found = false;
    for (const ErrorEntry& entry : ErrorCatalogue()) {
      if (ErrorName(entry.id) != word) continue;
      fmt::print("{}: {}.\nDo: {}\n", word, entry.title, entry.remedy);
      found = true;
    }
    if (!found) return Report({ErrorId::kUsage, fmt::format("there is no error {}; `mooncake explain` lists all", word)});
  }
  return kExitOk;
}

int RunConfigExplain(CommandInput& input) {
  for (const Options::Value& value : input.options.Explain()) {
    if (value.spec->unit == Unit::kUnused) continue;
    fmt::print("{:<28} {:<24} {:<12} {}\n", value.spec->name, value.text.empty() ? "-" : value.text, ToString(value.origin),
               value.spec->help);
  }
  return kExitOk;
}

int RunModels(CommandInput& input) {
  if (!input.words.empty()) return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  fmt::print("{:<16} {:>6} {:>8} {:>8} {:>9} {:>16} {:>12}\n", "model", "layers", "KV heads", "head dim", "dtype", "KV bytes/token", "context");
  for (const ModelShape& model : AllModels()) {
    fmt::print("{:<16} {:>6} {:>8} {:>8} {:>9} {:>16} {:>12}\n", model.name, model.layers, model.kv_heads, model.head_dim, model.dtype,
               model.bytes_per_token(), model.max_context);
  }
  return kExitOk;
}

}  // namespace

const Command kExplainCommand = {"explain", "What an error id means and what to do", "explain [E005 …]",
                                 "Without an id: the list of all errors. Example: mooncake explain E005\n", {}, &RunExplain};
const Command kConfigExplainCommand = {"config explain", "Every option of an instance: its value and where it came from",
                                       "config explain [--config FILE] [flags of `mooncake instance`]",
                                       "Example: mooncake config explain --config prefill.json\n", InstanceOptions(), &RunConfigExplain};
const Command kModelsCommand = {"models", "Lists the model shapes that an instance can have", "models",
                                "The numbers are the models' own; an instance keeps the share that --scale says.\n", {}, &RunModels};

}  // namespace mooncake
