// Certificates for tests: an issuer made on the spot, and what it signs.
#pragma once

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/address.h"
#include "base/assert.h"

namespace mooncake {

/// A folder of its own, removed at the end.
class TestFiles {
 public:
  TestFiles() {
    std::string path = (std::filesystem::temp_directory_path() / "mooncake-test-XXXXXX").string();
    MC_ASSERT(::mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ~TestFiles() { std::filesystem::remove_all(path_); }
  TestFiles(const TestFiles&) = delete;
  TestFiles& operator=(const TestFiles&) = delete;
  /// Its path.
  std::string Write(const std::string& content) {
    const std::string path = (path_ / std::to_string(++count_)).string();
    std::ofstream(path) << content;
    return path;
  }

 private:
  std::filesystem::path path_;
  int count_ = 0;
};

class TestIssuer {
 public:
  static constexpr long kValid = 3600;
  static constexpr long kExpired = -60;

  TestIssuer() : key_(EVP_EC_gen("P-256")), certificate_(Sign("issuer", key_, kValid, true)) {}
  ~TestIssuer() {
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  TestIssuer(const TestIssuer&) = delete;
  TestIssuer& operator=(const TestIssuer&) = delete;

  [[nodiscard]] std::string certificate() const { return ToPem(certificate_); }

  struct Issued {
    std::string certificate;
    std::string key;
  };
  /// For the address or name `host`; it ends in `seconds`.
  [[nodiscard]] Issued Issue(const std::string& host, long seconds = kValid) const {
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const certificate = Sign(host, key, seconds, false);
    BIO* const bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
    Issued issued{ToPem(certificate), Take(bio)};
    X509_free(certificate);
    EVP_PKEY_free(key);
    return issued;
  }

 private:
  X509* Sign(const std::string& name, EVP_PKEY* subject_key, long seconds, bool is_issuer) const {
    X509* const certificate = X509_new();
    X509_set_version(certificate, X509_VERSION_3);
    static long serial = 1;
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), seconds);
    X509_set_pubkey(certificate, subject_key);
    X509_NAME* const subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate, is_issuer ? subject : X509_get_subject_name(certificate_));
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, is_issuer ? certificate : certificate_, certificate, nullptr, nullptr,
                   0);
    const std::string kind = is_issuer ? "CA:TRUE" : "CA:FALSE";
    const std::string host = (ParseIpAddress(name) ? "IP:" : "DNS:") + name;
    for (const auto& [what, value] :
         {std::pair{NID_basic_constraints, kind}, std::pair{NID_subject_alt_name, host}}) {
      X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, what, value.c_str());
      X509_add_ext(certificate, extension, -1);
      X509_EXTENSION_free(extension);
    }
    MC_ASSERT(X509_sign(certificate, key_, EVP_sha256()) > 0);
    return certificate;
  }
  static std::string ToPem(X509* certificate) {
    BIO* const bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, certificate);
    return Take(bio);
  }
  static std::string Take(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    std::string text(data, static_cast<std::size_t>(size));
    BIO_free(bio);
    return text;
  }

  EVP_PKEY* key_ = nullptr;
  X509* certificate_ = nullptr;
};

}  // namespace mooncake
