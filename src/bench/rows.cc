#include "bench/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/options.h"

namespace mooncake {
namespace {

using enum BenchMetric;
constexpr BenchGoal kShown{};
constexpr BenchGoal Map(double of_limit = 0) { return {BenchLimit::kMapping, of_limit}; }
constexpr BenchGoal Vm(double of_limit = 0) { return {BenchLimit::kProcessVm, of_limit}; }
constexpr BenchGoal Stream(double of_limit = 0) { return {BenchLimit::kStream, of_limit}; }
constexpr BenchGoal Spinning(double of_limit = 0) { return {BenchLimit::kSpinning, of_limit}; }
constexpr BenchGoal Sleeping(double of_limit = 0) { return {BenchLimit::kSleeping, of_limit}; }
constexpr BenchGoal Verbs(double of_limit = 0) { return {BenchLimit::kVerbs, of_limit}; }
constexpr BenchGoal OneThread(double of_limit) { return {BenchLimit::kOneThread, of_limit}; }

constexpr std::uint64_t kKi = 1024;
constexpr std::uint64_t kMi = 1024 * kKi;

// Goals in the order shm, ring, cma, tcp, rdma. docs/design/performance.md says where they come
// from.
constexpr std::array kRows = {
    BenchRow{
        "64B", kLatency, 64, 1, 1, false, {Map(0.2), Map(), Vm(0.83), Spinning(0.83), Verbs(0.83)}},
    BenchRow{
        "64B-paced", kLatency, 64, 1, 1, true, {kShown, kShown, kShown, Sleeping(0.91), kShown}},
    BenchRow{"64B-cpu",
             kCpuPerCall,
             64,
             1,
             1,
             false,
             {Map(0.2), Map(), Vm(0.8), Sleeping(0.65), kShown}},
    BenchRow{
        "64KiB", kThroughput, 64 * kKi, 1, 1, false, {Map(0.9), Map(), Vm(0.9), Stream(), Verbs()}},
    BenchRow{
        "1MiB", kThroughput, kMi, 1, 1, false, {Map(0.9), Map(), Vm(0.95), Stream(0.8), Verbs()}},
    BenchRow{"16MiB",
             kThroughput,
             16 * kMi,
             1,
             1,
             false,
             {Map(0.9), Map(), Vm(0.95), Stream(0.8), Verbs(0.95)}},
    BenchRow{"1MiB-2threads",
             kThroughput,
             kMi,
             1,
             2,
             false,
             {OneThread(0.9), OneThread(0.9), OneThread(0.9), OneThread(0.9), OneThread(0.9)}},
    BenchRow{"1MiB-4threads",
             kThroughput,
             kMi,
             1,
             4,
             false,
             {OneThread(0.9), OneThread(0.9), OneThread(0.9), OneThread(0.9), OneThread(0.9)}},
    BenchRow{"256x64KiB",
             kThroughput,
             64 * kKi,
             256,
             1,
             false,
             {kShown, kShown, kShown, kShown, Verbs(0.95)}},
    BenchRow{"64x1MiB",
             kThroughput,
             kMi,
             64,
             1,
             false,
             {Map(0.93), Map(0.70), Vm(0.9), Stream(0.87), Verbs(0.95)}},
    BenchRow{"1000x4KiB",
             kThroughput,
             4 * kKi,
             1000,
             1,
             false,
             {Map(0.85), Map(0.68), Vm(0.9), Stream(0.89), Verbs()}},
    BenchRow{"16384x2KiB",
             kThroughput,
             2 * kKi,
             16384,
             1,
             false,
             {Map(0.93), Map(0.93), Vm(0.9), Stream(0.85), Verbs()}},
    BenchRow{"65536x4KiB",
             kThroughput,
             4 * kKi,
             65536,
             1,
             false,
             {Map(0.94), Map(0.85), Vm(0.9), Stream(1.0), Verbs()}},
    BenchRow{"100000x128B",
             kThroughput,
             128,
             100'000,
             1,
             false,
             {Map(0.93), Map(1.12), Vm(0.9), Stream(0.375), Verbs()}},
    BenchRow{"1MiB-cpu",
             kCpuPerByte,
             kMi,
             1,
             1,
             false,
             {Map(0.8), Map(), Vm(0.87), Stream(0.89), kShown}},
};

template <class Item>
Result<std::vector<Item>> Select(std::string_view what, std::string_view list,
                                 std::span<const Item> all, auto&& name_of) {
  if (list.empty()) return std::vector<Item>(all.begin(), all.end());
  std::vector<Item> selected;
  for (;;) {
    const std::size_t comma = list.find(',');
    const std::string_view wanted = list.substr(0, comma);
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const Item& item) { return name_of(item) == wanted; });
    if (found == all.end()) {
      std::vector<std::string> names;
      for (const Item& item : all) names.emplace_back(name_of(item));
      const std::optional<std::string> nearest = NearestName(wanted, names);
      return Fail(ErrorId::kBadOptionValue,
                  fmt::format("there is no {} \"{}\"; {}", what, wanted,
                              nearest ? fmt::format("\"{}\" is the nearest", *nearest)
                                      : fmt::format("known are {}", fmt::join(names, ", "))));
    }
    selected.push_back(*found);
    if (comma == std::string_view::npos) return selected;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

std::string_view ToString(BenchTransport transport) noexcept {
  constexpr std::array<std::string_view, kBenchTransports.size()> kNames = {"shm", "ring", "cma",
                                                                            "tcp", "rdma"};
  return kNames[static_cast<std::size_t>(transport)];
}

std::string_view ToString(BenchLimit limit) noexcept {
  constexpr std::array<std::string_view, 8> kNames = {
      "none",          "mapping",       "process_vm", "tcp stream",
      "tcp, spinning", "tcp, sleeping", "perftest",   "one thread"};
  return kNames[static_cast<std::size_t>(limit)];
}

std::span<const BenchRow> BenchRows() noexcept { return kRows; }

BenchRow AsPerftest(BenchRow row) noexcept {
  constexpr std::uint64_t kInFlightBytes = 32 * kMi;
  constexpr std::uint64_t kInFlightMin = 2;
  constexpr std::uint64_t kInFlightMax = 16;
  row.stays = true;
  if (row.metric == BenchMetric::kThroughput)
    row.in_flight = static_cast<std::uint32_t>(
        std::clamp(kInFlightBytes / row.bytes(), kInFlightMin, kInFlightMax));
  return row;
}

BenchRow Shrink(BenchRow row, std::uint64_t bytes_max) noexcept {
  row.range_bytes = std::min(row.range_bytes, bytes_max);
  row.ranges = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(bytes_max / row.range_bytes, 1, row.ranges));
  return row;
}

Result<std::vector<BenchRow>> SelectRows(std::string_view list) {
  return Select<BenchRow>("row", list, kRows, [](const BenchRow& row) { return row.name; });
}

Result<std::vector<BenchTransport>> SelectTransports(std::string_view list) {
  return Select<BenchTransport>("transport", list, kBenchTransports,
                                [](BenchTransport transport) { return ToString(transport); });
}

// Small ranges lie apart, as the pieces of pages do; large ones fill the area. A single small range
// each time begins in another page and at another place in it.
BenchLayout::BenchLayout(const BenchRow& row, std::uint64_t area_bytes) : ranges_(row.ranges) {
  constexpr std::uint64_t kPageBytes = 4096;
  constexpr std::uint64_t kLineBytes = 64;
  slot_bytes_ = row.range_bytes;
  if (ranges_ > 1 && row.range_bytes < kPageBytes) slot_bytes_ = 2 * row.range_bytes;
  if (ranges_ == 1 && row.range_bytes < kPageBytes) slot_bytes_ = kPageBytes + kLineBytes;
  positions_ = area_bytes / (slot_bytes_ * ranges_);
  MC_ASSERT(positions_ > 0);
  if (row.stays) {
    positions_ = 1;
    slot_bytes_ = 0;
  }
  // About the golden section: neighbours there come from far apart here.
  step_ = std::max<std::uint32_t>(1, static_cast<std::uint32_t>(ranges_ * 0.618));
  while (std::gcd(step_, ranges_) != 1) step_ += 1;
}

BenchLayout::Range BenchLayout::At(std::size_t position, std::uint32_t index) const noexcept {
  const std::uint64_t begin = position * slot_bytes_ * ranges_;
  const std::uint64_t there = static_cast<std::uint64_t>(index) * step_ % ranges_;
  return {begin + index * slot_bytes_, begin + there * slot_bytes_};
}

}  // namespace mooncake
