#include "directory/http/metadata_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>

#include "directory/json_fields.h"

namespace mooncake {
namespace {

namespace json = boost::json;
using std::chrono::milliseconds;

std::int64_t UnixMsOf(WallTime time) {
  return std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
}

// A number of somebody else's, clamped to what a WallTime of nanoseconds can hold.
WallTime TimeOf(const json::object& object, std::string_view key) {
  constexpr std::int64_t kMsMax = 9'000'000'000'000;
  const json::value* const value = object.if_contains(key);
  if (value == nullptr || !value->is_int64()) return WallTime{};
  return WallTime(milliseconds(std::clamp<std::int64_t>(value->get_int64(), 0, kMsMax)));
}

// Values are bytes of whoever put them there: one that is not UTF-8 must not hide the others.
json::value Parse(std::string_view text, json::error_code& code) {
  json::parse_options options;
  options.allow_invalid_utf8 = true;
  return json::parse(text, code, {}, options);
}

std::optional<unsigned> HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

std::string Unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+') {
      plain += ' ';
    } else if (text[i] == '%' && i + 2 < text.size() && HexDigit(text[i + 1]) &&
               HexDigit(text[i + 2])) {
      plain += static_cast<char>(*HexDigit(text[i + 1]) * 16 + *HexDigit(text[i + 2]));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

template <class Each>
void ForEachObject(const json::object& object, std::string_view key, Each each) {
  const json::value* const list = object.if_contains(key);
  if (list == nullptr || !list->is_array()) return;
  for (const json::value& item : list->get_array()) {
    if (item.is_object()) each(item.get_object());
  }
}

}  // namespace

std::map<std::string, std::string> ParseQuery(std::string_view target) {
  std::map<std::string, std::string> query;
  const std::size_t mark = target.find('?');
  if (mark == std::string_view::npos) return query;
  std::string_view rest = target.substr(mark + 1);
  rest = rest.substr(0, rest.find('#'));
  while (!rest.empty()) {
    const std::size_t end = rest.find('&');
    const std::string_view pair = rest.substr(0, end);
    const std::size_t equals = pair.find('=');
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1);
    if (!pair.empty()) query.emplace(Unescape(pair.substr(0, equals)), Unescape(value));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return query;
}

std::string EscapeQuery(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       std::string_view("-._~").find(c) != std::string_view::npos;
    if (plain) {
      escaped += c;
    } else {
      escaped += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return escaped;
}

std::string ToJson(const MetadataListing& listing) {
  json::array entries;
  for (const MetadataEntry& entry : listing.entries) {
    entries.push_back({{"key", entry.key}, {"value", entry.value}});
  }
  json::array gone;
  for (const MetadataObituary& obituary : listing.gone) {
    gone.push_back({{"key", obituary.entry.key},
                    {"value", obituary.entry.value},
                    {"cause", obituary.cause},
                    {"gone_unix_ms", UnixMsOf(obituary.gone)}});
  }
  return json::serialize(json::object{{"entries", entries}, {"gone", gone}});
}

Result<MetadataListing> ListingFromJson(std::string_view text) {
  json::error_code code;
  const json::value value = Parse(text, code);
  if (code || !value.is_object() || !value.get_object().contains("entries")) {
    return Fail(ErrorId::kDirectoryGarbage, "a listing is not a JSON object with entries");
  }
  MetadataListing listing;
  ForEachObject(value.get_object(), "entries", [&listing](const json::object& entry) {
    listing.entries.push_back({TextOf(entry, "key"), TextOf(entry, "value")});
  });
  ForEachObject(value.get_object(), "gone", [&listing](const json::object& entry) {
    listing.gone.push_back({{TextOf(entry, "key"), TextOf(entry, "value")},
                            TextOf(entry, "cause"),
                            TimeOf(entry, "gone_unix_ms")});
  });
  return listing;
}

std::string IndexToJson(const std::vector<InstanceId>& ids) {
  json::array list;
  for (const InstanceId& id : ids) list.emplace_back(ToString(id));
  return json::serialize(list);
}

Result<std::vector<InstanceId>> IndexFromJson(std::string_view text) {
  constexpr std::size_t kIdsMax = 65536;
  std::vector<InstanceId> ids;
  if (text.empty()) return ids;
  json::error_code code;
  const json::value value = Parse(text, code);
  if (code || !value.is_array() || value.get_array().size() > kIdsMax) {
    return Fail(ErrorId::kWrongService, "the index of the instances is not a list of ids");
  }
  for (const json::value& entry : value.get_array()) {
    if (!entry.is_string()) continue;
    const std::optional<InstanceId> id = ParseInstanceId(std::string(entry.get_string()));
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  return ids;
}

std::string WithExpiry(const std::string& record_json, WallTime expires) {
  json::error_code code;
  json::value value = Parse(record_json, code);
  if (code || !value.is_object()) return record_json;
  value.get_object()["expires_unix_ms"] = UnixMsOf(expires);
  return json::serialize(value);
}

WallTime ExpiryOf(std::string_view record_json) {
  json::error_code code;
  const json::value value = Parse(record_json, code);
  if (code || !value.is_object()) return WallTime{};
  return TimeOf(value.get_object(), "expires_unix_ms");
}

std::optional<WallTime> ParseHttpDate(std::string_view text) {
  constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  constexpr std::string_view kForm = "Sun, 06 Nov 1994 08:49:37 GMT";
  if (text.size() != kForm.size() || !text.ends_with(" GMT")) return std::nullopt;
  const auto number = [text](std::size_t at, std::size_t digits) -> std::optional<int> {
    int value = 0;
    const char* const last = text.data() + at + digits;
    const auto [end, error] = std::from_chars(text.data() + at, last, value);
    if (error != std::errc{} || end != last || value < 0) return std::nullopt;
    return value;
  };
  const auto month = std::find(kMonths.begin(), kMonths.end(), text.substr(8, 3));
  const std::optional<int> day = number(5, 2);
  const std::optional<int> year = number(12, 4);
  const std::optional<int> hour = number(17, 2);
  const std::optional<int> minute = number(20, 2);
  const std::optional<int> second = number(23, 2);
  if (month == kMonths.end() || !day || !year || !hour || !minute || !second) return std::nullopt;
  const std::chrono::year_month_day date{
      std::chrono::year(*year),
      std::chrono::month(static_cast<unsigned>(month - kMonths.begin()) + 1),
      std::chrono::day(static_cast<unsigned>(*day))};
  constexpr int kYearMin = 1970;
  constexpr int kYearMax = 2200;
  if (!date.ok() || *year < kYearMin || *year > kYearMax || *hour > 23 || *minute > 59 ||
      *second > 60) {
    return std::nullopt;
  }
  return WallTime(std::chrono::sys_days(date) + std::chrono::hours(*hour) +
                  std::chrono::minutes(*minute) + std::chrono::seconds(*second));
}

}  // namespace mooncake
