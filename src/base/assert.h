// Assertions are for our own bugs. Never on what a peer, a file or a user sent.
#pragma once

namespace mooncake {
[[noreturn]] void AssertionFailed(const char* expression, const char* file, int line) noexcept;
}

#define MC_ASSERT(expression)          \
  ((expression) ? static_cast<void>(0) \
                : ::mooncake::AssertionFailed(#expression, __FILE__, __LINE__))

#ifdef MC_COSTLY_ASSERTIONS
#define MC_ASSERT_COSTLY(expression) MC_ASSERT(expression)
#else
#define MC_ASSERT_COSTLY(expression) static_cast<void>(0)
#endif
