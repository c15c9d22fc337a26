// Who is where: records of live instances, each under a lease held by the process that it
// describes. One interface, a folder for each kind. All of it lives on the control loop.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/world.h"
#include "wire/handshake.h"

namespace mooncake {

/// A crashed process is gone from every directory after this long; an orderly one at once.
inline constexpr Duration kLeaseDuration = std::chrono::seconds(10);

/// What a process says of itself. Others' records are data.
struct Record {
  Identity identity;
  std::string cluster;
  std::vector<Endpoint> endpoints;  ///< Every address at which it accepts connections, best first;
                                    ///< bound before published.
  std::map<std::string, std::string> attributes;  ///< "role", "model", …
  WallTime registered{};
};

/// A record that was there and is not any more.
struct Obituary {
  Record record;
  std::string cause;  ///< "expired", "withdrawn", "replaced".
  WallTime gone{};
};

/// Since when a directory has not answered, and why.
struct Outage {
  Instant since;
  Error cause;
};

class Directory {
 public:
  virtual ~Directory() = default;
  /// The connection string, without passwords.
  [[nodiscard]] virtual std::string Describe() const = 0;
  /// Publishes the one record of this process and keeps it alive until Withdraw(), through outages
  /// and restarts of the directory. Returns when it stands there for the first time. Errors:
  /// kDirectory… (E003, E009 to E012), at once where waiting cannot help, else at `deadline`.
  [[nodiscard]] virtual Task<Status> Publish(Record record, Instant deadline) = 0;
  /// Takes the record away and stops. Without Publish(): only stops.
  [[nodiscard]] virtual Task<void> Withdraw(Instant deadline) = 0;
  /// Every live record of the cluster, in the order of ids. Errors as Publish.
  [[nodiscard]] virtual Task<Result<std::vector<Record>>> List(Instant deadline) = 0;
  /// The newest live incarnation of `label`. kNotFound says which it is: never registered, expired,
  /// replaced, withdrawn; kDirectoryUnreachable says since when.
  [[nodiscard]] virtual Task<Result<Record>> Find(std::string label, Instant deadline) = 0;
  [[nodiscard]] virtual std::optional<Outage> outage() const = 0;
};

/// What a process is to its host's own directory.
enum class DirectoryUse {
  kMember,  ///< Carries it where nobody does.
  kReader,  ///< Only looks: where nobody carries it, calls fail with kDirectoryRefused.
};

struct DirectoryAccess {
  DirectoryUse use = DirectoryUse::kMember;
  std::string redis_password;  ///< For a redis:// without a password of its own.
};

/// `connection` as users write it: "" (this host), "mooncake://host:port",
/// "etcd://[user:password@]host:port[,…]", "host:port" (etcd, as users expect),
/// "redis://[[user:]password@]host:port[/database]", "http://host:port/metadata", "P2PHANDSHAKE".
/// Errors: kBadAddress, kBadOptionValue.
[[nodiscard]] Result<std::unique_ptr<Directory>> OpenDirectory(World& world,
                                                               const std::string& connection,
                                                               const std::string& cluster,
                                                               const DirectoryAccess& access = {});

/// The newest live incarnation of `label` among `records`, or the kNotFound that `gone` explains.
[[nodiscard]] Result<Record> PickNewest(const std::string& label,
                                        const std::vector<Record>& records,
                                        const std::vector<Obituary>& gone);

}  // namespace mooncake
