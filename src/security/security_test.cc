// The secret and TLS by themselves; what ports make of them is in wire/secured_port_test.cc.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/base64.h"
#include "base/test_loop.h"
#include "base/test_support.h"
#include "security/secret.h"
#include "security/test_certificates.h"
#include "security/tls.h"

namespace mooncake {
namespace {

constexpr std::string_view kText = "correct horse battery staple";

TEST(ClusterSecret, IsAsLongAsItMustBe) {
  EXPECT_TRUE(Succeeds(ClusterSecret::Make("  0123456789abcdef\n")));
  EXPECT_TRUE(FailsWith(ClusterSecret::Make("  0123456789abcde\n "), ErrorId::kBadCredentials));
  EXPECT_TRUE(FailsWith(ClusterSecret::Make(std::string(kSecretBytesMax + 1, 'x')),
                        ErrorId::kBadCredentials));
}

TEST(ClusterSecret, AProofIsOfOneSideOneSecretAndOneConnection) {
  const auto secret = *ClusterSecret::Make(kText);
  const auto other = *ClusterSecret::Make("another horse, another battery");
  const std::string caller(kNonceBytes, 'a');
  const std::string callee(kNonceBytes, 'b');
  const std::string proof = secret->Prove(ProofSide::kCaller, caller, callee);
  EXPECT_EQ(proof.size(), kProofBytes);
  EXPECT_TRUE(secret->Accepts(proof, ProofSide::kCaller, caller, callee));
  EXPECT_FALSE(secret->Accepts(proof, ProofSide::kCallee, caller, callee));
  EXPECT_FALSE(secret->Accepts(proof, ProofSide::kCaller, callee, caller));
  EXPECT_FALSE(secret->Accepts(proof.substr(1), ProofSide::kCaller, caller, callee));
  EXPECT_FALSE(secret->Accepts("", ProofSide::kCaller, caller, callee));
  EXPECT_FALSE(other->Accepts(proof, ProofSide::kCaller, caller, callee));
  // Nonces of another length could shift bytes from one to the other.
  EXPECT_FALSE(secret->Accepts(secret->Prove(ProofSide::kCaller, caller + "b", callee.substr(1)),
                               ProofSide::kCaller, caller + "b", callee.substr(1)));
}

// docs/wire.md promises these bytes; computed with Python's hmac.
TEST(ClusterSecret, Golden) {
  const auto secret = *ClusterSecret::Make("0123456789abcdef");
  const std::string caller(kNonceBytes, 'a');
  const std::string callee(kNonceBytes, 'b');
  const auto hex = [](std::string_view bytes) {
    std::string text;
    for (const char c : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
    return text;
  };
  EXPECT_EQ(hex(secret->Prove(ProofSide::kCaller, caller, callee)),
            "e7892663a94871580cd9526797bcd96216301df3f17925d44e4201f13a7c9aff");
  EXPECT_EQ(hex(secret->Prove(ProofSide::kCallee, caller, callee)),
            "8132b86b97968addfde0839cdbed6e9497357c66be85c204af9b5c457e55f8b1");
  EXPECT_EQ(secret->HttpToken(),
            "a3069894d85b5cd5e65b9da9b279eaa91e4d53aec9421f5d8fc586169148af42");
}

TEST(ClusterSecret, HttpShowsATokenOrAPassword) {
  const auto secret = *ClusterSecret::Make(kText);
  const std::string token = secret->HttpToken();
  EXPECT_EQ(token.size(), 2 * kProofBytes);
  EXPECT_TRUE(secret->AcceptsAuthorization("Bearer " + token));
  EXPECT_TRUE(secret->AcceptsAuthorization("Basic " + EncodeBase64("anybody:" + token)));
  for (const std::string& wrong :
       {std::string(), std::string("Bearer"), "Bearer " + std::string(kText),
        "Bearer " + token + "0", token, "Basic " + EncodeBase64(token), std::string("Basic ?"),
        "Basic " + EncodeBase64("a:b")}) {
    EXPECT_FALSE(secret->AcceptsAuthorization(wrong)) << wrong;
  }
}

class Tls : public testing::Test {
 protected:
  // Both hand-shakes over a connection to ourselves; what became of the caller's and the callee's.
  struct Outcome {
    Result<std::shared_ptr<Stream>> caller = Fail(ErrorId::kInternal, "never");
    Result<std::shared_ptr<Stream>> callee = Fail(ErrorId::kInternal, "never");
  };
  static Task<void> Meet(World& world, std::shared_ptr<const TlsContext> caller_context,
                         std::shared_ptr<const TlsContext> callee_context, std::string host,
                         Outcome& outcome) {
    auto listener = world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0});
    if (!listener) co_return;
    const auto accepted = std::make_shared<OneShot<bool>>();
    Spawn(world.control,
          [](Listener& at, std::shared_ptr<const TlsContext> context, Outcome& into,
             std::shared_ptr<OneShot<bool>> end) -> Task<void> {
            Result<std::unique_ptr<Stream>> stream = co_await at.Accept();
            if (stream) {
              std::shared_ptr<Stream> shared = std::move(*stream);
              auto accept = AcceptTls(shared, context, {});
              into.callee = co_await std::move(accept);
              if (!into.callee) shared->Close();
            }
            end->Set(true);
          }(**listener, callee_context, outcome, accepted));
    Result<std::unique_ptr<Stream>> stream =
        co_await world.network.Connect(world.control, (*listener)->bound(), kNever);
    if (!stream) co_return;
    std::shared_ptr<Stream> shared = std::move(*stream);
    auto connect = ConnectTls(shared, caller_context, host);
    outcome.caller = co_await std::move(connect);
    if (!outcome.caller) shared->Close();
    co_await accepted->Get();
  }

