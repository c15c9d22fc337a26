// What a port with a secret or a certificate answers to callers that have the same, another, or
// none.
#include <gtest/gtest.h>

#include "base/log.h"
#include "base/test_loop.h"
#include "base/test_support.h"
#include "security/test_certificates.h"
#include "wire/test_port.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

class SecuredPort : public testing::Test {
 protected:
  void Serve(Credentials credentials) {
    server_ = std::make_shared<PortServer>(world_, metrics_, PortServerOptions{});
    server_->introduce = [credentials = std::move(credentials)] {
      return Introduction{{.id = {1, 2}, .label = "server"}, "", {}, credentials};
    };
    server_->router.Add(Method::kStatus, [](RpcCall&, Frame request) -> Task<Result<Reply>> {
      co_return Reply{request.body + "!", {}};
    });
    server_->on_http = [](HttpExchange& exchange) -> Task<void> {
      auto respond = exchange.Respond(200, "text/plain", "the status", {});
      static_cast<void>(co_await std::move(respond));
    };
    at_ = ServeOnLoopback(world_, server_);
  }
  void TearDown() override {
    StopServing(world_, server_);
    real_.Stop();
  }

  // The reply to a call by a caller with these credentials.
  Result<std::string> Call(Credentials credentials) {
    Result<std::string> outcome = Fail(ErrorId::kInternal, "never");
    RunOn(world_, [&]() -> Task<void> {
      const Instant limit = After(world_.clock.Now(), 5s);
      Introduction introduction{{.id = {9, 9}, .label = "client"}, "", {}, credentials};
      auto dial = Dial(world_, world_.control, at_, std::move(introduction), "rpc", {}, limit);
      Result<Handshake> handshake = co_await std::move(dial);
      if (!handshake) {
        outcome = Fail(handshake.error());
        co_return;
      }
      const auto connection = std::make_shared<RpcConnection>(
          world_, world_.control, std::move(*handshake), no_methods_, RpcLimits{});
      connection->Start();
      auto call = connection->Call(Method::kStatus, "here", limit);
      const Result<Reply> reply = co_await std::move(call);
      outcome = reply ? Result<std::string>(reply->body) : Fail(reply.error());
      connection->Close(Error{ErrorId::kClosed, "done"});
    });
    return outcome;
  }
  // "200 the status".
  std::string Get(std::shared_ptr<const TlsContext> tls, const std::string& authorization) {
    std::string outcome;
    RunOn(world_, [&]() -> Task<void> {
      HttpUrl url{"127.0.0.1", at_.port, "/", tls != nullptr, tls, authorization};
      HttpClient client(world_, world_.control, std::move(url));
      auto send = client.Send("GET", "/status", "", {}, After(world_.clock.Now(), 5s));
      const Result<HttpResponse> response = co_await std::move(send);
      outcome = response ? fmt::format("{} {}", response->status, response->body)
                         : response.error().Text();
    });
    return outcome;
  }
  // What comes back for `bytes`, until the port closes.
  std::string Exchange(std::string_view bytes) {
    std::string answer;
    RunOn(world_, [&]() -> Task<void> {
      Result<std::unique_ptr<Stream>> stream =
          co_await world_.network.Connect(world_.control, at_, After(world_.clock.Now(), 5s));
      if (!stream) co_return;
      const Bytes whole = AsBytes(bytes);
      const Status written = co_await (*stream)->Write(std::span(&whole, 1));
      EXPECT_TRUE(Succeeds(written));
      std::vector<std::byte> piece(4096);
      for (;;) {
        const Result<std::size_t> count = co_await (*stream)->ReadSome(piece);
        if (!count) co_return;
        answer += AsText(Bytes(piece).first(*count));
      }
    });
    return answer;
  }

  std::shared_ptr<const TlsContext> Certified(const TestIssuer& issuer) {
    const TestIssuer::Issued issued = issuer.Issue("node");
    return *TlsContext::ForCluster(world_.files,
                                   {files_.Write(issued.certificate), files_.Write(issued.key),
                                    files_.Write(issuer.certificate())});
  }

  Metrics metrics_;
  TestFiles files_;
  RealWorld real_;
  World& world_ = real_.world();
  RpcRouter no_methods_;
  std::shared_ptr<PortServer> server_;
  Endpoint at_;
  std::shared_ptr<const ClusterSecret> secret_ =
      *ClusterSecret::Make("one secret, sixteen and more");
  std::shared_ptr<const ClusterSecret> other_ = *ClusterSecret::Make("another, of the same length");
};

