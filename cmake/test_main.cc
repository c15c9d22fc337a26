// main() of every test executable: GoogleTest, plus the rule that a warning nobody announced fails
// the test in which it appears (base/log.h).
#include <gtest/gtest.h>

#include "base/log.h"

namespace {

class UnannouncedWarnings : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { mooncake::TakeWarnings(); }
  void OnTestEnd(const testing::TestInfo& info) override {
    for (const std::string& line : mooncake::TakeWarnings()) {
      ADD_FAILURE_AT(info.file(), info.line())
          << "a warning nobody announced (take it with TakeWarnings()): " << line;
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  mooncake::KeepWarnings();
  testing::UnitTest::GetInstance()->listeners().Append(new UnannouncedWarnings);
  return RUN_ALL_TESTS();
}
