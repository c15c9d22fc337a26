// What the programs of linux-rdma/perftest (ib_write_bw and its siblings) reach between two ports
// of this host: the limit of RDMA.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "bench/rows.h"

namespace mooncake {

/// From one device to itself, as our two processes use it.
class PerftestLimit {
 public:
  /// `device` as `mooncake topology` names it. kNotFound: the device is not there, or has no
  /// address that RoCE v2 can use.
  [[nodiscard]] static Result<PerftestLimit> Open(World& world, std::string device);
  /// GB/s of requests of `range_bytes`, or microseconds of one (a round trip: ib_write_lat
  /// prints half of it). Takes some seconds. kFileAccess: the program is not installed.
  /// kInternal: it says nothing that can be read.
  [[nodiscard]] Result<double> Measure(BenchMetric metric, Direction direction,
                                       std::uint64_t range_bytes) const;

 private:
  PerftestLimit(World& world, std::string device, int gid)
      : world_(&world), device_(std::move(device)), gid_(gid) {}
  World* world_;  // outlives it
  std::string device_;
  int gid_;  // index of the address
};

/// The figure of the last line of its table: the average of "BW average[Gb/sec]" in GB/s, or
/// "t_typical[usec]". nullopt: there is no such line.
[[nodiscard]] std::optional<double> ParsePerftest(std::string_view output, BenchMetric metric);

}  // namespace mooncake
