#include "directory/memory/record_table.h"

#include <algorithm>

namespace mooncake {

Status RecordTable::Register(Record record, Instant expires) {
  constexpr std::size_t kRecordsMax = 65536;
  const InstanceId id = record.identity.id;
  const auto found = entries_.find(id);
  if (found == entries_.end() && entries_.size() >= kRecordsMax)
    return Fail(ErrorId::kPeerBusy, "65536 records");
  entries_.insert_or_assign(id, Entry{std::move(record), expires});
  return {};
}

void RecordTable::Withdraw(const InstanceId& id, WallTime now) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  Bury(found->second.record, "withdrawn", now);
  entries_.erase(found);
}

void RecordTable::Shorten(const InstanceId& id, Instant when) {
  const auto found = entries_.find(id);
  if (found != entries_.end()) found->second.expires = std::min(found->second.expires, when);
}

Instant RecordTable::Expire(Instant now, WallTime wall) {
  Instant next = kNever;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.expires <= now) {
      Bury(it->second.record, "expired", wall);
      it = entries_.erase(it);
    } else {
      next = std::min(next, it->second.expires);
      ++it;
    }
  }
  return next;
}

std::vector<Record> RecordTable::List(const std::string& cluster) const {
  std::vector<Record> records;
  for (const auto& [id, entry] : entries_) {
    if (entry.record.cluster == cluster) records.push_back(entry.record);
  }
  return records;
}

void RecordTable::Bury(const Record& record, std::string cause, WallTime now) {
  constexpr std::size_t kGoneMax = 256;
  if (gone_.size() == kGoneMax) gone_.erase(gone_.begin());
  gone_.push_back({record, std::move(cause), now});
}

}  // namespace mooncake
