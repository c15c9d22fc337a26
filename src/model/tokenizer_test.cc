#include "model/tokenizer.h"

#include <gmock/gmock.h>

#include <limits>
#include <set>

namespace mooncake {
namespace {

TEST(TokenizeText, OneTokenPerByte) {
  EXPECT_THAT(TokenizeText("Hi \xC3\xA9\xFF"),
              testing::ElementsAre('H', 'i', ' ', 0xC3, 0xA9, 0xFF));
  EXPECT_THAT(TokenizeText(""), testing::IsEmpty());
}

TEST(TokenText, GoldenWords) {
  EXPECT_EQ(TokenText(0), " ba");
  EXPECT_EQ(TokenText(99), " zu");
  EXPECT_EQ(TokenText(100), " beba");
  EXPECT_EQ(TokenText(128255), " diwipa");
  EXPECT_EQ(TokenText(std::numeric_limits<Token>::max()).size(), 11u);
}

TEST(TokenText, NoTwoTokensShareAWord) {
  std::set<std::string> words;
  for (Token token = 0; token < 30000; ++token)
    EXPECT_TRUE(words.insert(TokenText(token)).second) << token;
}

}  // namespace
}  // namespace mooncake
