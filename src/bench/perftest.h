// What the programs of linux-rdma/perftest (ib_write_bw and its siblings) reach between two ports
// of this host: the limit of RDMA.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/rows.h"

namespace mooncake {

struct PerftestFigure {
  double value;   ///< GB/s, or microseconds of one (a round trip: ib_write_lat prints half of it).
  Duration took;  ///< What it is the average, or the median, of.
};

/// From one device to itself, as our two processes use it.
class PerftestLimit {
 public:
  /// `device` as `mooncake topology` names it. kNotFound: the device is not there, or has no
  /// address that RoCE v2 can use.
  [[nodiscard]] static Result<PerftestLimit> Open(World& world, std::string device);
  /// Of requests of `range_bytes`. Takes some seconds. kFileAccess: the program is not installed.
  /// kInternal: it says nothing that can be read.
  [[nodiscard]] Result<PerftestFigure> Measure(BenchMetric metric, Direction direction,
                                               std::uint64_t range_bytes) const;

 private:
  /// What `program` says as a client of itself.
  [[nodiscard]] Result<std::string> Run(const std::string& program,
                                        std::vector<std::string> arguments) const;

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
