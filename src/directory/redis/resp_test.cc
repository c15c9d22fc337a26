#include "directory/redis/resp.h"

#include <gtest/gtest.h>

#include "base/test_support.h"
#include "directory/redis/redis_directory.h"

namespace mooncake {
namespace {

TEST(Resp, RepliesOfEveryKind) {
  std::size_t consumed = 0;
  const std::string bytes = "*5\r\n+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n*2\r\n$-1\r\n*-1\r\n";
  const Result<std::optional<RespValue>> value = DecodeResp(bytes + "+next\r\n", consumed);
  ASSERT_TRUE(Succeeds(value));
  ASSERT_TRUE(value->has_value());
  EXPECT_EQ(consumed, bytes.size());
  const std::vector<RespValue>& items = (*value)->items;
  ASSERT_EQ(items.size(), 5U);
  EXPECT_EQ(items[0].kind, RespKind::kSimple);
  EXPECT_EQ(items[0].text, "OK");
  EXPECT_EQ(items[1].kind, RespKind::kError);
  EXPECT_EQ(items[1].text, "ERR no");
  EXPECT_EQ(items[2].integer, -7);
  EXPECT_EQ(items[3].text, "a\r\nb");
  ASSERT_EQ(items[4].items.size(), 2U);
  EXPECT_EQ(items[4].items[0].kind, RespKind::kNull);
  EXPECT_EQ(items[4].items[1].kind, RespKind::kNull);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const Result<std::optional<RespValue>> part = DecodeResp(bytes.substr(0, length), consumed);
    ASSERT_TRUE(Succeeds(part)) << length;
    EXPECT_FALSE(part->has_value()) << length;
    EXPECT_EQ(consumed, 0U);
  }
}

TEST(Resp, WhatIsNotAReplyIsRefused) {
  std::size_t consumed = 0;
  for (const std::string& bytes :
       {std::string("HTTP/1.1 400 Bad Request\r\n"), std::string(":7a\r\n"), std::string(":\r\n"),
        std::string("$-2\r\n"), std::string("$99999999999\r\n"), std::string("$1\r\nabc\r\n"),
        std::string("*9999999\r\n"), std::string("*-2\r\n"), "+" + std::string(5000, 'a')}) {
    EXPECT_TRUE(FailsWith(DecodeResp(bytes, consumed), ErrorId::kDirectoryGarbage)) << bytes;
  }
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "*1\r\n";
  EXPECT_TRUE(FailsWith(DecodeResp(deep, consumed), ErrorId::kDirectoryGarbage));
}

TEST(Resp, ACommandIsAnArrayOfTexts) {
  const std::vector<std::string> words = {"SET", "k", "a\r\nb", ""};
  EXPECT_EQ(EncodeRespCommand(words), "*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
}

TEST(RedisServer, IsWrittenAsUsersWriteIt) {
  const Result<RedisServer> full = ParseRedisServer("redis://root:p@s:s@[fd00::2]:99/3");
  ASSERT_TRUE(Succeeds(full));
  EXPECT_EQ(full->user, "root");
  EXPECT_EQ(full->password, "p@s:s");
  EXPECT_EQ(full->address.host, "fd00::2");
  EXPECT_EQ(full->address.port, 99);
  EXPECT_EQ(full->database, 3U);
  const Result<RedisServer> plain = ParseRedisServer("redis://h");
  ASSERT_TRUE(Succeeds(plain));
  EXPECT_EQ(plain->address.port, 6379);
  EXPECT_EQ(plain->database, 0U);
  EXPECT_EQ(ParseRedisServer("redis://:secret@h/")->password, "secret");
  EXPECT_EQ(ParseRedisServer("redis://secret@h/")->password, "secret");
  for (const char* text : {"redis://", "redis://h/x", "redis://h/-1", "redis://h:1:2:3x/0"}) {
    EXPECT_TRUE(FailsWith(ParseRedisServer(text), ErrorId::kBadAddress)) << text;
  }
}

TEST(RedisErrors, SayWhatSomebodyMustCorrect) {
  EXPECT_EQ(RedisFault("WRONGPASS invalid username-password pair").id, ErrorId::kDirectoryDenied);
  EXPECT_EQ(RedisFault("NOAUTH Authentication required.").id, ErrorId::kDirectoryDenied);
  EXPECT_EQ(RedisFault("ERR AUTH <password> called without any password configured for the "
                       "default user. Are you sure your configuration is correct?")
                .id,
            ErrorId::kDirectoryDenied);
  EXPECT_EQ(RedisFault("LOADING Redis is loading the dataset in memory").id,
            ErrorId::kDirectoryUnreachable);
  EXPECT_EQ(RedisFault("READONLY You can't write against a read only replica.").id,
            ErrorId::kDirectoryUnreachable);
  EXPECT_EQ(RedisFault("ERR DB index is out of range").id, ErrorId::kBadOptionValue);
  EXPECT_EQ(RedisFault("MOVED 3999 127.0.0.1:6381").id, ErrorId::kWrongService);
}

}  // namespace
}  // namespace mooncake
