// One table per option: the configuration file, the environment, the command line, --help and the
// documentation all read the same row. A later source wins: default, file, environment, flag.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/world.h"

namespace mooncake {

enum class Unit {
  kText,      ///< Anything.
  kFlag,      ///< true or false (1, 0, yes, no, on, off).
  kCount,     ///< A whole number, not negative.
  kNumber,    ///< A decimal number, not negative.
  kBytes,     ///< "512MiB" (base/units.h).
  kDuration,  ///< "250ms" (base/units.h).
  kChoice,    ///< One of `choices`.
  kSecret,    ///< Anything; never shown.
  kUnused,    ///< Accepted because files that people have contain it; nothing here reads it.
};

struct OptionSpec {
  std::string_view name;      ///< The key in the file, "kv_memory"; the flag is --kv-memory, the
                              ///< variable MOONCAKE_KV_MEMORY.
  std::string_view fallback;  ///< The default, as text; empty text is "not set".
  Unit unit;
  std::string_view help;          ///< A sentence; what the default means, if that is not plain.
  std::string_view choices = {};  ///< For kChoice: "prefill|decode|both".
  std::string_view flag = {};     ///< Another flag for it, without dashes ("label").
  std::string_view variable =
      {};  ///< Another variable for it, whole ("MC_REDIS_PASSWORD"); MOONCAKE_NAME wins.
};

/// The rows of several tables, one after another.
template <std::size_t... Counts>
[[nodiscard]] constexpr auto JoinOptions(const OptionSpec (&... tables)[Counts]) {
  std::array<OptionSpec, (Counts + ...)> joined{};
  std::size_t at = 0;
  const auto append = [&](const auto& table) {
    for (const OptionSpec& row : table) joined[at++] = row;
  };
  (append(tables), ...);
  return joined;
}

enum class OptionOrigin { kDefault, kFile, kEnvironment, kFlag };
[[nodiscard]] std::string_view ToString(OptionOrigin origin) noexcept;

/// Values of every row of a table, checked; reading one that the table does not have is a bug.
class Options {
 public:
  struct Sources {
    std::string file_name;     ///< For messages.
    std::string file_content;  ///< A JSON object of scalars; empty for no file.
    std::function<std::string(const std::string& variable)>
        environment;  ///< Empty text means unset.
    std::vector<std::pair<std::string, std::string>>
        flags;  ///< Name as in the table or alias, value.
  };
  /// Errors: kUnknownOption (names the nearest known one), kBadOptionValue, kBadConfigFile.
  [[nodiscard]] static Result<Options> Load(std::span<const OptionSpec> table,
                                            const Sources& sources);

  [[nodiscard]] const std::string& Text(std::string_view name) const;
  /// What stands between the commas of a text, without what is empty.
  [[nodiscard]] std::vector<std::string> List(std::string_view name) const;
  [[nodiscard]] bool Flag(std::string_view name) const;
  [[nodiscard]] std::uint64_t Count(std::string_view name) const;
  [[nodiscard]] double Number(std::string_view name) const;
  [[nodiscard]] std::uint64_t SizeBytes(std::string_view name) const;
  [[nodiscard]] mooncake::Duration Duration(std::string_view name) const;
  [[nodiscard]] bool IsSet(
      std::string_view name) const;  ///< By any source, or by a default that is not empty.

  struct Value {
    const OptionSpec* spec;
    std::string text;  ///< From Explain(): "(set)" for a secret, also within a URL.
    OptionOrigin origin = OptionOrigin::kDefault;
  };
  /// In the order of the table. For `mooncake config explain`.
  [[nodiscard]] std::vector<Value> Explain() const;

 private:
  [[nodiscard]] const Value& Find(std::string_view name) const;
  std::vector<const OptionSpec*> order_;
  std::map<std::string, Value, std::less<>> values_;
};

/// "--kv-memory" of "kv_memory".
[[nodiscard]] std::string FlagName(std::string_view option_name);
/// The candidate with the smallest edit distance to `name`, if it is near enough to be meant.
[[nodiscard]] std::optional<std::string> NearestName(std::string_view name,
                                                     std::span<const std::string> candidates);
/// The rows as --help prints them: flag, default, help.
[[nodiscard]] std::string HelpText(std::span<const OptionSpec> table);

}  // namespace mooncake
