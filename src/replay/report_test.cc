#include "replay/report.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace mooncake {
namespace {

using namespace std::chrono_literals;

ReplayOutcome Answered(Duration first, Duration whole) {
  ReplayOutcome outcome;
  outcome.answered = true;
  outcome.first_token = first;
  outcome.whole = whole;
  outcome.prompt_tokens = 1000;
  outcome.generated_tokens = 11;
  outcome.cached_tokens = 250;
  outcome.bytes_by_path = {{"shm", 1 << 20}};
  return outcome;
}

TEST(ReplayReport, TellsLatencyThroughputPathsAndErrors) {
  ReplayReport report;
  for (int i = 1; i <= 100; ++i) report.Add(Answered(1ms * i, 1ms * i + 100ms));
  ReplayOutcome failed;
  failed.error = "E501 no partner instance";
  report.Add(failed);
  report.AddCheck(ReplayOutcome::Check::kRight);
  report.AddCheck(ReplayOutcome::Check::kWrong);
  ReplayFacts facts{.took = 10s, .verified = true, .unsent = 7};
  facts.moved.instances = {{.id = "a", .label = "prefill", .role = "prefill"}};
  facts.moved.instances[0].paths = {
      {.peer = "decode",
       .peer_id = "b",
       .transport = "shm",
       .usable = true,
       .bytes = 100 << 20,
       .gigabytes_per_second = 5.25},
      {.peer = "decode", .peer_id = "b", .transport = "cma", .reason = "ptrace_scope is 3"}};
  const boost::json::object json = boost::json::parse(report.Json(facts)).as_object();
  EXPECT_EQ(json.at("answered").as_int64(), 100);
  EXPECT_EQ(json.at("failed").as_int64(), 1);
  EXPECT_EQ(json.at("wrong").as_int64(), 1);
  EXPECT_DOUBLE_EQ(json.at("latency_ms").at("first_token").at("p50").as_double(), 50);
  EXPECT_DOUBLE_EQ(json.at("latency_ms").at("between_tokens").at("p99").as_double(), 10);
  EXPECT_DOUBLE_EQ(json.at("throughput").at("requests_per_s").as_double(), 10);
  EXPECT_DOUBLE_EQ(json.at("prefix_hit_ratio").as_double(), 0.25);
  EXPECT_EQ(json.at("moved_bytes_by_path").at("shm").as_int64(), 100 << 20);
  EXPECT_EQ(json.at("unsent").as_int64(), 7);
  EXPECT_EQ(json.at("paths").as_array().size(), 2U);
  EXPECT_EQ(json.at("paths").at(1).at("standing").as_string(), "not usable: ptrace_scope is 3");
  const std::string text = report.Text(facts);
  EXPECT_NE(text.find("1 of 2 WRONG"), std::string::npos) << text;
  EXPECT_NE(text.find("100 MiB over shm at 5.25 GB/s"), std::string::npos) << text;
  EXPECT_NE(text.find("7 more of the trace"), std::string::npos) << text;
  EXPECT_NE(text.find("prefill -> decode"), std::string::npos) << text;
  EXPECT_NE(text.find("not usable: ptrace_scope is 3"), std::string::npos) << text;
  EXPECT_NE(text.find("1 x E501"), std::string::npos) << text;
}

TEST(ReplayReport, AnEmptyOneDividesByNothing) {
  const std::string text = ReplayReport().Text({});
  EXPECT_EQ(text.find("nan"), std::string::npos) << text;
}

}  // namespace
}  // namespace mooncake
