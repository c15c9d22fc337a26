#include "view/cluster_view.h"

#include <gmock/gmock.h>

#include "base/test_support.h"
#include "view/fetch_cluster.h"

namespace mooncake {
namespace {

using testing::HasSubstr;
using testing::Not;

// What an instance answers, with the fields that are read.
std::string Answer(const std::string& instances, const std::string& unreachable = "") {
  return R"({"instances":[)" + instances + R"(],"unreachable":[)" + unreachable + "]}\n";
}

const std::string kPrefill =
    R"({"id":"a1","label":"prefill-0","role":"prefill","endpoint":"127.0.0.1:8100","uptime_seconds":12.5,
  "draining":false,"directory":{"connection":"etcd://e:2379","reachable":false,"unreachable_seconds":3,"cause":"E009"},
  "requests":{"running":1,"queue_max":256},"prefill":{"queue_length":4},
  "kv":{"pages":1024,"pages_free":24,"hits":30,"misses":10},
  "paths":[{"peer":"decode-0","peer_id":"b2","transport":"shm","usable":true,"reason":"","bytes":1000,"transfers":3,
            "failures":1,"gigabytes_per_second":5.5,"suspected":false}]})";
const std::string kDecode = R"({"id":"b2","label":"decode-0","role":"decode"})";

TEST(ParseCluster, ReadsEveryFieldAndSortsByRole) {
  const Result<ClusterView> view =
      ParseCluster(Answer(kDecode + "," + kPrefill, R"({"label":"x","id":"c3","reason":"E102"})"));
  ASSERT_TRUE(Succeeds(view));
  ASSERT_EQ(view->instances.size(), 2U);
  const InstanceView& prefill = view->instances[0];
  EXPECT_EQ(prefill.label, "prefill-0");
  EXPECT_EQ(prefill.endpoint, "127.0.0.1:8100");
  EXPECT_DOUBLE_EQ(prefill.uptime_seconds, 12.5);
  EXPECT_EQ(prefill.queue_length, 4U);
  EXPECT_EQ(prefill.queue_max, 256U);
  EXPECT_EQ(prefill.pages - prefill.pages_free, 1000U);
  EXPECT_EQ(prefill.page_hits, 30U);
  EXPECT_FALSE(prefill.directory.reachable);
  EXPECT_EQ(prefill.directory.cause, "E009");
  ASSERT_EQ(prefill.paths.size(), 1U);
  EXPECT_EQ(prefill.paths[0].bytes, 1000U);
  EXPECT_EQ(prefill.paths[0].failures, 1U);
  EXPECT_DOUBLE_EQ(prefill.paths[0].gigabytes_per_second, 5.5);
  EXPECT_TRUE(view->instances[1].directory.reachable) << "an older version does not say";
  ASSERT_EQ(view->missing.size(), 1U);
  EXPECT_EQ(view->missing[0].reason, "E102");
}

TEST(ParseCluster, RefusesWhatIsNoCluster) {
  for (const char* body : {"", "<html>", "[]", "{}", R"({"instances":{}})"}) {
    EXPECT_TRUE(FailsWith(ParseCluster(body), ErrorId::kNotAnInstance)) << body;
  }
}

TEST(ParseCluster, TakesWhatAPeerSaysAsData) {
  const Result<ClusterView> odd = ParseCluster(Answer(
      R"({"id":7,"label":"\u001b[2Jboo\n","role":null,"uptime_seconds":"long","kv":[],"requests":{"queue_max":-1},
          "paths":[3,{"transport":"shm","bytes":1e30,"usable":"yes","gigabytes_per_second":1e400}]}, "nonsense")"));
  ASSERT_TRUE(Succeeds(odd));
  ASSERT_EQ(odd->instances.size(), 1U);
  EXPECT_EQ(odd->instances[0].label, "?[2Jboo?");
  EXPECT_EQ(odd->instances[0].queue_max, 0U);
  ASSERT_EQ(odd->instances[0].paths.size(), 1U);
  EXPECT_EQ(odd->instances[0].paths[0].bytes, 0U);
  EXPECT_EQ(odd->instances[0].paths[0].gigabytes_per_second, 0);
  EXPECT_FALSE(odd->instances[0].paths[0].usable);
}

TEST(MergeClusters, ShowsEachInstanceOnceAndWhoeverAnswersIsNotMissing) {
  const std::string first = Answer(
      kPrefill,
      R"({"label":"decode-0","id":"b2","reason":"E103"},{"label":"gone","id":"c3","reason":"E102"})");
  const std::string second =
      Answer(kDecode + "," + kPrefill, R"({"label":"gone","id":"c3","reason":"E102"})");
  const std::vector<std::string> bodies = {first, second, "no JSON"};
  const std::vector<MissingView> missing = {{"10.0.0.9:1", "E103 no answer"}};
  const Result<ClusterView> view = ParseCluster(MergeClusters(bodies, missing));
  ASSERT_TRUE(Succeeds(view));
  ASSERT_EQ(view->instances.size(), 2U);
  ASSERT_EQ(view->missing.size(), 2U);
  EXPECT_EQ(view->missing[0].label, "gone");
  EXPECT_EQ(view->missing[1].label, "10.0.0.9:1");
}

TEST(Since, CountsWhatHappenedBetweenTwoSamples) {
  ClusterView before = *ParseCluster(Answer(kPrefill));
  ClusterView now = before;
  now.instances[0].paths[0].bytes = 5000;
  now.instances[0].paths[0].failures = 4;
  now.instances[0].paths.push_back(
      {.peer = "decode-0", .peer_id = "b2", .transport = "tcp", .bytes = 70});
  const ClusterView since = Since(before, now);
  EXPECT_EQ(since.instances[0].paths[0].bytes, 4000U);
  EXPECT_EQ(since.instances[0].paths[0].failures, 3U);
  EXPECT_EQ(since.instances[0].paths[1].bytes, 70U) << "a path that was not there before";
  now.instances[0].paths[0].bytes = 10;
  EXPECT_EQ(Since(before, now).instances[0].paths[0].bytes, 10U)
      << "counted from zero again: the peer is a new one";
}

TEST(ParseTarget, TakesUrlsAndAddressesAndAsksForAPort) {
  EXPECT_EQ(ParseTarget("http://[::1]:8100/", {})->port, 8100);
  EXPECT_EQ(Describe(*ParseTarget("[::1]:8100", {})), "[::1]:8100");
  EXPECT_EQ(Describe(*ParseTarget("node-3:8100", {})), "node-3:8100");
  EXPECT_TRUE(FailsWith(ParseTarget("node-3", {}), ErrorId::kBadAddress));
  EXPECT_TRUE(FailsWith(ParseTarget("ftp://node-3:1", {}), ErrorId::kBadAddress));
  EXPECT_TRUE(FailsWith(ParseTarget("", {}), ErrorId::kBadAddress));
}

}  // namespace
}  // namespace mooncake
