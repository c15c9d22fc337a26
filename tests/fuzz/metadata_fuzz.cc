// The texts of the HTTP directory: queries, listings, indexes, ends of life, dates, and the URL
// that leads there.
#include "directory/http/http_directory.h"
#include "directory/http/metadata_format.h"
#include "fuzzer.h"

MOONCAKE_FUZZER(metadata) {
  using namespace mooncake;
  const std::string_view text = TextOf(input);
  for (const auto& [name, value] : ParseQuery(text)) {
    const auto again = ParseQuery("?" + EscapeQuery(name) + "=" + EscapeQuery(value));
    MC_FUZZ_CHECK(again.size() == 1 && again.begin()->first == name &&
                  again.begin()->second == value);
  }
  if (const Result<MetadataListing> listing = ListingFromJson(text)) {
    const Result<MetadataListing> again = ListingFromJson(ToJson(*listing));
    MC_FUZZ_CHECK(again && ToJson(*again) == ToJson(*listing));
  }
  if (const Result<std::vector<InstanceId>> ids = IndexFromJson(text)) {
    const Result<std::vector<InstanceId>> again = IndexFromJson(IndexToJson(*ids));
    MC_FUZZ_CHECK(again && *again == *ids);
  }
  const WallTime expires = ExpiryOf(text);
  if (expires != WallTime{})
    MC_FUZZ_CHECK(ExpiryOf(WithExpiry(std::string(text), expires)) == expires);
  if (const auto date = ParseHttpDate(text)) MC_FUZZ_CHECK(*date >= WallTime{});
  if (const Result<HttpUrl> url = ParseMetadataUrl(std::string(text)))
    MC_FUZZ_CHECK(!url->target.empty());
}
