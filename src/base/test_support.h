// What tests of every layer use.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

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

/// EXPECT_TRUE(Becomes([&] { return queue.empty(); }, 5s)): asked again and again until it is true.
template <class Condition>
[[nodiscard]] bool Becomes(Condition&& condition, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace mooncake
