#include "security/credentials.h"

namespace mooncake {

Result<Credentials> LoadCredentials(Files& files, const Options& options) {
  Credentials credentials;
  std::string secret = options.Text("cluster_secret");
  if (const std::string& path = options.Text("cluster_secret_file"); !path.empty()) {
    if (!secret.empty()) {
      return Fail(ErrorId::kBadCredentials,
                  "cluster_secret and cluster_secret_file are both given");
    }
    MC_TRY(secret, files.Read(path, kSecretBytesMax + 64));  // and what is around it
    if (secret.empty()) return Fail(ErrorId::kBadCredentials, path + " is empty");
  }
  if (!secret.empty()) {
    MC_TRY(credentials.secret, ClusterSecret::Make(secret));
  }
  const TlsFiles from{options.Text("tls_certificate"), options.Text("tls_key"),
                      options.Text("tls_ca")};
  if (!from.certificate.empty() || !from.key.empty() || !from.ca.empty()) {
    MC_TRY(credentials.tls, TlsContext::ForCluster(files, from));
  }
  return credentials;
}

}  // namespace mooncake
