// What the HTTP metadata service holds: texts under keys, some of them with an end. Decisions over
// values: no clock and no socket of its own.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "directory/http/metadata_format.h"

namespace mooncake {

class MetadataTable {
 public:
  /// Writes, or writes over. `expires` kNever: it stays until it is removed. Bounded: kPeerBusy at
  /// 65,536 keys or 1 GiB.
  [[nodiscard]] Status Put(const std::string& key, std::string value, Instant expires);
  /// nullptr if there is none, or if it has ended at `now`.
  [[nodiscard]] const std::string* Get(const std::string& key, Instant now) const;
  /// Whether it was there.
  bool Remove(const std::string& key, Instant now, WallTime wall);
  /// Drops what has ended. Returns when to look again.
  Instant Expire(Instant now, WallTime wall);
  /// In the order of keys; of those that had an end, also what became of them.
  [[nodiscard]] MetadataListing List(std::string_view prefix, Instant now) const;
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

 private:
  struct Entry {
    std::string value;
    Instant expires;
  };
  using Entries = std::map<std::string, Entry, std::less<>>;
  Entries::iterator Drop(Entries::iterator it, std::string cause, WallTime wall);
  Entries entries_;
  std::size_t bytes_ = 0;  // keys and values
  std::vector<MetadataObituary> gone_;
};

}  // namespace mooncake
