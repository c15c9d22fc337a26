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
/// How often it is shown to be alive.
inline constexpr Duration kRefreshInterval = kLeaseDuration / 5;

/// What a process says of itself. Others' records are data.
struct Record {
  Identity identity;
  std::string cluster;
  std::vector<Endpoint> endpoints;  ///< Every address at which it accepts connections, best first;
                                    ///< bound before published.
  std::map<std::string, std::string> attributes;  ///< "role", "model", …
  WallTime registered{};
};

/// Where others may reach a process that listens at `bound`: there and nowhere else, or, if that is
/// every address, at all of the host's. Loopback only where there is nothing else.
[[nodiscard]] std::vector<Endpoint> ReachableAt(Network& network, const Endpoint& bound);

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
  Credentials credentials;     ///< Of the cluster: for a directory that our own processes carry.
  /// For etcds://, rediss:// and https://. Null: whom the host trusts.
  std::shared_ptr<const TlsContext> tls;
};

/// Rows of the tables of options of every program that opens a directory, beside
/// kCredentialOptions.
inline constexpr OptionSpec kDirectoryOptions[] = {
    {"metadata_server",
     "",
     Unit::kText,
     "The directory: etcd://[user:password@]host:port[,host:port], "
     "redis://[[user:]password@]host:port[/database], "
     "http://host:port/metadata (etcds://, rediss://, https:// with TLS), mooncake://host:port, "
     "P2PHANDSHAKE, or host:port for etcd. Without a value: this host's own, which needs no "
     "service.",
     {},
     "directory"},
    {"redis_password",
     "",
     Unit::kSecret,
     "The password of a redis:// directory that is written without one. Also read from "
     "MC_REDIS_PASSWORD.",
     {},
     {},
     "MC_REDIS_PASSWORD"},
    {"directory_ca", "", Unit::kText,
     "A PEM file with the CA of a directory with TLS. Without a value: those that the host "
     "trusts."},
    {"directory_certificate", "", Unit::kText,
     "A PEM file with the certificate that is shown to a directory with TLS."},
    {"directory_key", "", Unit::kText,
     "A PEM file with the private key of directory_certificate. Without a value: it is in the same "
     "file."},
};

/// From the rows above. Errors: kFileAccess, kBadCredentials, kBadOptionValue (a certificate for a
/// directory without TLS).
[[nodiscard]] Result<DirectoryAccess> ReadDirectoryAccess(Files& files, const Options& options,
                                                          Credentials credentials,
                                                          DirectoryUse use = DirectoryUse::kMember);

/// `connection` as users write it: "" (this host), "mooncake://host:port",
/// "etcd://[user:password@]host:port[,…]", "host:port" (etcd, as users expect),
/// "redis://[[user:]password@]host:port[/database]", "http://host:port/metadata", "P2PHANDSHAKE";
/// etcds://, rediss:// and https:// over TLS. Errors: kBadAddress, kBadOptionValue,
/// kBadCredentials.
[[nodiscard]] Result<std::unique_ptr<Directory>> OpenDirectory(World& world,
                                                               const std::string& connection,
                                                               const std::string& cluster,
                                                               const DirectoryAccess& access = {});

/// The newest live incarnation of `label` among `records`, or the kNotFound that `gone` explains.
[[nodiscard]] Result<Record> PickNewest(const std::string& label,
                                        const std::vector<Record>& records,
                                        const std::vector<Obituary>& gone);

}  // namespace mooncake
