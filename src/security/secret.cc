#include "security/secret.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <cstring>

#include "base/assert.h"
#include "base/base64.h"

namespace mooncake {
namespace {

std::string Hmac(std::string_view key, std::string_view text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int bytes = 0;
  const unsigned char* const made = ::HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                                           reinterpret_cast<const unsigned char*>(text.data()),
                                           text.size(), digest.data(), &bytes);
  MC_ASSERT(made != nullptr && bytes == kProofBytes);
  return {reinterpret_cast<const char*>(digest.data()), bytes};
}

bool AreEqual(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

Result<std::shared_ptr<const ClusterSecret>> ClusterSecret::Make(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsBlank(text.back())) text.remove_suffix(1);
  if (text.size() < kSecretBytesMin || text.size() > kSecretBytesMax) {
    return Fail(ErrorId::kBadCredentials,
                fmt::format("the cluster's secret has {} bytes; it must have {} to {}", text.size(),
                            kSecretBytesMin, kSecretBytesMax));
  }
  return std::shared_ptr<const ClusterSecret>(new ClusterSecret(std::string(text)));
}

std::string ClusterSecret::Prove(ProofSide side, std::string_view caller_nonce,
                                 std::string_view callee_nonce) const {
  std::string text =
      side == ProofSide::kCaller ? "mooncake proof 1 caller" : "mooncake proof 1 callee";
  text += caller_nonce;
  text += callee_nonce;
  return Hmac(secret_, text);
}

bool ClusterSecret::Accepts(std::string_view proof, ProofSide side, std::string_view caller_nonce,
                            std::string_view callee_nonce) const {
  if (caller_nonce.size() != kNonceBytes || callee_nonce.size() != kNonceBytes) return false;
  return AreEqual(proof, Prove(side, caller_nonce, callee_nonce));
}

std::string ClusterSecret::HttpToken() const {
  const std::string digest = Hmac(secret_, "mooncake http 1");
  std::string token;
  for (const char c : digest) token += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return token;
}

bool ClusterSecret::AcceptsAuthorization(std::string_view header) const {
  constexpr std::string_view kBearer = "Bearer ";
  constexpr std::string_view kBasic = "Basic ";
  if (header.starts_with(kBearer)) return AreEqual(header.substr(kBearer.size()), HttpToken());
  if (!header.starts_with(kBasic)) return false;
  const std::optional<std::string> pair = DecodeBase64(header.substr(kBasic.size()));
  if (!pair) return false;
  const std::string_view text(*pair);
  const std::size_t colon = text.find(':');
  return colon != std::string_view::npos && AreEqual(text.substr(colon + 1), HttpToken());
}

std::string DrawNonce(Random& random) {
  std::string nonce(kNonceBytes, '\0');
  for (std::size_t at = 0; at < kNonceBytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t bits = random.Next();
    std::memcpy(nonce.data() + at, &bits, sizeof bits);
  }
  return nonce;
}

}  // namespace mooncake
