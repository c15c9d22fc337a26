// What every command of the program is made of: a table of options, a text for --help, and a
// function.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "base/real_world.h"

namespace mooncake {

/// 0: done. 1: it failed. 2: the command line or the configuration cannot be used.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

struct CommandInput {
  RealWorld& real;
  Options options;
  std::vector<std::string> words;  ///< What is no flag, in order.
};

struct Command {
  std::string_view name;     ///< "instance", "trace generate".
  std::string_view summary;  ///< One line of `mooncake help`.
  std::string_view usage;    ///< After "mooncake": "replay --trace FILE --to URL".
  std::string_view text;     ///< Purpose, an example, what to expect.
  std::span<const OptionSpec> options;
  int (*run)(CommandInput& input);
};

/// All of them, in the order of `mooncake help`.
[[nodiscard]] std::span<const Command> Commands();

/// "mooncake: E005 …" to stderr; returns the exit code that fits.
int Report(const Error& error);

// One for each file of this folder.
extern const Command kBenchTransferCommand;
extern const Command kInstanceCommand;
extern const Command kDirectoryCommand;
extern const Command kModelsCommand;
extern const Command kHttpTokenCommand;
extern const Command kExplainCommand;
extern const Command kConfigExplainCommand;
extern const Command kOptionsCommand;
extern const Command kReplayCommand;
extern const Command kStatusCommand;
extern const Command kTopologyCommand;
extern const Command kTraceGenerateCommand;
extern const Command kTraceInspectCommand;

}  // namespace mooncake
