// The texts of the HTTP directory: queries, the listing of our own service, and what stands in for
// it with a service of the public kind, which has neither a listing nor an end of life: an index,
// and the time at which a record ends. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/world.h"

namespace mooncake {

/// The header by which our own service is known; whoever sends it keeps `ttl_ms` and answers
/// `prefix`.
inline constexpr std::string_view kMetadataServiceHeader = "mooncake-directory";

/// What follows the question mark of `target`, decoded ("%2F" and "+"); the first of equal names
/// counts.
[[nodiscard]] std::map<std::string, std::string> ParseQuery(std::string_view target);
/// `text` as one value of a query.
[[nodiscard]] std::string EscapeQuery(std::string_view text);

struct MetadataEntry {
  std::string key;
  std::string value;
};
struct MetadataObituary {
  MetadataEntry entry;
  std::string cause;  ///< "expired", "withdrawn".
  WallTime gone{};
};
struct MetadataListing {
  std::vector<MetadataEntry> entries;
  std::vector<MetadataObituary> gone;
};
[[nodiscard]] std::string ToJson(const MetadataListing& listing);
/// kDirectoryGarbage.
[[nodiscard]] Result<MetadataListing> ListingFromJson(std::string_view text);

/// The index: the ids of one cluster. kWrongService if `text` is none; no text is an empty one.
[[nodiscard]] std::string IndexToJson(const std::vector<InstanceId>& ids);
[[nodiscard]] Result<std::vector<InstanceId>> IndexFromJson(std::string_view text);

/// A record's JSON object with the time at which it ends, by the service's clock.
[[nodiscard]] std::string WithExpiry(const std::string& record_json, WallTime expires);
/// The epoch if there is none.
[[nodiscard]] WallTime ExpiryOf(std::string_view record_json);

/// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7), the form that servers send.
[[nodiscard]] std::optional<WallTime> ParseHttpDate(std::string_view text);

}  // namespace mooncake
