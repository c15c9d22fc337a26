#include "view/render.h"

#include <gmock/gmock.h>

namespace mooncake {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

InstanceView Prefill() {
  InstanceView prefill{.id = "a",
                       .label = "prefill-0",
                       .role = "prefill",
                       .endpoint = "127.0.0.1:8100",
                       .uptime_seconds = 75};
  prefill.queue_length = 3;
  prefill.queue_max = 256;
  prefill.pages = 16384;
  prefill.pages_free = 15360;
  prefill.page_hits = 2;
  prefill.page_misses = 1;
  prefill.paths = {
      {.peer = "decode-0",
       .peer_id = "b",
       .transport = "shm",
       .usable = true,
       .bytes = 3 << 20,
       .gigabytes_per_second = 5.25},
      {.peer = "decode-0", .peer_id = "b", .transport = "ring", .usable = true},
      {.peer = "decode-0",
       .peer_id = "b",
       .transport = "cma",
       .usable = false,
       .reason = "process_vm_readv is not permitted here: kernel.yama.ptrace_scope is 3, and no "
                 "setting of ours changes that"},
      {.peer = "decode-0", .peer_id = "b", .transport = "tcp", .usable = false},
  };
  return prefill;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

std::string LineWith(const std::string& text, std::string_view what) {
  for (const std::string& line : Lines(text)) {
    if (line.find(what) != std::string::npos) return line;
  }
  return "no line with " + std::string(what);
}

std::string Show(const ClusterView& view) { return RenderCluster({view, {}}, nullptr, {}); }

TEST(RenderCluster, ShowsAnInstanceInOneLine) {
  const std::string line = LineWith(Show({.instances = {Prefill()}}), "127.0.0.1:8100");
  EXPECT_EQ(line,
            "prefill-0          prefill 127.0.0.1:8100          75 s   3/256    1,024/16,384  67 % "
            "reachable");
}

TEST(RenderCluster, SaysOfEachPathWhyItIsOrIsNotUsed) {
  const std::string text = Show({.instances = {Prefill()}});
  EXPECT_THAT(text, HasSubstr("prefill-0 -> decode-0\n"));
  EXPECT_EQ(LineWith(text, "  shm"), "  shm          3 MiB          -  5.25 GB/s       - in use");
  EXPECT_THAT(LineWith(text, "  ring"), HasSubstr("ready; shm was expected to be faster"));
  EXPECT_THAT(LineWith(text, "  cma"), HasSubstr("not usable: process_vm_readv is not permitted"));
  EXPECT_THAT(text, HasSubstr("changes that")) << "a long reason is wrapped, not cut";
  EXPECT_THAT(LineWith(text, "  tcp"), HasSubstr("not tried yet"));
}

TEST(RenderCluster, SaysWhatAPathConsistsOf) {
  InstanceView prefill = Prefill();
  prefill.paths[0].detail = "rail mlx5_0; without mlx5_1: down";
  EXPECT_THAT(Show({.instances = {prefill}}),
              HasSubstr("in use; rail mlx5_0; without mlx5_1: down"));
}

TEST(RenderCluster, NoLineIsWiderThanTheView) {
  InstanceView prefill = Prefill();
  prefill.label = std::string(60, 'l');
  prefill.endpoint = "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535";
  prefill.paths[2].reason = std::string(300, 'r');
  prefill.directory = {.connection = std::string(90, 'e'),
                       .reachable = false,
                       .unreachable_seconds = 7,
                       .cause = "E009 why"};
  const ClusterView view{
      .instances = {prefill},
      .missing = {{std::string(50, 'm'), "E102 nothing listens there and more words"}}};
  for (const std::string& line : Lines(Show(view))) {
    const auto columns =
        std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
    EXPECT_LE(static_cast<std::size_t>(columns), kViewColumns) << line;
  }
}

TEST(RenderCluster, RatesComeFromTwoSamples) {
  const ClusterSample before{{.instances = {Prefill()}}, Instant{}};
  ClusterSample now{{.instances = {Prefill()}}, Instant{} + 2s};
  now.view.instances[0].paths[0].bytes += 500'000'000;
  now.view.instances[0].paths[1].bytes += 1'000;
  const std::string text = RenderCluster(now, &before, {});
  EXPECT_THAT(LineWith(text, "  shm"), HasSubstr("250 MB/s"));
  EXPECT_THAT(LineWith(text, "  ring"), HasSubstr("in use for < 0.1 % of the bytes"));
  now.view.instances[0].paths[0].bytes = 5;  // a new process under the same id counts from zero
  EXPECT_THAT(LineWith(RenderCluster(now, &before, {}), "  shm"),
              HasSubstr("          -  5.25 GB/s"));
  EXPECT_THAT(RenderCluster(before, &before, {}), Not(HasSubstr("nan")));
}

TEST(RenderCluster, TellsWhatIsWrong) {
  InstanceView prefill = Prefill();
  prefill.directory = {.connection = "etcd://e:2379",
                       .reachable = false,
                       .unreachable_seconds = 42,
                       .cause = "E009 refused"};
  prefill.paths[0].suspected = true;
  prefill.paths[1].failures = 1234;
  const std::string text =
      Show({.instances = {prefill}, .missing = {{"decode-9", "E102 nothing listens"}}});
  EXPECT_THAT(text, HasSubstr("decode-9 does not answer: E102 nothing listens"));
  EXPECT_THAT(LineWith(text, "127.0.0.1:8100"), HasSubstr("down 42 s"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "prefill-0: the directory (etcd://e:2379) has not answered for 42 s: E009 refused"));
  EXPECT_THAT(LineWith(text, "  shm"), HasSubstr("in use; the peer is silent"));
  EXPECT_THAT(LineWith(text, "  ring"), HasSubstr("1,234"));
}

TEST(RenderCluster, PairsThatMovedNothingTakeOneLine) {
  InstanceView decode{.id = "b", .label = "decode-0", .role = "decode"};
  decode.paths = {{.peer = "prefill-0", .peer_id = "a", .transport = "shm", .usable = true},
                  {.peer = "prefill-0", .peer_id = "a", .transport = "tcp", .usable = true}};
  const std::string text = Show({.instances = {decode}});
  EXPECT_THAT(text, HasSubstr("\ndecode-0 -> prefill-0: nothing moved; shm, tcp ready\n"));
  EXPECT_EQ(RenderMoved({.instances = {decode}}), "");
}

TEST(RenderCluster, ColoursOnlyWhereTheyAreWanted) {
  const ClusterSample sample{{.instances = {Prefill()}, .missing = {{"x", "y"}}}, {}};
  EXPECT_THAT(RenderCluster(sample, nullptr, {}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(RenderCluster(sample, nullptr, {.color = true}), HasSubstr("\x1b[31m"));
}

TEST(Format, NumbersForPeople) {
  EXPECT_EQ(FormatRate(0), "-");
  EXPECT_EQ(FormatRate(1500), "2 kB/s");
  EXPECT_EQ(FormatRate(9.92e9), "9.92 GB/s");
  EXPECT_EQ(FormatAge(119), "119 s");
  EXPECT_EQ(FormatAge(600), "10 min");
  EXPECT_EQ(FormatAge(7200), "2 h");
  EXPECT_EQ(FormatAge(864000), "10 d");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(Fit("grün", 6), "grün  ");
  EXPECT_EQ(Fit("grün", 3), "gr…");
  EXPECT_EQ(Fit("7", 3, true), "  7");
}

}  // namespace
}  // namespace mooncake
