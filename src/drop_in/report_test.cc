#include "drop_in/report.h"

#include <gtest/gtest.h>

#include "base/log.h"
#include "drop_in/transfer_engine.h"

namespace mooncake::drop_in {
namespace {

TEST(CaughtError, TheInnermostCatchesTheFirst) {
  KeepWarnings();
  CaughtError outer;
  TransferEngine engine;
  {
    CaughtError inner;
    EXPECT_EQ(engine.RegisterMemory(1, 1), kFailed);
    EXPECT_EQ(engine.BatchRegisterMemory({}, std::vector<std::uint64_t>{1}), kFailed);
    ASSERT_TRUE(inner.error());
    EXPECT_EQ(inner.error()->id, ErrorId::kNotInitialized);
  }
  EXPECT_FALSE(outer.error());
  EXPECT_EQ(engine.SendProbe("nobody"), kFailed);
  EXPECT_TRUE(outer.error());
  EXPECT_TRUE(TakeWarnings().empty());
}

}  // namespace
}  // namespace mooncake::drop_in
