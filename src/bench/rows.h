// What `mooncake bench transfer` measures: a table of rows, each with the limits it is compared
// with and its goals.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "transport/transport.h"

namespace mooncake {

enum class BenchTransport : std::uint8_t { kShm, kRing, kCma, kTcp, kRdma };
inline constexpr std::array kBenchTransports = {BenchTransport::kShm, BenchTransport::kRing,
                                                BenchTransport::kCma, BenchTransport::kTcp,
                                                BenchTransport::kRdma};
[[nodiscard]] std::string_view ToString(BenchTransport transport) noexcept;

enum class BenchMetric : std::uint8_t {
  kThroughput,  ///< GB/s.
  kLatency,     ///< Median of single calls.
  kCpuPerCall,  ///< Processor time of both processes.
  kCpuPerByte,  ///< The same, for bytes.
};

/// What bare code does on this machine, measured in the same run.
enum class BenchLimit : std::uint8_t {
  kNone,
  kMapping,    ///< The best copy kernel into (from) a mapping of shared memory.
  kProcessVm,  ///< process_vm_writev (readv), 1,024 ranges a call.
  kStream,     ///< One plain TCP stream.
  kSpinning,   ///< A plain TCP ping-pong whose sides spin.
  kSleeping,   ///< A plain TCP ping-pong whose sides sleep.
  kVerbs,      ///< ib_write_bw, ib_read_bw, ib_write_lat, ib_read_lat over the same device.
  kOneThread,  ///< The same row with one thread.
};
[[nodiscard]] std::string_view ToString(BenchLimit limit) noexcept;

struct BenchGoal {
  BenchLimit limit = BenchLimit::kNone;
  double of_limit = 0;  ///< 0: no goal, the limit is only shown.
};

struct BenchRow {
  std::string_view name;
  BenchMetric metric;
  std::uint64_t range_bytes;
  std::uint32_t ranges;  ///< Of one call.
  std::uint32_t threads;
  bool paced;  ///< A pause before each call: everybody sleeps when it begins.
  std::array<BenchGoal, kBenchTransports.size()> goals;  ///< By BenchTransport.
  bool stays = false;           ///< Every range of every call lies at one place.
  std::uint32_t in_flight = 1;  ///< Calls of a thread that are on their way at once.
  [[nodiscard]] std::uint64_t bytes() const noexcept { return range_bytes * ranges; }
  [[nodiscard]] const BenchGoal& goal(BenchTransport transport) const noexcept {
    return goals[static_cast<std::size_t>(transport)];
  }
};

[[nodiscard]] std::span<const BenchRow> BenchRows() noexcept;
/// The same shape with so few bytes that a call takes no time worth mentioning: at most
/// `bytes_max`.
[[nodiscard]] BenchRow Shrink(BenchRow row, std::uint64_t bytes_max) noexcept;

/// The row as perftest does it: always at the same place, so that all is at hand, and, for
/// bandwidth, with calls in flight together.
[[nodiscard]] BenchRow AsPerftest(BenchRow row) noexcept;

/// Those of `list` ("64B,1MiB"; empty: all). kBadOptionValue names the nearest.
[[nodiscard]] Result<std::vector<BenchRow>> SelectRows(std::string_view list);
[[nodiscard]] Result<std::vector<BenchTransport>> SelectTransports(std::string_view list);

/// Where in its area each call of a row copies. Calls take one position after the other, all of the
/// area in turn, so that little of it is in a cache when its turn comes; a row that stays has one.
class BenchLayout {
 public:
  struct Range {
    std::uint64_t local;   ///< Offset in the area here,
    std::uint64_t remote;  ///< and in the peer's.
  };
  BenchLayout(const BenchRow& row, std::uint64_t area_bytes);
  [[nodiscard]] std::size_t positions() const noexcept { return positions_; }
  /// Range `index` of the call at `position`.
  [[nodiscard]] Range At(std::size_t position, std::uint32_t index) const noexcept;

 private:
  std::uint64_t slot_bytes_;  // from one range to the next
  std::uint32_t ranges_;
  std::uint32_t step_;  // remote ranges come in another order: every step_-th
  std::size_t positions_;
};

}  // namespace mooncake
