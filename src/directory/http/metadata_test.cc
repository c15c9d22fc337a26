#include <gtest/gtest.h>

#include "base/test_loop.h"
#include "base/test_support.h"
#include "directory/http/metadata_format.h"
#include "directory/http/metadata_server.h"
#include "wire/test_port.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

TEST(MetadataQuery, IsDecodedAndEncoded) {
  const auto query = ParseQuery("/a/metadata?key=a%2Fb+c%zz&key=second&flag&=x&&ttl_ms=5#end");
  EXPECT_EQ(query.at("key"), "a/b c%zz");
  EXPECT_EQ(query.at("flag"), "");
  EXPECT_EQ(query.at("ttl_ms"), "5");
  EXPECT_TRUE(ParseQuery("/metadata").empty());
  const std::string odd = "a/b c&d=e%f#g+h\xff\n";
  EXPECT_EQ(ParseQuery("?k=" + EscapeQuery(odd)).at("k"), odd);
}

TEST(MetadataListing, RoundTripsAndRefuses) {
  const MetadataListing listing = {{{"k", "{\"a\": 1}"}},
                                   {{{"g", "v"}, "expired", WallTime(1234ms)}}};
  EXPECT_EQ(ToJson(listing),  // docs/wire.md promises these names
            R"({"entries":[{"key":"k","value":"{\"a\": 1}"}],)"
            R"("gone":[{"key":"g","value":"v","cause":"expired","gone_unix_ms":1234}]})");
  const Result<MetadataListing> again = ListingFromJson(ToJson(listing));
  ASSERT_TRUE(Succeeds(again));
  EXPECT_EQ(ToJson(*again), ToJson(listing));
  EXPECT_TRUE(Succeeds(ListingFromJson("{\"entries\":[{\"key\":\"k\",\"value\":\"\xff\"}]}")));
  for (const char* text : {"", "[]", "{}", "<html>"}) {
    EXPECT_TRUE(FailsWith(ListingFromJson(text), ErrorId::kDirectoryGarbage)) << text;
  }
}

TEST(MetadataIndex, RoundTripsAndRefuses) {
  const std::vector<InstanceId> ids = {{1, 2}, {3, 4}};
  EXPECT_EQ(IndexToJson(ids),
            R"(["00000000000000010000000000000002","00000000000000030000000000000004"])");
  EXPECT_EQ(*IndexFromJson(IndexToJson(ids)), ids);
  EXPECT_EQ(
      *IndexFromJson(
          R"([7, "no id", "00000000000000010000000000000002", "00000000000000010000000000000002"])"),
      (std::vector<InstanceId>{{1, 2}}));
  EXPECT_TRUE(IndexFromJson("")->empty());
  for (const char* text : {"{}", "<html>", "7"}) {
    EXPECT_TRUE(FailsWith(IndexFromJson(text), ErrorId::kWrongService)) << text;
  }
}

TEST(MetadataExpiry, StandsInTheRecord) {
  const std::string text = WithExpiry(R"({"id":"x"})", WallTime(1700000000000ms));
  EXPECT_EQ(text, R"({"id":"x","expires_unix_ms":1700000000000})");
  EXPECT_EQ(ExpiryOf(text), WallTime(1700000000000ms));
  EXPECT_EQ(ExpiryOf(R"({"id":"x"})"), WallTime{});
  EXPECT_EQ(ExpiryOf(R"({"expires_unix_ms":9223372036854775807})"), WallTime(9000000000000ms));
}

TEST(HttpDate, IsReadOrRefused) {
  EXPECT_EQ(ParseHttpDate("Sun, 06 Nov 1994 08:49:37 GMT"), WallTime(784111777s));
  for (const char* text : {"", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 31 Feb 1994 08:49:37 GMT",
                           "Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT",
                           "Sun, -6 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GM"}) {
    EXPECT_FALSE(ParseHttpDate(text)) << text;
  }
}

TEST(MetadataTable, ValuesEndUnlessTheyAreShownToBeAlive) {
  MetadataTable table;
  const Instant start{};
  ASSERT_TRUE(Succeeds(table.Put("p/a", "1", start + 10s)));
  ASSERT_TRUE(Succeeds(table.Put("p/b", "2", start + 10s)));
  ASSERT_TRUE(Succeeds(table.Put("p/b", "3", start + 15s)));
  ASSERT_TRUE(Succeeds(table.Put("p/c", "4", kNever)));
  ASSERT_TRUE(Succeeds(table.Put("q", "5", kNever)));
  EXPECT_EQ(*table.Get("p/b", start), "3");
  EXPECT_EQ(table.List("p/", start).entries.size(), 3U);
  EXPECT_EQ(table.Get("p/a", start + 10s), nullptr) << "it has ended, swept or not";
  EXPECT_EQ(table.List("p/", start + 10s).entries.size(), 2U);
  EXPECT_EQ(table.Expire(start + 10s, {}), start + 15s);
  ASSERT_EQ(table.List("p/", start + 10s).gone.size(), 1U);
  EXPECT_EQ(table.List("p/", start + 10s).gone[0].cause, "expired");
  EXPECT_TRUE(table.Remove("p/b", start + 11s, {}));
  EXPECT_FALSE(table.Remove("p/b", start + 11s, {}));
  EXPECT_TRUE(table.Remove("p/c", start + 11s, {}));
  EXPECT_EQ(table.List("p/", start + 11s).gone.back().cause, "withdrawn");
  ASSERT_TRUE(Succeeds(table.Put("p/b", "6", start + 20s)));
  EXPECT_EQ(table.List("p/", start + 11s).gone.size(), 1U) << "what came back is not gone";
}

