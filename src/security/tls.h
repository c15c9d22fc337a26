// TLS over any Stream (OpenSSL, through memory: no socket and no thread of its own).
#pragma once

#include <memory>
#include <string>

#include "base/world.h"

namespace mooncake {

/// PEM files.
struct TlsFiles {
  std::string certificate;  ///< This side's, followed by its chain. Empty: none is shown.
  std::string key;          ///< Empty: in the file of the certificate.
  std::string ca;  ///< Who signs the certificates of the others. Empty: whom the host trusts.
};

/// Certificates, read and checked. Immutable; any thread.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
  /// For connections between processes of one cluster, at both ends: both show a certificate that
  /// the CA has signed, whatever name is in it. All files are needed. TLS 1.3. Errors: kFileAccess,
  /// kBadCredentials.
  [[nodiscard]] static Result<std::shared_ptr<const TlsContext>> ForCluster(Files& files,
                                                                            const TlsFiles& from);
  /// For connections to a service: its certificate must have the name or address that it was
  /// connected under. TLS 1.2 or later. Errors: kFileAccess, kBadCredentials.
  [[nodiscard]] static Result<std::shared_ptr<const TlsContext>> ForServices(Files& files,
                                                                             const TlsFiles& from);
};

/// Whether a connection that begins with this byte carries TLS: the content type of a hand-shake.
[[nodiscard]] constexpr bool BeginsTls(std::byte first) noexcept { return first == std::byte{22}; }

/// The caller's hand-shake over `plain`, on its loop; `host` is the name that it was connected
/// under. Close `plain` to give it up. Errors: kTlsFailed, and those of the stream. The result
/// stays on loops (TakeForThreads() is null).
[[nodiscard]] Task<Result<std::shared_ptr<Stream>>> ConnectTls(
    std::shared_ptr<Stream> plain, std::shared_ptr<const TlsContext> context, std::string host);

/// The callee's; `received` are bytes that were read from `plain` already.
[[nodiscard]] Task<Result<std::shared_ptr<Stream>>> AcceptTls(
    std::shared_ptr<Stream> plain, std::shared_ptr<const TlsContext> context, Bytes received);

}  // namespace mooncake
