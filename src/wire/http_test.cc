#include "wire/http.h"

#include <gtest/gtest.h>

#include "base/test_loop.h"
#include "base/test_support.h"
#include "wire/test_port.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

TEST(HttpUrls, Parse) {
  const Result<HttpUrl> url = ParseHttpUrl("http://[::1]:8080/v1/x?y");
  ASSERT_TRUE(Succeeds(url));
  EXPECT_EQ(url->host, "::1");
  EXPECT_EQ(url->port, 8080);
  EXPECT_EQ(url->target, "/v1/x?y");
  EXPECT_EQ(ParseHttpUrl("localhost:99")->port, 99);
  EXPECT_TRUE(ParseHttpUrl("https://a")->tls);
  EXPECT_TRUE(FailsWith(ParseHttpUrl("ftp://a"), ErrorId::kBadAddress));
  EXPECT_TRUE(FailsWith(ParseHttpUrl("http://"), ErrorId::kBadAddress));
}

class Http : public testing::Test {
 protected:
  void SetUp() override {
    server_ = std::make_shared<PortServer>(world_, metrics_,
                                           PortServerOptions{.http = {.body_bytes_max = 1000000}});
    server_->on_http = [this](HttpExchange& exchange) -> Task<void> {
      if (exchange.request().path() == "/stream") {
        static_cast<void>(co_await exchange.BeginStream(200, "text/event-stream"));
        for (int i = 0; i < 3; ++i) {
          std::string chunk = fmt::format("data: {}\n\n", i);
          auto write = exchange.Write(std::move(chunk));
          static_cast<void>(co_await std::move(write));
        }
        static_cast<void>(co_await exchange.EndStream());
      } else if (exchange.request().path() == "/wait") {
        OneShot<bool> gone;
        exchange.OnClientGone([&gone] { gone.Set(true); });
        waiting_.set_value();
        co_await gone.Get();
        gone_.set_value();
      } else {
        auto answer = exchange.Respond(200, "text/plain",
                                       exchange.request().method + exchange.request().body, {});
        static_cast<void>(co_await std::move(answer));
      }
    };
    at_ = ServeOnLoopback(world_, server_);
  }
  void TearDown() override {
    StopServing(world_, server_);
    real_.Stop();
  }
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }
  HttpUrl Url() const { return {ToString(at_.address), at_.port, "/", false}; }

  Metrics metrics_;
  std::promise<void> waiting_;
  std::promise<void> gone_;
  RealWorld real_;
  World& world_ = real_.world();
  std::shared_ptr<PortServer> server_;
  Endpoint at_;
};

TEST_F(Http, OneConnectionServesManyRequests) {
  RunOn(world_, [this]() -> Task<void> {
    HttpClient client(world_, world_.control, Url());
    for (int i = 0; i < 20; ++i) {
      const std::string body(static_cast<std::size_t>(i * 7000), 'x');
      auto send = client.Send("POST", "/echo", body, {}, In(5s));
      const Result<HttpResponse> response = co_await std::move(send);
      EXPECT_TRUE(Succeeds(response));
      EXPECT_EQ(response->status, 200);
      EXPECT_EQ(response->body, "POST" + body);
      EXPECT_EQ(response->headers.at("server"), "mooncake/" MOONCAKE_VERSION);
    }
  });
  EXPECT_EQ(metrics_.AddCounter("mooncake_port_connections_total", "").value(), 1U);
}

TEST_F(Http, AStreamArrivesInPieces) {
  RunOn(world_, [this]() -> Task<void> {
    HttpClient client(world_, world_.control, Url());
    std::string got;
    auto send = client.SendStreaming("GET", "/stream", "", {}, In(5s),
                                     [&got](std::string_view data) { got += data; });
    const Result<HttpResponse> response = co_await std::move(send);
    EXPECT_TRUE(Succeeds(response));
    EXPECT_EQ(got, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
  });
}

TEST_F(Http, ABodyThatIsTooLongIsRefused) {
  RunOn(world_, [this]() -> Task<void> {
    HttpClient client(world_, world_.control, Url());
    auto send = client.Send("POST", "/echo", std::string(2000000, 'x'), {}, In(5s));
    const Result<HttpResponse> response = co_await std::move(send);
    EXPECT_TRUE(Succeeds(response));
    EXPECT_EQ(response ? response->status : 0, 413);
  });
}

TEST_F(Http, HeadersThatAreTooLongAreRefusedHoweverTheyArrive) {
  RunOn(world_, [this]() -> Task<void> {
    std::vector<std::pair<std::string, std::string>> headers(20000, {"a", "b"});
    HttpClient client(world_, world_.control, Url());
    auto send = client.Send("GET", "/", "", std::move(headers), In(5s));
    const Result<HttpResponse> response = co_await std::move(send);
    EXPECT_TRUE(Succeeds(response));
    EXPECT_EQ(response ? response->status : 0, 431);
  });
}

TEST_F(Http, AClientThatGoesAwayIsNoticed) {
  std::unique_ptr<Stream> client;
  RunOn(world_, [this, &client]() -> Task<void> {
    Result<std::unique_ptr<Stream>> stream =
        co_await world_.network.Connect(world_.control, at_, In(5s));
    EXPECT_TRUE(Succeeds(stream));
    client = std::move(*stream);
    const std::string request = "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n";
    const Bytes bytes = AsBytes(request);
    static_cast<void>(co_await client->Write(std::span(&bytes, 1)));
  });
  waiting_.get_future().wait();
  Post(world_.control, [&client] { client->Close(); });
  EXPECT_EQ(gone_.get_future().wait_for(5s), std::future_status::ready);
}

TEST_F(Http, AConnectionThatItsClientClosedIsGone) {
  RunOn(world_, [this]() -> Task<void> {
    {
      HttpClient client(world_, world_.control, Url());
      auto send = client.Send("GET", "/", "", {}, In(5s));
      const Result<HttpResponse> response = co_await std::move(send);
      EXPECT_TRUE(Succeeds(response));
      EXPECT_EQ(server_->connections(), 1U);
    }
    const Instant limit = In(5s);
    while (server_->connections() > 0 && world_.clock.Now() < limit)
      co_await world_.clock.SleepFor(world_.control, 1ms);
    EXPECT_EQ(server_->connections(), 0U);
  });
}

TEST_F(Http, WhatIsNotHttpIsQuoted) {
  RunOn(world_, [this]() -> Task<void> {
    Result<std::unique_ptr<Listener>> listener =
        world_.network.Listen(world_.control, {IpAddress::LoopbackV4(), 0});
    const Endpoint at = (*listener)->bound();
    std::shared_ptr<Listener> shared = std::move(*listener);
    Spawn(world_.control, [](std::shared_ptr<Listener> l) -> Task<void> {
      Result<std::unique_ptr<Stream>> stream = co_await l->Accept();
      const std::string banner = "SSH-2.0-OpenSSH\r\n";
      const Bytes bytes = AsBytes(banner);
      static_cast<void>(co_await (*stream)->Write(std::span(&bytes, 1)));
      std::array<std::byte, 100> rest{};
      static_cast<void>(co_await (*stream)->ReadSome(rest));
    }(shared));
    HttpClient client(world_, world_.control, {ToString(at.address), at.port, "/", false});
    auto send = client.Send("GET", "/", "", {}, In(5s));
    const Result<HttpResponse> response = co_await std::move(send);
    EXPECT_TRUE(FailsWith(response, ErrorId::kBadHttp));
    EXPECT_NE(response.error().context.find("SSH-2.0"), std::string::npos)
        << response.error().context;
  });
}

}  // namespace
}  // namespace mooncake
