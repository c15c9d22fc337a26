// What a process shows to others of its cluster, and asks of them.
#pragma once

#include <memory>
#include <string>

#include "base/options.h"
#include "security/secret.h"
#include "security/tls.h"

namespace mooncake {

struct Credentials {
  std::shared_ptr<const TlsContext> tls;        ///< Null: connections are plain.
  std::shared_ptr<const ClusterSecret> secret;  ///< Null: nothing has to be proven.
};

/// Rows of the tables of options of every program that talks to instances.
inline constexpr OptionSpec kCredentialOptions[] = {
    {"cluster_secret_file", "", Unit::kText,
     "A file with the secret that all processes of the cluster share, at least 16 bytes: "
     "connections prove that they know it before "
     "they may say anything else."},
    {"cluster_secret", "", Unit::kSecret,
     "The secret itself, best through the environment: flags can be seen by everybody on the "
     "host."},
    {"tls_certificate", "", Unit::kText,
     "A PEM file with this process's certificate and its chain: all connections between hosts are "
     "encrypted, and both sides show theirs."},
    {"tls_key", "", Unit::kText,
     "A PEM file with the private key of tls_certificate. Without a value: it is in the same "
     "file."},
    {"tls_ca", "", Unit::kText,
     "A PEM file with the CA that signs the certificates of the cluster."},
};

/// From the rows above. Errors: kFileAccess, kBadCredentials.
[[nodiscard]] Result<Credentials> LoadCredentials(Files& files, const Options& options);

}  // namespace mooncake
