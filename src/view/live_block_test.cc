#include "view/live_block.h"

#include <gmock/gmock.h>

namespace mooncake {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(CutLine, CountsColumnsNotBytesAndKeepsEscapeCodesWhole) {
  EXPECT_EQ(CutLine("abcdef", 4), "abcd");
  EXPECT_EQ(CutLine("grün", 3), "grü");
  EXPECT_EQ(CutLine("\x1b[32mabcdef\x1b[0m", 3), "\x1b[32mabc\x1b[0m");
  EXPECT_EQ(CutLine("ab", 4), "ab");
}

TEST(LiveBlock, DrawsOverWhatItDrewBefore) {
  LiveBlock block;
  EXPECT_EQ(block.Draw("one\ntwo\n", {80, 24}), "\rone\x1b[K\ntwo\x1b[K\n\x1b[J");
  EXPECT_THAT(block.Draw("three\n", {80, 24}), StartsWith("\x1b[2A\rthree"));
  EXPECT_EQ(block.Draw("", {80, 24}), "\x1b[1A\r\x1b[J");
  EXPECT_THAT(block.Draw("four\n", {80, 24}), StartsWith("\rfour"))
      << "nothing stands above any more";
}

TEST(LiveBlock, NeverScrollsTheTerminal) {
  LiveBlock block;
  const std::string drawn = block.Draw("1\n2\n3\n4\n5\n", {80, 4});
  EXPECT_THAT(drawn, HasSubstr("3\x1b[K\n"));
  EXPECT_THAT(drawn, Not(HasSubstr("4\x1b[K")));
  EXPECT_THAT(block.Draw("1\n", {80, 4}), StartsWith("\x1b[3A"));
}

}  // namespace
}  // namespace mooncake