  std::shared_ptr<const TlsContext> ForCluster(const TestIssuer& issuer) {
    const TestIssuer::Issued issued = issuer.Issue("some-node");
    return *TlsContext::ForCluster(
        real_.world().files,
        {dir_.Write(issued.certificate), dir_.Write(issued.key), dir_.Write(issuer.certificate())});
  }
  std::shared_ptr<const TlsContext> ForServices(const TestIssuer& issuer) {
    return *TlsContext::ForServices(real_.world().files,
                                    {"", "", dir_.Write(issuer.certificate())});
  }

  RealWorld real_;
  TestFiles dir_;
  TestIssuer issuer_;
};

TEST_F(Tls, CarriesBytesBothWaysInTheirOrder) {
  const auto context = ForCluster(issuer_);
  RunOn(real_.world(), [&]() -> Task<void> {
    Outcome outcome;
    auto meet = Meet(real_.world(), context, context, "127.0.0.1", outcome);
    co_await std::move(meet);
    EXPECT_TRUE(Succeeds(outcome.caller));
    EXPECT_TRUE(Succeeds(outcome.callee));
    if (!outcome.caller || !outcome.callee) co_return;
    // More than sockets hold, both ways at once: neither side may wait for the other's reading.
    constexpr std::size_t kSize = 8 << 20;
    std::vector<std::byte> sent(kSize);
    for (std::size_t i = 0; i < kSize; ++i) sent[i] = static_cast<std::byte>(i * 7 + i / 251);
    const auto write = [](Stream& stream, const std::vector<std::byte>& bytes,
                          std::shared_ptr<OneShot<bool>> end) -> Task<void> {
      const Bytes whole(bytes);
      const std::array<Bytes, 3> parts = {whole.first(5), whole.subspan(5, 0), whole.subspan(5)};
      const Status done = co_await stream.Write(parts);
      end->Set(done.has_value());
    };
    const std::array ends = {std::make_shared<OneShot<bool>>(), std::make_shared<OneShot<bool>>()};
    Spawn(real_.world().control, write(**outcome.caller, sent, ends[0]));
    Spawn(real_.world().control, write(**outcome.callee, sent, ends[1]));
    for (Stream* const stream : {outcome.caller->get(), outcome.callee->get()}) {
      std::vector<std::byte> received(kSize);
      auto read = ReadFull(*stream, received);
      EXPECT_TRUE(Succeeds(co_await std::move(read)));
      EXPECT_TRUE(received == sent);
    }
    for (const auto& end : ends) EXPECT_TRUE(co_await end->Get());
    (*outcome.caller)->Close();
    std::array<std::byte, 8> rest;
    EXPECT_TRUE(FailsWith(co_await (*outcome.callee)->ReadSome(rest), ErrorId::kConnectionClosed));
    EXPECT_TRUE(FailsWith(co_await (*outcome.caller)->ReadSome(rest), ErrorId::kClosed));
  });
}

TEST_F(Tls, TheCertificateOfAnotherIssuerIsRefusedByWhoeverSeesItFirst) {
  const TestIssuer other;
  const auto ours = ForCluster(issuer_);
  const auto theirs = ForCluster(other);
  RunOn(real_.world(), [&]() -> Task<void> {
    Outcome outcome;
    auto meet = Meet(real_.world(), ours, theirs, "127.0.0.1", outcome);
    co_await std::move(meet);
    EXPECT_TRUE(FailsWith(outcome.caller, ErrorId::kTlsFailed));
    EXPECT_NE(outcome.caller.error().context.find("is not accepted"), std::string::npos)
        << outcome.caller.error().context;
    EXPECT_TRUE(FailsWith(outcome.callee, ErrorId::kTlsFailed));
    EXPECT_NE(outcome.callee.error().context.find("refuses"), std::string::npos)
        << outcome.callee.error().context;
  });
}

TEST_F(Tls, ACallerWithoutACertificateIsToldSo) {
  const auto ours = ForCluster(issuer_);
  const TestIssuer::Issued issued = issuer_.Issue("127.0.0.1");
  const auto nameless = ForServices(issuer_);
  const auto service = *TlsContext::ForCluster(
      real_.world().files,
      {dir_.Write(issued.certificate + issued.key), "", dir_.Write(issuer_.certificate())});
  RunOn(real_.world(), [&]() -> Task<void> {
    Outcome outcome;
    auto meet = Meet(real_.world(), nameless, service, "127.0.0.1", outcome);
    co_await std::move(meet);
    EXPECT_TRUE(FailsWith(outcome.callee, ErrorId::kTlsFailed));
    if (!outcome.caller) co_return;  // TLS 1.3: it learns of it when it reads
    std::array<std::byte, 8> rest;
    const Result<std::size_t> read = co_await (*outcome.caller)->ReadSome(rest);
    EXPECT_TRUE(FailsWith(read, ErrorId::kTlsFailed));
    EXPECT_NE(read.error().context.find("certificate required"), std::string::npos)
        << read.error().context;
  });
}

TEST_F(Tls, AServiceIsAskedForItsNameAndAPeerIsNot) {
  const TestIssuer::Issued issued = issuer_.Issue("127.0.0.1");
  const auto service = *TlsContext::ForCluster(
      real_.world().files,
      {dir_.Write(issued.certificate), dir_.Write(issued.key), dir_.Write(issuer_.certificate())});
  const TestIssuer::Issued client = issuer_.Issue("client");
  const auto caller = *TlsContext::ForServices(
      real_.world().files,
      {dir_.Write(client.certificate), dir_.Write(client.key), dir_.Write(issuer_.certificate())});
  RunOn(real_.world(), [&]() -> Task<void> {
    for (const auto& [host, fits] : {std::pair{"127.0.0.1", true}, std::pair{"127.0.0.2", false},
                                     std::pair{"etcd.example", false}}) {
      Outcome outcome;
      auto meet = Meet(real_.world(), caller, service, host, outcome);
      co_await std::move(meet);
      EXPECT_EQ(outcome.caller.has_value(), fits) << host;
      if (!fits) {
        EXPECT_TRUE(FailsWith(outcome.caller, ErrorId::kTlsFailed));
      }
    }
  });
}

TEST_F(Tls, FilesThatCannotBeUsedAreNamed) {
  Files& files = real_.world().files;
  const TestIssuer::Issued issued = issuer_.Issue("a");
  const TestIssuer::Issued other = issuer_.Issue("b");
  const std::string certificate = dir_.Write(issued.certificate);
  const std::string key = dir_.Write(issued.key);
  const std::string ca = dir_.Write(issuer_.certificate());
  const auto says = [](const auto& result, std::string_view text) {
    return !result && result.error().id == ErrorId::kBadCredentials &&
           result.error().context.find(text) != std::string::npos;
  };
  EXPECT_TRUE(Succeeds(TlsContext::ForCluster(files, {certificate, key, ca})));
  EXPECT_TRUE(says(TlsContext::ForCluster(files, {certificate, dir_.Write(other.key), ca}),
                   "not the key of the certificate"));
  EXPECT_TRUE(says(TlsContext::ForCluster(files, {certificate, "", ca}), "no private key"));
  EXPECT_TRUE(says(TlsContext::ForCluster(files, {certificate, key, ""}), "tls_ca"));
  EXPECT_TRUE(says(TlsContext::ForCluster(files, {certificate, key, key}), "no PEM certificate"));
  EXPECT_TRUE(
      says(TlsContext::ForCluster(
               files, {dir_.Write(issuer_.Issue("c", TestIssuer::kExpired).certificate), key, ca}),
           "expired"));
  std::string cut = issued.certificate;
  cut.replace(cut.size() / 2, 3, "???");
  EXPECT_TRUE(says(TlsContext::ForCluster(files, {dir_.Write(cut), key, ca}), "cannot be read"));
  EXPECT_TRUE(
      FailsWith(TlsContext::ForCluster(files, {"/nonexistent", key, ca}), ErrorId::kFileAccess));
}

}  // namespace
}  // namespace mooncake
