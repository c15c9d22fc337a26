// The records that a directory of our own holds in memory: decisions over values, no clock and no
// socket of its own.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "directory/directory.h"

namespace mooncake {

class RecordTable {
 public:
  /// A new record, or a sign of life of one that is here. Bounded: kPeerBusy when there are 65,536.
  [[nodiscard]] Status Register(Record record, Instant expires);
  void Withdraw(const InstanceId& id, WallTime now);
  /// The connection over which it lived broke: it expires at `when` unless it registers again
  /// before.
  void Shorten(const InstanceId& id, Instant when);
  /// Drops what has expired. Returns when to look again.
  Instant Expire(Instant now, WallTime wall);
  [[nodiscard]] std::vector<Record> List(const std::string& cluster) const;
  [[nodiscard]] const std::vector<Obituary>& gone() const noexcept { return gone_; }
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

 private:
  struct Entry {
    Record record;
    Instant expires;
  };
  void Bury(const Record& record, std::string cause, WallTime now);
  std::map<InstanceId, Entry> entries_;
  std::vector<Obituary> gone_;
};

}  // namespace mooncake
