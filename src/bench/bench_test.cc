#include <gtest/gtest.h>

#include <set>

#include "base/test_support.h"
#include "bench/areas.h"
#include "bench/perftest.h"
#include "bench/report.h"
#include "bench/rows.h"

namespace mooncake {
namespace {

constexpr std::uint64_t kAreaBytes = 256 << 20;

TEST(BenchRows, EveryRowFitsItsAreaAndWritesNoByteTwice) {
  for (const BenchRow& row : BenchRows()) {
    const BenchLayout layout(row, kAreaBytes);
    std::set<std::uint64_t> local;
    std::set<std::uint64_t> remote;
    for (std::uint32_t i = 0; i < row.ranges; ++i) {
      const BenchLayout::Range range = layout.At(layout.positions() - 1, i);
      EXPECT_LE(range.local + row.range_bytes, kAreaBytes) << row.name;
      EXPECT_LE(range.remote + row.range_bytes, kAreaBytes) << row.name;
      EXPECT_TRUE(local.insert(range.local / row.range_bytes).second) << row.name;
      EXPECT_TRUE(remote.insert(range.remote / row.range_bytes).second) << row.name;
    }
  }
}

TEST(BenchRows, CallsOfOneRangeRotateThroughAllOfTheArea) {
  for (const BenchRow& row : BenchRows()) {
    if (row.ranges > 1) continue;
    const BenchLayout layout(row, kAreaBytes);
    EXPECT_GT(layout.At(layout.positions() - 1, 0).remote, kAreaBytes - (32 << 20)) << row.name;
  }
}

TEST(BenchRows, ARowThatStaysHasOnePlace) {
  BenchRow row = (*SelectRows("256x64KiB"))[0];
  row.stays = true;
  const BenchLayout layout(row, kAreaBytes);
  EXPECT_EQ(layout.positions(), 1U);
  for (std::uint32_t i = 0; i < row.ranges; ++i) {
    EXPECT_EQ(layout.At(0, i).local, 0U);
    EXPECT_EQ(layout.At(0, i).remote, 0U);
  }
}

TEST(BenchRows, HaveAsManyCallsInFlightAsPerftestFillsALinkWith) {
  const auto in_flight = [](std::string_view row) {
    return AsPerftest((*SelectRows(row))[0]).in_flight;
  };
  EXPECT_EQ(in_flight("64KiB"), 16U);
  EXPECT_EQ(in_flight("256x64KiB"), 2U);
  EXPECT_EQ(in_flight("64x1MiB"), 2U);
  EXPECT_EQ(in_flight("64B"), 1U);  // a latency
}

TEST(BenchRows, ShrinkingKeepsTheShape) {
  const BenchRow row = Shrink((*SelectRows("65536x4KiB"))[0], 1 << 20);
  EXPECT_EQ(row.range_bytes, 4096U);
  EXPECT_EQ(row.ranges, 256U);
  EXPECT_EQ(Shrink((*SelectRows("16MiB"))[0], 1 << 20).bytes(), 1U << 20);
}

TEST(BenchRows, AListIsChecked) {
  EXPECT_EQ(SelectRows("")->size(), BenchRows().size());
  EXPECT_EQ(SelectRows("64B,1MiB")->size(), 2U);
  EXPECT_TRUE(FailsWith(SelectRows("64B,1Mib"), ErrorId::kBadOptionValue));
  EXPECT_TRUE(FailsWith(SelectTransports("shm,"), ErrorId::kBadOptionValue));
}

TEST(BenchAreas, TheDigestSeesOneWrongByte) {
  BenchArea area(1 << 20);
  FillWithPattern(area.bytes());
  const std::uint64_t before = Digest(area.bytes());
  area.bytes()[77777] ^= std::byte{1};
  EXPECT_NE(Digest(area.bytes()), before);
}

TEST(BenchReport, SaysWhatIsBelowItsGoalAndWhatIsWrong) {
  BenchEntry entry;
  entry.name = "1MiB";
  entry.transport = "tcp";
  entry.operation = "write";
  entry.gbps = 2;
  entry.of_limit = 0.5;
  entry.goal = 0.8;
  entry.verified = true;
  EXPECT_NE(BenchLine(entry).find("below"), std::string::npos);
  EXPECT_EQ(BenchLine(entry).find("WRONG"), std::string::npos);
  entry.of_limit = 0.9;
  EXPECT_EQ(BenchLine(entry).find("below"), std::string::npos);
  entry.verified = false;
  EXPECT_NE(BenchLine(entry).find("WRONG"), std::string::npos);
  EXPECT_EQ(BenchSummary({entry}), "1 of 1 goals reached; 1 targets held WRONG BYTES\n");
}

TEST(BenchReport, QuantilesAreThoseOfTheValues) {
  std::vector<double> values = {5, 1, 4, 2, 3};
  EXPECT_EQ(QuantileOf(values, 0), 1);
  EXPECT_EQ(QuantileOf(values, 0.5), 3);
  EXPECT_EQ(QuantileOf(values, 1), 5);
  std::vector<double> none;
  EXPECT_EQ(QuantileOf(none, 0.5), 0);
}

TEST(Perftest, IsReadByTheLastLineOfItsTable) {
  EXPECT_EQ(ParsePerftest(" Data ex. method : Ethernet\n"
                          " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]\n"
                          " 65536      1000             1.45               1.44   0.002747\n"
                          "-----\n",
                          BenchMetric::kThroughput),
            1.44 / 8);
  EXPECT_EQ(ParsePerftest(" #bytes #iterations t_min[usec] t_max[usec]  t_typical[usec] t_avg\n"
                          " 64      1000        95.17       3214.55      106.31         121.4\n",
                          BenchMetric::kLatency),
            106.31);
  EXPECT_FALSE(ParsePerftest("Couldn't connect to 127.0.0.1:18515\n", BenchMetric::kThroughput));
}

}  // namespace
}  // namespace mooncake
