// What the directories have in common whose records lie in a service that others run: publishing
// through its outages, signs of life, the roster. What differs is how one kind of service holds
// records: a RecordStore.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "directory/directory.h"

namespace mooncake {

struct Listing {
  std::vector<Record> records;
  std::vector<Obituary> gone;  ///< Where the service remembers them.
};

/// The records of one cluster in one service. On the control loop; one call at a time.
/// Errors of every call: kDirectory…, kWrongService, and those of the network.
class RecordStore {
 public:
  virtual ~RecordStore() = default;
  /// The connection string, without passwords.
  [[nodiscard]] virtual std::string Describe() const = 0;
  /// Writes the record of this process, or shows that it is alive. It stands for kLeaseDuration
  /// from now on.
  [[nodiscard]] virtual Task<Status> Put(Record record, Instant deadline) = 0;
  [[nodiscard]] virtual Task<Status> Remove(InstanceId id, Instant deadline) = 0;
  /// The live records, in any order.
  [[nodiscard]] virtual Task<Result<Listing>> List(Instant deadline) = 0;
  /// Ends the connection, and a call in flight with it.
  virtual void Close() = 0;
};

[[nodiscard]] std::unique_ptr<Directory> MakeLeasedDirectory(World& world,
                                                             std::unique_ptr<RecordStore> store);

/// Adds the record that `value`, a JSON text found at `where`, holds. One that cannot be read is
/// skipped.
void AddRecord(std::string_view value, const std::string& where, Listing& listing);

/// False where waiting cannot help: somebody must correct something first.
[[nodiscard]] bool IsWorthRetrying(const Error& error) noexcept;

/// What a failed connection to a directory at `where` ("host:port") is called.
[[nodiscard]] Error DirectoryFault(const std::string& where, const Error& error);

}  // namespace mooncake