TEST_F(SecuredPort, WithASecretAnswersWhoKnowsIt) {
  Serve({nullptr, secret_});
  EXPECT_EQ(Call({nullptr, secret_}).value_or("failed"), "here!");
  for (const Credentials& wrong : {Credentials{}, Credentials{nullptr, other_}}) {
    const Result<std::string> refused = Call(wrong);
    EXPECT_TRUE(FailsWith(refused, ErrorId::kNotProven));
    EXPECT_EQ(refused.error().context.find("server"), std::string::npos) << "it has said who it is";
  }
}

TEST_F(SecuredPort, ACallerWithASecretSaysNothingToOneWithout) {
  Serve({});
  EXPECT_EQ(Call({}).value_or("failed"), "here!");
  EXPECT_TRUE(FailsWith(Call({nullptr, secret_}), ErrorId::kNotProven));
}

TEST_F(SecuredPort, NothingIsAnsweredBeforeTheProof) {
  Serve({nullptr, secret_});
  FrameHeader header;
  header.kind = FrameKind::kRequest;
  header.method = static_cast<std::uint16_t>(Method::kStatus);
  const FrameHeaderBytes request = Encode(header);
  EXPECT_EQ(Exchange(AsText(request)).find("here"), std::string::npos);
  header.kind = FrameKind::kProof;
  EXPECT_EQ(Exchange(AsText(Encode(header))).find("here"), std::string::npos);
  // A challenge whose nonce is none gets no proof.
  header.kind = FrameKind::kChallenge;
  EXPECT_EQ(Exchange(AsText(Encode(header))), "");
}

TEST_F(SecuredPort, WithASecretHttpNeedsItsToken) {
  Serve({nullptr, secret_});
  EXPECT_EQ(Get(nullptr, "Bearer " + secret_->HttpToken()), "200 the status");
  EXPECT_TRUE(Get(nullptr, "").starts_with("401 E117"));
  EXPECT_TRUE(Get(nullptr, "Bearer " + other_->HttpToken()).starts_with("401 E117"));
}

TEST_F(SecuredPort, WithACertificateAnswersWhoShowsOne) {
  const TestIssuer issuer;
  const TestIssuer other;
  Serve({Certified(issuer), nullptr});
  EXPECT_EQ(Call({Certified(issuer), nullptr}).value_or("failed"), "here!");
  EXPECT_TRUE(FailsWith(Call({Certified(other), nullptr}), ErrorId::kTlsFailed));
  EXPECT_TRUE(FailsWith(Call({}), ErrorId::kTlsFailed));
  EXPECT_EQ(Get(Certified(issuer), ""), "200 the status");
  EXPECT_TRUE(Get(nullptr, "").starts_with("400 E116"));
}

TEST_F(SecuredPort, ACallerWithACertificateIsToldThatTheOtherHasNone) {
  const TestIssuer issuer;
  Serve({});
  const Result<std::string> refused = Call({Certified(issuer), nullptr});
  EXPECT_TRUE(FailsWith(refused, ErrorId::kTlsFailed));
  EXPECT_NE(refused.error().context.find("has no certificate"), std::string::npos)
      << refused.error().context;
}

TEST_F(SecuredPort, BothTogether) {
  const TestIssuer issuer;
  const auto tls = Certified(issuer);
  Serve({tls, secret_});
  EXPECT_EQ(Call({tls, secret_}).value_or("failed"), "here!");
  EXPECT_TRUE(FailsWith(Call({tls, nullptr}), ErrorId::kNotProven));
  EXPECT_TRUE(FailsWith(Call({nullptr, secret_}), ErrorId::kTlsFailed));
  EXPECT_EQ(Get(tls, "Bearer " + secret_->HttpToken()), "200 the status");
}

TEST_F(SecuredPort, ATlsHandshakeThatStopsHalfWayEndsByItself) {
  const TestIssuer issuer;
  Serve({Certified(issuer), nullptr});
  constexpr std::string_view kBeginning("\x16\x03\x01\x02\x00\x01", 6);
  const Instant begin = world_.clock.Now();
  static_cast<void>(Exchange(kBeginning));
  EXPECT_LT(world_.clock.Now() - begin, PortServerOptions{}.handshake_timeout + 2s);
}

}  // namespace
}  // namespace mooncake
