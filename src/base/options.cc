#include "base/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <numeric>

#include "base/assert.h"
#include "base/units.h"

namespace mooncake {
namespace {

namespace json = boost::json;

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::optional<bool> ParseFlag(std::string_view text) {
  const std::string lower = Lower(text);
  if (lower == "true" || lower == "1" || lower == "yes" || lower == "on") return true;
  if (lower == "false" || lower == "0" || lower == "no" || lower == "off") return false;
  return std::nullopt;
}

template <class Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || !(number >= Number{}))
    return std::nullopt;
  return number;
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return parts;
}

// The kind of value expected, if `text` is not one.
std::optional<std::string> WhatIsWrong(const OptionSpec& spec, std::string_view text) {
  if (text.empty()) return std::nullopt;
  switch (spec.unit) {
    case Unit::kText:
    case Unit::kSecret:
    case Unit::kUnused:
      return std::nullopt;
    case Unit::kFlag:
      return ParseFlag(text) ? std::nullopt : std::optional<std::string>("true or false");
    case Unit::kCount:
      return ParseNumber<std::uint64_t>(text) ? std::nullopt
                                              : std::optional<std::string>("a whole number");
    case Unit::kNumber:
      return ParseNumber<double>(text) ? std::nullopt : std::optional<std::string>("a number");
    case Unit::kBytes:
      return ParseBytes(text) ? std::nullopt : std::optional<std::string>("a size such as 512MiB");
    case Unit::kDuration:
      return ParseDuration(text) ? std::nullopt
                                 : std::optional<std::string>("a duration such as 250ms");
    case Unit::kChoice: {
      const std::vector<std::string> choices = Split(spec.choices, '|');
      if (std::find(choices.begin(), choices.end(), text) != choices.end()) return std::nullopt;
      return fmt::format("one of {}", fmt::join(choices, ", "));
    }
  }
  return std::nullopt;
}

// A scalar as the text that a flag would have had.
std::optional<std::string> ScalarText(const json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_bool()) return value.get_bool() ? "true" : "false";
  if (value.is_null()) return std::string();
  if (value.is_number()) return json::serialize(value);
  return std::nullopt;
}

std::size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

Result<json::object> ParseFile(const Options::Sources& sources) {
  json::error_code code;
  json::parse_options parse;
  parse.allow_comments = true;
  parse.allow_trailing_commas = true;
  json::stream_parser parser({}, parse);
  // On an error inside a comment the parser says that it took more than there was.
  const std::size_t consumed =
      std::min(parser.write_some(sources.file_content, code), sources.file_content.size());
  if (!code) parser.finish(code);
  if (code) {
    const auto line =
        1 + std::count(sources.file_content.begin(),
                       sources.file_content.begin() + static_cast<std::ptrdiff_t>(consumed), '\n');
    return Fail(ErrorId::kBadConfigFile,
                fmt::format("{} line {}: not JSON: {}", sources.file_name, line, code.message()));
  }
  json::value value = parser.release();
  if (!value.is_object()) {
    return Fail(ErrorId::kBadConfigFile,
                fmt::format("{}: the file must be one JSON object", sources.file_name));
  }
  return std::move(value.get_object());
}

}  // namespace

std::string_view ToString(OptionOrigin origin) noexcept {
  constexpr std::array<std::string_view, 4> kNames = {"default", "file", "environment", "flag"};
  return kNames[static_cast<std::size_t>(origin)];
}

