// What tests of every layer use.
#pragma once

#include <gtest/gtest.h>

#include "base/result.h"

namespace mooncake {

/// EXPECT_TRUE(FailsWith(Open(), ErrorId::kPortTaken)): the error that is meant, not merely "not
/// ok".
template <class T>
[[nodiscard]] testing::AssertionResult FailsWith(const Result<T>& result, ErrorId id) {
  if (result) return testing::AssertionFailure() << "succeeded, expected " << ErrorName(id);
  if (result.error().id == id) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "failed with: " << result.error().Text() << ", expected " << ErrorName(id);
}

template <class T>
[[nodiscard]] testing::AssertionResult Succeeds(const Result<T>& result) {
  if (result) return testing::AssertionSuccess();
  return testing::AssertionFailure() << result.error().Text();
}

}  // namespace mooncake
