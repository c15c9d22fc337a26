// The secret that all processes of a cluster share, and how it is proven without being told
// (challenge and response, HMAC-SHA256, RFC 2104). docs/wire.md has the bytes.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "base/world.h"

namespace mooncake {

inline constexpr std::size_t kProofBytes = 32;
inline constexpr std::size_t kNonceBytes = 32;
inline constexpr std::size_t kSecretBytesMin = 16;
inline constexpr std::size_t kSecretBytesMax = 4096;

enum class ProofSide { kCaller, kCallee };

/// Immutable; any thread.
class ClusterSecret {
 public:
  /// Blanks and line ends around `text` do not count. kBadCredentials if it is too short or too
  /// long.
  [[nodiscard]] static Result<std::shared_ptr<const ClusterSecret>> Make(std::string_view text);

  /// What `side` shows on the connection that has these nonces, of kNonceBytes each.
  [[nodiscard]] std::string Prove(ProofSide side, std::string_view caller_nonce,
                                  std::string_view callee_nonce) const;
  /// Takes as long for a wrong proof as for a right one.
  [[nodiscard]] bool Accepts(std::string_view proof, ProofSide side, std::string_view caller_nonce,
                             std::string_view callee_nonce) const;

  /// What HTTP clients send in its place: 64 hexadecimal digits, from which the secret cannot be
  /// computed.
  [[nodiscard]] std::string HttpToken() const;
  /// The value of an Authorization header: "Bearer TOKEN", or "Basic …" with the token as password.
  [[nodiscard]] bool AcceptsAuthorization(std::string_view header) const;

 private:
  explicit ClusterSecret(std::string secret) : secret_(std::move(secret)) {}
  std::string secret_;
};

[[nodiscard]] std::string DrawNonce(Random& random);

}  // namespace mooncake
