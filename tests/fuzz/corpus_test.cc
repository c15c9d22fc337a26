// Every fuzzer over its corpus, over nothing at all, and over each prefix of each entry.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "base/log.h"
#include "fuzzer.h"

namespace mooncake {
namespace {

std::map<std::string, FuzzFunction>& Fuzzers() {
  static std::map<std::string, FuzzFunction> fuzzers;
  return fuzzers;
}

}  // namespace

bool AddFuzzer(const char* name, FuzzFunction function) {
  return Fuzzers().emplace(name, function).second;
}

namespace {

TEST(FuzzCorpus, EveryFuzzerLivesThroughItsCorpus) {
  SetLogLevel(LogLevel::kOff);
  ASSERT_GE(Fuzzers().size(), 8U);
  for (const auto& [name, function] : Fuzzers()) {
    function({});
    std::size_t entries = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(MOONCAKE_FUZZ_CORPUS) / name)) {
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string content{std::istreambuf_iterator<char>(file), {}};
      const Bytes bytes = std::as_bytes(std::span(content));
      function(bytes);
      constexpr std::size_t kPrefixesMax = 512;
      for (std::size_t length = 0; length < std::min(bytes.size(), kPrefixesMax); ++length)
        function(bytes.first(length));
      entries += 1;
    }
    EXPECT_GT(entries, 0U) << name << " has no corpus";
  }
}

}  // namespace
}  // namespace mooncake
