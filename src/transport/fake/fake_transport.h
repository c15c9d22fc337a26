// A transport between engines of one process, for the simulator and for tests of the engine: it
// copies memory, with delays, in another order, in pieces some of which land twice, and breaks
// half-way when it is told to.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "memory/region_table.h"
#include "transport/transport.h"

namespace mooncake {

/// What the engines of one process are joined by. Any thread.
class FakeWire {
 public:
  /// `reaches` tells whether bytes go from one instance to another right now; empty: always.
  using Reaches = std::function<bool(const InstanceId& from, const InstanceId& to)>;
  explicit FakeWire(Reaches reaches = {}) : reaches_(std::move(reaches)) {}
  void Join(const InstanceId& id, std::shared_ptr<const RegionTable> regions);
  void Leave(const InstanceId& id);
  /// The regions of `to`, unless it cannot be reached from `from`.
  [[nodiscard]] std::shared_ptr<const RegionTable> Reach(const InstanceId& from,
                                                         const InstanceId& to) const;

 private:
  const Reaches reaches_;
  mutable std::mutex mutex_;
  std::map<InstanceId, std::shared_ptr<const RegionTable>> joined_;  // guarded by mutex_
};

struct FakeOptions {
  bool synchronous = false;  ///< Run() on the caller's thread, all in one instant; else Start().
  std::uint64_t piece_bytes_max = 2 << 20;
  Duration delay_max{0};  ///< Before each piece, uniform in [0, delay_max].
  bool reorder = false;   ///< Pieces of a transfer land in a drawn order.
  double repeats = 0;  ///< Share of the written pieces that land again, before the transfer ends.
  double failures =
      0;  ///< Share of the pieces of which only a beginning lands; then the path is dead.
  double refusals = 0;        ///< Share of the attempts to open a path that fail.
  Duration fixed_cost{1000};  ///< What a transfer is said to take, whatever its size.
};

/// `wire` and `world` outlive the transport.
[[nodiscard]] std::unique_ptr<Transport> MakeFakeTransport(
    World& world, FakeWire& wire, InstanceId self, std::shared_ptr<const RegionTable> regions,
    FakeOptions options);

}  // namespace mooncake