std::string FlagName(std::string_view option_name) {
  std::string flag = "--" + std::string(option_name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::optional<std::string> NearestName(std::string_view name,
                                       std::span<const std::string> candidates) {
  std::optional<std::string> nearest;
  std::size_t best = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = EditDistance(Lower(name), Lower(candidate));
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

Result<Options> Options::Load(std::span<const OptionSpec> table, const Sources& sources) {
  Options options;
  std::vector<std::string> names;
  for (const OptionSpec& spec : table) {
    options.order_.push_back(&spec);
    options.values_[std::string(spec.name)] =
        Value{&spec, std::string(spec.fallback), OptionOrigin::kDefault};
    names.emplace_back(spec.name);
  }
  const auto unknown = [&names](const std::string& where, const std::string& name) {
    const std::optional<std::string> nearest = NearestName(name, names);
    return Fail(
        ErrorId::kUnknownOption,
        fmt::format("\"{}\" in {}{}", name, where,
                    nearest ? fmt::format("; did you mean \"{}\"?", *nearest) : std::string()));
  };
  const auto set = [](Value& value, const std::string& text, OptionOrigin origin,
                      const std::string& where) -> Status {
    if (const std::optional<std::string> wanted = WhatIsWrong(*value.spec, text)) {
      return Fail(ErrorId::kBadOptionValue, fmt::format("{} = \"{}\" in {}: it must be {}",
                                                        value.spec->name, text, where, *wanted));
    }
    value.text = text;
    value.origin = origin;
    return {};
  };

  if (!sources.file_content.empty()) {
    MC_TRY(const json::object file, ParseFile(sources));
    for (const auto& [key, scalar] : file) {
      const std::string name(key);
      const auto found = options.values_.find(name);
      if (found == options.values_.end()) return unknown(sources.file_name, name);
      const std::optional<std::string> text = ScalarText(scalar);
      if (!text) {
        if (found->second.spec->unit == Unit::kUnused) continue;
        return Fail(ErrorId::kBadOptionValue,
                    fmt::format("{} in {}: it must be a text, a number, true or false", name,
                                sources.file_name));
      }
      MC_TRY_STATUS(set(found->second, *text, OptionOrigin::kFile, sources.file_name));
    }
  }
  if (sources.environment) {
    for (auto& [name, value] : options.values_) {
      if (value.spec->unit == Unit::kUnused) continue;
      std::string variable = "MOONCAKE_" + name;
      for (char& c : variable) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      std::string text = sources.environment(variable);
      if (text.empty() && !value.spec->variable.empty()) {
        variable = value.spec->variable;
        text = sources.environment(variable);
      }
      if (!text.empty()) MC_TRY_STATUS(set(value, text, OptionOrigin::kEnvironment, variable));
    }
  }
  for (const auto& [flag, text] : sources.flags) {
    std::string name = flag;
    std::replace(name.begin(), name.end(), '-', '_');
    for (const OptionSpec& spec : table) {
      if (!spec.flag.empty() && spec.flag == flag) name = spec.name;
    }
    const auto found = options.values_.find(name);
    if (found == options.values_.end()) return unknown("the command line", flag);
    MC_TRY_STATUS(set(found->second, text, OptionOrigin::kFlag, "the command line"));
  }
  return options;
}

const Options::Value& Options::Find(std::string_view name) const {
  const auto found = values_.find(name);
  MC_ASSERT(found != values_.end());
  return found->second;
}

const std::string& Options::Text(std::string_view name) const { return Find(name).text; }
bool Options::IsSet(std::string_view name) const { return !Find(name).text.empty(); }
std::vector<std::string> Options::List(std::string_view name) const {
  std::vector<std::string> parts;
  std::string_view text = Text(name);
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (comma > 0) parts.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

bool Options::Flag(std::string_view name) const {
  return ParseFlag(Find(name).text).value_or(false);
}
std::uint64_t Options::Count(std::string_view name) const {
  return ParseNumber<std::uint64_t>(Find(name).text).value_or(0);
}
double Options::Number(std::string_view name) const {
  return ParseNumber<double>(Find(name).text).value_or(0);
}
std::uint64_t Options::SizeBytes(std::string_view name) const {
  const std::string& text = Find(name).text;
  return text.empty() ? 0 : ParseBytes(text).value_or(0);
}
mooncake::Duration Options::Duration(std::string_view name) const {
  const std::string& text = Find(name).text;
  return text.empty() ? mooncake::Duration{} : ParseDuration(text).value_or(mooncake::Duration{});
}

namespace {

// Without the password of "[scheme://]user:password@…" or "scheme://password@…".
std::string WithoutPassword(const std::string& text) {
  const std::size_t scheme = text.find("://");
  const bool is_url = scheme != std::string::npos;
  const std::size_t begin = is_url ? scheme + 3 : 0;
  const std::size_t at = text.rfind('@');
  if (at == std::string::npos || at < begin) return text;
  const std::size_t colon = text.find(':', begin);
  if (colon < at) return text.substr(0, colon + 1) + "(set)" + text.substr(at);
  return is_url ? text.substr(0, begin) + "(set)" + text.substr(at) : text;
}

}  // namespace

std::vector<Options::Value> Options::Explain() const {
  std::vector<Value> all;
  for (const OptionSpec* spec : order_) {
    Value& value = all.emplace_back(Find(spec->name));
    if (spec->unit == Unit::kSecret && !value.text.empty()) value.text = "(set)";
    if (spec->unit == Unit::kText) value.text = WithoutPassword(value.text);
  }
  return all;
}

std::string HelpText(std::span<const OptionSpec> table) {
  std::string text;
  for (const OptionSpec& spec : table) {
    if (spec.unit == Unit::kUnused) continue;
    std::string flag = FlagName(spec.name);
    if (!spec.flag.empty()) flag += fmt::format(", --{}", spec.flag);
    if (!spec.choices.empty()) flag += fmt::format(" {}", spec.choices);
    text += fmt::format(
        "  {}\n      {}{}\n", flag, spec.help,
        spec.fallback.empty() ? std::string() : fmt::format(" Default: {}.", spec.fallback));
  }
  return text;
}

}  // namespace mooncake
