#include "directory/http/metadata_table.h"

#include <algorithm>

namespace mooncake {

Status MetadataTable::Put(const std::string& key, std::string value, Instant expires) {
  constexpr std::size_t kEntriesMax = 65536;
  constexpr std::size_t kBytesMax = std::size_t{1} << 30;
  const auto found = entries_.find(key);
  const bool known = found != entries_.end();
  const std::size_t replaced = known ? key.size() + found->second.value.size() : 0;
  const std::size_t bytes = bytes_ - replaced + key.size() + value.size();
  if (!known && entries_.size() >= kEntriesMax) return Fail(ErrorId::kPeerBusy, "65536 keys");
  if (bytes > kBytesMax) return Fail(ErrorId::kPeerBusy, "1 GiB of values");
  bytes_ = bytes;
  entries_.insert_or_assign(key, Entry{std::move(value), expires});
  std::erase_if(gone_, [&key](const MetadataObituary& o) { return o.entry.key == key; });
  return {};
}

const std::string* MetadataTable::Get(const std::string& key, Instant now) const {
  const auto found = entries_.find(key);
  return found != entries_.end() && found->second.expires > now ? &found->second.value : nullptr;
}

bool MetadataTable::Remove(const std::string& key, Instant now, WallTime wall) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return false;
  const bool live = found->second.expires > now;
  Drop(found, live ? "withdrawn" : "expired", wall);
  return live;
}

Instant MetadataTable::Expire(Instant now, WallTime wall) {
  Instant next = kNever;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.expires <= now) {
      it = Drop(it, "expired", wall);
    } else {
      next = std::min(next, it->second.expires);
      ++it;
    }
  }
  return next;
}

MetadataListing MetadataTable::List(std::string_view prefix, Instant now) const {
  MetadataListing listing;
  for (auto it = entries_.lower_bound(prefix); it != entries_.end(); ++it) {
    if (!it->first.starts_with(prefix)) break;
    if (it->second.expires > now) listing.entries.push_back({it->first, it->second.value});
  }
  for (const MetadataObituary& obituary : gone_) {
    if (obituary.entry.key.starts_with(prefix)) listing.gone.push_back(obituary);
  }
  return listing;
}

MetadataTable::Entries::iterator MetadataTable::Drop(Entries::iterator it, std::string cause,
                                                     WallTime wall) {
  constexpr std::size_t kGoneMax = 256;
  bytes_ -= it->first.size() + it->second.value.size();
  if (it->second.expires != kNever) {
    if (gone_.size() == kGoneMax) gone_.erase(gone_.begin());
    gone_.push_back({{it->first, std::move(it->second.value)}, std::move(cause), wall});
  }
  return entries_.erase(it);
}

}  // namespace mooncake
