// mooncake COMMAND [FLAGS]: finds the command, reads its flags, its file and the environment, and
// runs it.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>

#include "cli/command.h"

namespace mooncake {

std::span<const Command> Commands() {
  static const std::array commands = {
      kInstanceCommand, kStatusCommand,        kTopologyCommand,      kDirectoryCommand,
      kReplayCommand,   kTraceGenerateCommand, kTraceInspectCommand,  kModelsCommand,
      kExplainCommand,  kOptionsCommand,       kConfigExplainCommand, kBenchTransferCommand,
      kHttpTokenCommand};
  return commands;
}

int Report(const Error& error) {
  fmt::print(stderr, "mooncake: {}\n", error.Text());
  return error.code() == Errc::kInvalidArgument ? kExitUsage : kExitFailed;
}

namespace {

constexpr std::uint64_t kConfigBytesMax = 1 << 20;

std::string HelpOf(const Command& command) {
  return fmt::format(
      "{}\n\nUsage: mooncake {}\n\n{}\n{}\nEvery option can also stand in the file given with "
      "--config FILE (JSON, by the "
      "same name with underscores)\nor in the environment (MOONCAKE_NAME). A flag wins over the "
      "environment, that over the file.\n\n"
      "Exit codes: 0 done, 1 failed, 2 the command line or the configuration cannot be used.\n",
      command.summary, command.usage, command.text,
      command.options.empty() ? "" : "\nOptions:\n" + HelpText(command.options));
}

std::string Overview() {
  std::string text =
      "mooncake moves, keeps and places the KV cache of large language models.\n\nCommands:\n";
  for (const Command& command : Commands())
    text += fmt::format("  {:<16} {}\n", command.name, command.summary);
  return text +
         "  help [COMMAND]   This text, or that of a command\n  version          The "
         "version\n\nTry it: mooncake instance --role prefill   and, in another terminal:   "
         "mooncake instance --role decode\n";
}

// The command whose name the first words are, and how many words that takes.
const Command* FindCommand(const std::vector<std::string>& words, std::size_t& taken) {
  for (const std::size_t count : {std::size_t{2}, std::size_t{1}}) {
    if (words.size() < count) continue;
    const std::string name = count == 2 ? words[0] + " " + words[1] : words[0];
    for (const Command& command : Commands()) {
      if (command.name == name) {
        taken = count;
        return &command;
      }
    }
  }
  return nullptr;
}

Error UnknownCommand(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : Commands()) names.emplace_back(command.name);
  const std::optional<std::string> nearest = NearestName(name, names);
  return {ErrorId::kUsage, fmt::format("there is no command \"{}\"{}", name,
                                       nearest ? fmt::format("; did you mean \"{}\"?", *nearest)
                                               : "; `mooncake help` lists them")};
}

struct ParsedFlags {
  Options::Sources sources;
  std::string config;
  std::vector<std::string> words;
  bool help = false;
};

Result<ParsedFlags> ParseFlags(const Command& command, std::vector<std::string> arguments) {
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  ParsedFlags parsed;
  std::vector<std::string> known = {"--config", "--help"};
  app.add_flag("-h,--help", parsed.help);
  app.add_option("--config", parsed.config);
  for (const OptionSpec& spec : command.options) {
    if (spec.unit == Unit::kUnused) continue;
    std::string names = FlagName(spec.name);
    known.push_back(names);
    if (const std::string with_underscores = "--" + std::string(spec.name);
        with_underscores != names)
      names += "," + with_underscores;
    if (!spec.flag.empty()) {
      names += ",--" + std::string(spec.flag);
      known.push_back("--" + std::string(spec.flag));
    }
    const std::string name(spec.name);
    const auto keep = [&parsed, name](const std::string& value) {
      parsed.sources.flags.emplace_back(name, value);
    };
    if (spec.unit == Unit::kFlag) {
      app.add_flag_function(names + "{true}",
                            [keep](std::int64_t count) { keep(count > 0 ? "true" : "false"); });
    } else {
      app.add_option_function<std::string>(names, keep)->take_last();
    }
  }
  std::reverse(arguments.begin(), arguments.end());
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {  // CLI11 reports by exceptions: they end here
    return Fail(ErrorId::kUsage, error.what());
  }
  for (const std::string& rest : app.remaining()) {
    if (rest.size() > 1 && rest.front() == '-') {
      const std::optional<std::string> nearest = NearestName(rest.substr(0, rest.find('=')), known);
      return Fail(
          ErrorId::kUnknownOption,
          fmt::format("\"{}\"{}", rest,
                      nearest ? fmt::format("; did you mean \"{}\"?", *nearest) : std::string()));
    }
    parsed.words.push_back(rest);
  }
  return parsed;
}

int Main(std::vector<std::string> words) {
  if (words.empty() || words[0] == "help" || words[0] == "--help" || words[0] == "-h") {
    if (words.size() < 2) {
      fmt::print("{}", Overview());
      return kExitOk;
    }
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  if (words[0] == "version" || words[0] == "--version") {
    fmt::print("mooncake {}\n", MOONCAKE_VERSION);
    return kExitOk;
  }
  std::size_t taken = 0;
  const Command* const command = FindCommand(words, taken);
  if (command == nullptr) return Report(UnknownCommand(words[0]));
  Result<ParsedFlags> flags =
      ParseFlags(*command, {words.begin() + static_cast<std::ptrdiff_t>(taken), words.end()});
  if (!flags) return Report(Within("mooncake " + std::string(command->name), flags.error()));
  if (flags->help) {
    fmt::print("{}", HelpOf(*command));
    return kExitOk;
  }
  RealWorld real;
  if (!flags->config.empty()) {
    Result<std::string> content = real.world().files.Read(flags->config, kConfigBytesMax);
    if (!content) return Report(Within("--config", content.error()));
    flags->sources.file_name = flags->config;
    flags->sources.file_content = content->empty() ? " " : std::move(*content);
  }
  flags->sources.environment = [](const std::string& variable) {
    return ReadEnvironment(variable.c_str());
  };
  Result<Options> options = Options::Load(command->options, flags->sources);
  if (!options) return Report(options.error());
  CommandInput input{real, std::move(*options), std::move(flags->words)};
  return command->run(input);
}

}  // namespace
}  // namespace mooncake

int main(int argc, char** argv) { return mooncake::Main({argv + 1, argv + argc}); }
