#include "base/options.h"

#include <gtest/gtest.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

constexpr OptionSpec kTable[] = {
    {"local_hostname", "", Unit::kText, "Name and address.", {}, "label"},
    {"kv_memory", "512MiB", Unit::kBytes, "Memory for KV pages."},
    {"role", "both", Unit::kChoice, "What it does.", "prefill|decode|both"},
    {"timeout", "30s", Unit::kDuration, "How long."},
    {"verify", "false", Unit::kFlag, "Whether."},
    {"mode", "", Unit::kUnused, ""},
    {"password", "", Unit::kSecret, "A secret.", {}, {}, "MC_PASSWORD"},
};

Options::Sources File(std::string content) { return {"a.json", std::move(content), {}, {}}; }

TEST(Options, LaterSourcesWin) {
  Options::Sources sources = File(R"({"kv_memory": "1GiB", "role": "prefill", "timeout": 5})");
  sources.environment = [](const std::string& name) {
    return name == "MOONCAKE_ROLE" ? std::string("decode") : std::string();
  };
  sources.flags = {{"kv-memory", "2GiB"}, {"label", "p0"}};
  const Result<Options> options = Options::Load(kTable, sources);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->SizeBytes("kv_memory"), 2ULL << 30);
  EXPECT_EQ(options->Text("role"), "decode");
  EXPECT_EQ(options->Text("local_hostname"), "p0");
  EXPECT_EQ(options->Duration("timeout"), std::chrono::seconds(5));
  EXPECT_FALSE(options->Flag("verify"));
  EXPECT_EQ(options->Explain()[2].origin, OptionOrigin::kEnvironment);
}

TEST(Options, ASecretMayHaveAVariableOfAnotherNameAndIsNotShown) {
  std::map<std::string, std::string> environment = {{"MC_PASSWORD", "of old"}};
  Options::Sources sources;
  sources.environment = [&environment](const std::string& name) { return environment[name]; };
  Result<Options> options = Options::Load(kTable, sources);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->Text("password"), "of old");
  EXPECT_EQ(options->Explain().back().text, "(set)");
  EXPECT_EQ(options->Explain().back().origin, OptionOrigin::kEnvironment);
  environment["MOONCAKE_PASSWORD"] = "ours";
  options = Options::Load(kTable, sources);
  ASSERT_TRUE(options);
  EXPECT_EQ(options->Text("password"), "ours");
}

TEST(Options, APasswordWithinAUrlIsNotShown) {
  for (const auto& [given, shown] : std::map<std::string, std::string>{
           {"etcd://root:p:w/@10.0.0.1:2379", "etcd://root:(set)@10.0.0.1:2379"},
           {"redis://secret@[::1]:6379/2", "redis://(set)@[::1]:6379/2"},
           {"root:secret@10.0.0.1:2379", "root:(set)@10.0.0.1:2379"},
           {"etcd://10.0.0.1:2379", "etcd://10.0.0.1:2379"},
           {"someone@host", "someone@host"}}) {
    Options::Sources sources;
    sources.flags = {{"label", given}};
    const Result<Options> options = Options::Load(kTable, sources);
    ASSERT_TRUE(options);
    EXPECT_EQ(options->Text("local_hostname"), given);
    EXPECT_EQ(options->Explain().front().text, shown);
  }
}

TEST(Options, AnUnknownKeyNamesTheNearestKnownOne) {
  const Result<Options> options = Options::Load(kTable, File(R"({"kv_memroy": 1})"));
  ASSERT_TRUE(FailsWith(options, ErrorId::kUnknownOption));
  EXPECT_NE(options.error().context.find("did you mean \"kv_memory\"?"), std::string::npos);
}

TEST(Options, AValueOfTheWrongKindSaysWhichKindIsRight) {
  EXPECT_TRUE(
      FailsWith(Options::Load(kTable, File(R"({"kv_memory": "lots"})")), ErrorId::kBadOptionValue));
  EXPECT_TRUE(
      FailsWith(Options::Load(kTable, File(R"({"role": "chef"})")), ErrorId::kBadOptionValue));
  EXPECT_TRUE(
      FailsWith(Options::Load(kTable, File(R"({"verify": [1]})")), ErrorId::kBadOptionValue));
}

TEST(Options, ABrokenFileNamesTheLine) {
  const Result<Options> options = Options::Load(kTable, File("{\n\"role\": \"both\"\n\"x\"}"));
  ASSERT_TRUE(FailsWith(options, ErrorId::kBadConfigFile));
  EXPECT_NE(options.error().context.find("line 3"), std::string::npos) << options.error().context;
  EXPECT_TRUE(FailsWith(Options::Load(kTable, File("[1]")), ErrorId::kBadConfigFile));
}

TEST(Options, KeysOfOtherProgramsInTheSameFileAreAccepted) {
  EXPECT_TRUE(Options::Load(kTable, File(R"({"mode": {"a": 1}})")));
}

}  // namespace
}  // namespace mooncake
