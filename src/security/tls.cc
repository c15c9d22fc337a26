#include "security/tls.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>

#include "base/address.h"
#include "base/assert.h"

namespace mooncake {
namespace {

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* object) const noexcept {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, Freed<&BIO_free>>;
using CertificatePtr = std::unique_ptr<X509, Freed<&X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freed<&EVP_PKEY_free>>;
using ContextPtr = std::unique_ptr<SSL_CTX, Freed<&SSL_CTX_free>>;
using SessionPtr = std::unique_ptr<SSL, Freed<&SSL_free>>;

constexpr std::uint64_t kPemBytesMax = 4 << 20;

class Context final : public TlsContext {
 public:
  Context(ContextPtr context, bool checks_host)
      : context_(std::move(context)), checks_host_(checks_host) {}
  SSL_CTX* get() const noexcept { return context_.get(); }
  bool checks_host() const noexcept { return checks_host_; }

 private:
  ContextPtr context_;
  bool checks_host_;
};

// The newest entry of OpenSSL's own list of errors, which is emptied.
std::string TakeReason() {
  const unsigned long code = ERR_peek_last_error();
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown reason" : reason;
}

tl::unexpected<Error> BadFile(const std::string& path, std::string_view why) {
  return Fail(ErrorId::kBadCredentials, fmt::format("{}: {}", path, why));
}

// Every certificate of a PEM file, in its order.
Result<std::vector<CertificatePtr>> ReadCertificates(Files& files, const std::string& path) {
  MC_TRY(const std::string pem, files.Read(path, kPemBytesMax));
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<CertificatePtr> certificates;
  while (X509* const one = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(one);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = TakeReason();
  if (!at_end) return BadFile(path, "a certificate in it cannot be read: " + reason);
  if (certificates.empty()) return BadFile(path, "it holds no PEM certificate");
  for (const CertificatePtr& one : certificates) {
    if (X509_cmp_current_time(X509_get0_notAfter(one.get())) < 0) {
      return BadFile(path, "a certificate in it has expired");
    }
  }
  return certificates;
}

Result<KeyPtr> ReadKey(Files& files, const std::string& path) {
  MC_TRY(const std::string pem, files.Read(path, kPemBytesMax));
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const auto no_password = [](char*, int, int, void*) { return -1; };
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  if (!key) {
    return BadFile(path,
                   "it holds no private key that can be used without a password: " + TakeReason());
  }
  return key;
}

Status UseCertificate(SSL_CTX* context, Files& files, const TlsFiles& from) {
  MC_TRY(const std::vector<CertificatePtr> chain, ReadCertificates(files, from.certificate));
  const std::string& key_path = from.key.empty() ? from.certificate : from.key;
  MC_TRY(const KeyPtr key, ReadKey(files, key_path));
  if (SSL_CTX_use_certificate(context, chain.front().get()) != 1) {
    return BadFile(from.certificate, TakeReason());
  }
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) {
      return BadFile(from.certificate, TakeReason());
    }
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    ERR_clear_error();
    return BadFile(key_path, "it is not the key of the certificate in " + from.certificate);
  }
  return {};
}

Status TrustCa(SSL_CTX* context, Files& files, const std::string& path) {
  if (path.empty()) {
    SSL_CTX_set_default_verify_paths(context);
    return {};
  }
  MC_TRY(const std::vector<CertificatePtr> trusted, ReadCertificates(files, path));
  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  for (const CertificatePtr& one : trusted) {
    if (X509_STORE_add_cert(store, one.get()) != 1) return BadFile(path, TakeReason());
  }
  return {};
}

ContextPtr MakeContext(int version_min) {
  ContextPtr context(SSL_CTX_new(TLS_method()));
  MC_ASSERT(context);
  SSL_CTX_set_min_proto_version(context.get(), version_min);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  return context;
}

class TlsStream final : public Stream {
 public:
  TlsStream(std::shared_ptr<Stream> plain, std::shared_ptr<const Context> context)
      : plain_(std::move(plain)), context_(std::move(context)), ssl_(SSL_new(context_->get())) {
    MC_ASSERT(ssl_);
    incoming_ = BIO_new(BIO_s_mem());
    outgoing_ = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(incoming_, -1);          // empty is "not yet", never the end
    SSL_set_bio(ssl_.get(), incoming_, outgoing_);  // which owns both from here on
  }