TEST(MetadataTable, IsBounded) {
  MetadataTable table;
  for (int i = 0; i < 65536; ++i) ASSERT_TRUE(Succeeds(table.Put(std::to_string(i), "", kNever)));
  EXPECT_TRUE(FailsWith(table.Put("more", "", kNever), ErrorId::kPeerBusy));
  EXPECT_TRUE(Succeeds(table.Put("7", "again", kNever)));
}

// What clients of the public service rely on, over the port that carries everything else too.
class MetadataService : public testing::Test {
 protected:
  void SetUp() override {
    server_ = std::make_shared<PortServer>(world_, metrics_, PortServerOptions{});
    server_->introduce = [] { return Introduction{{.id = {1, 1}, .label = "directory"}, {}, {}}; };
    const auto metadata = std::make_shared<MetadataServer>(world_);
    server_->on_http = [metadata](HttpExchange& exchange) { return metadata->Handle(exchange); };
    at_ = ServeOnLoopback(world_, server_);
  }
  void TearDown() override {
    StopServing(world_, server_);
    real_.Stop();
  }
  HttpResponse Send(const std::string& method, const std::string& target,
                    const std::string& body = {}) {
    HttpResponse answer;
    RunOn(world_, [&]() -> Task<void> {
      HttpClient http(world_, world_.control, {"127.0.0.1", at_.port, "/", false});
      auto send = http.Send(method, target, body, {}, After(world_.clock.Now(), 5s));
      Result<HttpResponse> response = co_await std::move(send);
      EXPECT_TRUE(Succeeds(response));
      if (response) answer = std::move(*response);
    });
    return answer;
  }

  Metrics metrics_;
  RealWorld real_;
  World& world_ = real_.world();
  Endpoint at_;
  std::shared_ptr<PortServer> server_;
};

TEST_F(MetadataService, AnswersAsTheClientsOfThePublicOneExpect) {
  EXPECT_EQ(Send("GET", "/metadata").status, 400);
  EXPECT_EQ(Send("GET", "/metadata?key=a").status, 404);
  EXPECT_EQ(Send("DELETE", "/metadata?key=a").status, 404);
  EXPECT_EQ(Send("PUT", "/metadata?key=%20a%20", R"({"x":1})").status, 200);
  EXPECT_EQ(Send("PUT", "/metadata?key=a", R"({"x":2})").status, 200);
  const HttpResponse got = Send("GET", "/some/path/metadata?key=a");
  EXPECT_EQ(got.status, 200);
  EXPECT_EQ(got.body, R"({"x":2})");
  for (const char* target : {"/metadata?key=", "/metadata?key=%20", "/metadata?other=1"}) {
    for (const char* method : {"GET", "PUT", "DELETE"}) {
      EXPECT_EQ(Send(method, target).status, 400) << method << " " << target;
    }
  }
  EXPECT_EQ(Send("PUT", "/metadata").status, 400);
  EXPECT_EQ(Send("POST", "/metadata?key=a").status, 405);
  EXPECT_EQ(Send("PUT", "/metadata?key=" + std::string(5000, 'k')).status, 413);
  EXPECT_EQ(Send("DELETE", "/metadata?key=a").status, 200);
  EXPECT_EQ(Send("GET", "/metadata?key=a").status, 404);
}

TEST_F(MetadataService, AnEngineOfANameIsNotReplacedByAnother) {
  const std::string target = "/metadata?key=mooncake/rpc_meta/host:1";
  EXPECT_EQ(Send("PUT", target, R"({"port":1})").status, 200);
  EXPECT_EQ(Send("PUT", target, R"({"port":1})").status, 200);
  EXPECT_EQ(Send("PUT", target, R"({"port":2})").status, 400);
  EXPECT_EQ(Send("GET", target).body, R"({"port":1})");
  EXPECT_EQ(Send("DELETE", target).status, 200);
  EXPECT_EQ(Send("PUT", target, R"({"port":2})").status, 200);
}

TEST_F(MetadataService, KeepsTheEndOfAValueAndListsAPrefix) {
  EXPECT_EQ(Send("PUT", "/metadata?key=p/a&ttl_ms=60000", "1").status, 200);
  EXPECT_EQ(Send("PUT", "/metadata?key=p/b", "2").status, 200);
  EXPECT_EQ(Send("PUT", "/metadata?key=q&ttl_ms=60000", "3").status, 200);
  const HttpResponse listed = Send("GET", "/metadata?prefix=p/");
  EXPECT_TRUE(listed.headers.contains(std::string(kMetadataServiceHeader)));
  const Result<MetadataListing> listing = ListingFromJson(listed.body);
  ASSERT_TRUE(Succeeds(listing));
  ASSERT_EQ(listing->entries.size(), 2U);
  EXPECT_EQ(listing->entries[0].key, "p/a");
  EXPECT_EQ(listing->entries[1].value, "2");
  for (const char* ttl : {"", "0", "-5", "5s"}) {
    EXPECT_EQ(Send("PUT", std::string("/metadata?key=a&ttl_ms=") + ttl).status, 400) << ttl;
  }
}

}  // namespace
}  // namespace mooncake
