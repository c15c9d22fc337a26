// A fuzzer is a function from bytes to nothing that must not crash, hang or break a property that it states with
// MC_FUZZ_CHECK. Built by clang it is a libFuzzer program of its own; in every other build all fuzzers are one test,
// which runs them over their corpora.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

#include "base/world.h"

namespace mooncake {

using FuzzFunction = void (*)(Bytes input);

/// For the test; called by MOONCAKE_FUZZER before main().
bool AddFuzzer(const char* name, FuzzFunction function);

[[nodiscard]] inline std::string_view TextOf(Bytes input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

}  // namespace mooncake

#define MC_FUZZ_CHECK(expression) \
  ((expression) ? static_cast<void>(0) : (std::fprintf(stderr, "broken: %s (%s:%d)\n", #expression, __FILE__, __LINE__), std::abort()))

#ifdef MOONCAKE_LIBFUZZER
#define MOONCAKE_FUZZER(name)                                                            \
  static void Fuzz_##name(::mooncake::Bytes input);                                      \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {    \
    Fuzz_##name({reinterpret_cast<const std::byte*>(data), size});                       \
    return 0;                                                                            \
  }                                                                                      \
  static void Fuzz_##name(::mooncake::Bytes input)
#else
#define MOONCAKE_FUZZER(name)                                                                   \
  static void Fuzz_##name(::mooncake::Bytes input);                                             \
  [[maybe_unused]] static const bool added_##name = ::mooncake::AddFuzzer(#name, &Fuzz_##name); \
  static void Fuzz_##name(::mooncake::Bytes input)
#endif