  void BeCaller(const std::string& host) {
    SSL_set_connect_state(ssl_.get());
    if (!context_->checks_host()) return;
    if (ParseIpAddress(host)) {
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_.get()), host.c_str());
    } else {
      SSL_set1_host(ssl_.get(), host.c_str());
      SSL_set_tlsext_host_name(ssl_.get(), host.c_str());
    }
  }
  void BeCallee(Bytes received) {
    SSL_set_accept_state(ssl_.get());
    Receive(received);
  }

  Task<Status> Handshake() {
    for (;;) {
      ERR_clear_error();
      const int done = SSL_do_handshake(ssl_.get());
      const int state = SSL_get_error(ssl_.get(), done);
      const Error failure = done == 1 || state == SSL_ERROR_WANT_READ ? Error{} : Failure();
      auto flush = Flush();
      const Status flushed = co_await std::move(flush);  // an alert too
      if (failure.id == ErrorId::kTlsFailed) co_return Fail(failure);
      if (!flushed) co_return flushed;
      if (done == 1) co_return Status{};
      auto more = ReceiveMore();
      const Status received = co_await std::move(more);
      if (received) continue;
      if (received.error().id != ErrorId::kConnectionClosed) co_return received;
      co_return Fail(
          ErrorId::kTlsFailed,
          "the connection was closed during the TLS hand-shake: perhaps that side has no "
          "certificate",
          received.error().os_error);
    }
  }

  Task<Result<std::size_t>> ReadSome(MutableBytes into) override {
    const std::array<MutableBytes, 1> one = {into};
    auto read = ReadSomeV(one);
    co_return co_await std::move(read);
  }

  Task<Result<std::size_t>> ReadSomeV(std::span<const MutableBytes> into) override {
    for (;;) {
      if (closed_) co_return Fail(ErrorId::kClosed, "TLS connection");
      if (failure_) co_return Fail(*failure_);
      const std::size_t count = Open(into);
      if (count > 0) co_return count;
      if (failure_) co_return Fail(*failure_);
      auto more = ReceiveMore();
      const Status received = co_await std::move(more);
      if (!received) co_return Fail(received.error());
    }
  }

  Task<Status> Write(std::span<const Bytes> buffers) override {
    constexpr std::size_t kSealedMax = 256 << 10;  // of one write to the network
    for (Bytes buffer : buffers) {
      while (!buffer.empty()) {
        if (closed_) co_return Fail(ErrorId::kClosed, "TLS connection");
        if (failure_) co_return Fail(*failure_);
        const Bytes piece =
            buffer.first(std::min<std::size_t>(buffer.size(), SSL3_RT_MAX_PLAIN_LENGTH));
        ERR_clear_error();
        std::size_t written = 0;
        if (SSL_write_ex(ssl_.get(), piece.data(), piece.size(), &written) != 1) {
          failure_ = Failure();
          co_return Fail(*failure_);
        }
        buffer = buffer.subspan(written);
        if (BIO_ctrl_pending(outgoing_) < kSealedMax) continue;
        auto flush = Flush();
        const Status flushed = co_await std::move(flush);
        if (!flushed) co_return flushed;
      }
    }
    auto flush = Flush();
    co_return co_await std::move(flush);
  }

  void Close() noexcept override {
    closed_ = true;
    plain_->Close();
  }
  Status MoveTo(const Executor& executor) override { return plain_->MoveTo(executor); }
  std::unique_ptr<ThreadStream> TakeForThreads() override { return nullptr; }
  void ExpectMore() noexcept override { plain_->ExpectMore(); }
  Endpoint local() const override { return plain_->local(); }
  Endpoint remote() const override { return plain_->remote(); }

 private:
  // What is there already, decrypted; 0: nothing yet, or failure_ is set.
  std::size_t Open(std::span<const MutableBytes> into) {
    std::size_t total = 0;
    for (MutableBytes part : into) {
      while (!part.empty()) {
        ERR_clear_error();
        std::size_t count = 0;
        const int done = SSL_read_ex(ssl_.get(), part.data(), part.size(), &count);
        if (done != 1) {
          const int state = SSL_get_error(ssl_.get(), done);
          if (state == SSL_ERROR_ZERO_RETURN) {
            failure_ = Error{ErrorId::kConnectionClosed, "the peer ended the TLS connection"};
          } else if (state != SSL_ERROR_WANT_READ) {
            failure_ = Failure();
          }
          return total;
        }
        total += count;
        part = part.subspan(count);
      }
    }
    return total;
  }

  Task<Status> ReceiveMore() {
    constexpr std::size_t kPieceBytes = SSL3_RT_MAX_PACKET_SIZE;
    piece_.resize(kPieceBytes);
    const Result<std::size_t> count = co_await plain_->ReadSome(piece_);
    if (!count) co_return Fail(count.error());
    Receive(Bytes(piece_).first(*count));
    co_return Status{};
  }
  void Receive(Bytes bytes) {
    const int taken = BIO_write(incoming_, bytes.data(), static_cast<int>(bytes.size()));
    MC_ASSERT(taken == static_cast<int>(bytes.size()));
  }

  // A copy goes out: reading may add to `outgoing_` meanwhile, which goes with the next flush.
  Task<Status> Flush() {
    sealed_.resize(BIO_ctrl_pending(outgoing_));
    if (sealed_.empty()) co_return Status{};
    const int count = BIO_read(outgoing_, sealed_.data(), static_cast<int>(sealed_.size()));
    MC_ASSERT(count == static_cast<int>(sealed_.size()));
    const Bytes bytes(sealed_);
    co_return co_await plain_->Write(std::span(&bytes, 1));
  }

  // Of the call that just failed.
  Error Failure() const {
    const long verified = SSL_get_verify_result(ssl_.get());
    if (verified != X509_V_OK) {
      ERR_clear_error();
      return {ErrorId::kTlsFailed, fmt::format("its certificate is not accepted: {}",
                                               X509_verify_cert_error_string(verified))};
    }
    const int reason = ERR_GET_REASON(ERR_peek_last_error());
    const std::string text = TakeReason();
    if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST) {
      return {ErrorId::kTlsFailed, "it does not speak TLS"};
    }
    // OpenSSL numbers the alerts of the other side from here on.
    if (reason >= SSL_AD_REASON_OFFSET) {
      return {ErrorId::kTlsFailed, "it refuses: " + text};
    }
    return {ErrorId::kTlsFailed, text};
  }

  std::shared_ptr<Stream> plain_;
  std::shared_ptr<const Context> context_;
  SessionPtr ssl_;
  BIO* incoming_ = nullptr;        // encrypted, from the network
  BIO* outgoing_ = nullptr;        // encrypted, for it
  std::vector<std::byte> piece_;   // just received
  std::vector<std::byte> sealed_;  // being sent
  std::optional<Error> failure_;   // after it, the session may not be used any more
  bool closed_ = false;
};

