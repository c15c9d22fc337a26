// Records in the forms in which they travel: Protobuf between our processes, JSON in etcd.
#pragma once

#include <string>
#include <vector>

#include "directory/directory.h"

namespace mooncake {

namespace pb {
class Record;
}

[[nodiscard]] pb::Record ToProto(const Record& record);
[[nodiscard]] Record FromProto(const pb::Record& proto);
[[nodiscard]] std::string ToJson(const Record& record);
/// kDirectoryGarbage names what is missing or of the wrong kind.
[[nodiscard]] Result<Record> RecordFromJson(std::string_view text);

/// Remembers what a directory listed before, so that "not found" can say what became of a label.
/// Pure.
class Roster {
 public:
  /// A new listing: what was there and is not any more is remembered as gone, 256 at most.
  void Update(const std::vector<Record>& records, WallTime now);
  void Bury(const Obituary& obituary);
  [[nodiscard]] const std::vector<Record>& records() const noexcept { return records_; }
  [[nodiscard]] const std::vector<Obituary>& gone() const noexcept { return gone_; }

 private:
  std::vector<Record> records_;
  std::vector<Obituary> gone_;
};

}  // namespace mooncake