std::shared_ptr<TlsStream> Over(std::shared_ptr<Stream> plain,
                                const std::shared_ptr<const TlsContext>& context) {
  return std::make_shared<TlsStream>(std::move(plain),
                                     std::static_pointer_cast<const Context>(context));
}

Task<Result<std::shared_ptr<Stream>>> HandshakeOver(std::shared_ptr<TlsStream> stream) {
  auto handshake = stream->Handshake();
  const Status done = co_await std::move(handshake);
  if (!done) co_return Fail(done.error());
  co_return std::shared_ptr<Stream>(std::move(stream));
}

}  // namespace

Result<std::shared_ptr<const TlsContext>> TlsContext::ForCluster(Files& files,
                                                                 const TlsFiles& from) {
  if (from.certificate.empty() || from.ca.empty()) {
    return Fail(
        ErrorId::kBadCredentials,
        "TLS between instances needs tls_certificate and tls_ca, and tls_key where the key is "
        "in a file of its own");
  }
  ContextPtr context = MakeContext(TLS1_3_VERSION);
  MC_TRY_STATUS(UseCertificate(context.get(), files, from));
  MC_TRY_STATUS(TrustCa(context.get(), files, from.ca));
  return std::make_shared<const Context>(std::move(context), false);
}

Result<std::shared_ptr<const TlsContext>> TlsContext::ForServices(Files& files,
                                                                  const TlsFiles& from) {
  ContextPtr context = MakeContext(TLS1_2_VERSION);
  if (!from.certificate.empty()) {
    MC_TRY_STATUS(UseCertificate(context.get(), files, from));
  }
  MC_TRY_STATUS(TrustCa(context.get(), files, from.ca));
  return std::make_shared<const Context>(std::move(context), true);
}

Task<Result<std::shared_ptr<Stream>>> ConnectTls(std::shared_ptr<Stream> plain,
                                                 std::shared_ptr<const TlsContext> context,
                                                 std::string host) {
  std::shared_ptr<TlsStream> stream = Over(std::move(plain), context);
  stream->BeCaller(host);
  auto handshake = HandshakeOver(std::move(stream));
  co_return co_await std::move(handshake);
}

Task<Result<std::shared_ptr<Stream>>> AcceptTls(std::shared_ptr<Stream> plain,
                                                std::shared_ptr<const TlsContext> context,
                                                Bytes received) {
  std::shared_ptr<TlsStream> stream = Over(std::move(plain), context);
  stream->BeCallee(received);
  auto handshake = HandshakeOver(std::move(stream));
  co_return co_await std::move(handshake);
}

}  // namespace mooncake
