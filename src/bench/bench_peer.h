// The other process of a benchmark: memory for every transport, and a plain socket for the limits.
#pragma once

#include "bench/areas.h"
#include "bench/bench_node.h"

namespace mooncake {

/// The areas of the peer that are measured, as numbered in pb::BenchRequest.
enum class BenchAreaKind : std::uint8_t { kUser, kMapped };
enum class BenchAction : std::uint8_t { kTell, kFill, kClear, kDigest };

class BenchPeer {
 public:
  /// Listens and serves until destroyed. Not from a loop. Errors as Network::Listen,
  /// kMemoryShortage.
  [[nodiscard]] static Result<std::unique_ptr<BenchPeer>> Open(
      World& world, const TransportFactory& add_transports, const CopyEngine& copy,
      const Endpoint& at, std::uint64_t area_bytes);
  ~BenchPeer();
  [[nodiscard]] Endpoint endpoint() const noexcept { return endpoint_; }

 private:
  class LimitServer;
  BenchPeer(World& world, const TransportFactory& add_transports, const CopyEngine& copy,
            std::uint64_t area_bytes);
  [[nodiscard]] Status Start(const Endpoint& at);
  [[nodiscard]] Task<Result<Reply>> Answer(Frame request);
  [[nodiscard]] MutableBytes Area(BenchAreaKind kind) const noexcept;

  World& world_;
  BenchArea user_;
  BenchArea limit_;
  RegionInfo user_region_;
  RegionInfo mapped_region_;
  Endpoint endpoint_;
  std::unique_ptr<LimitServer> limit_server_;
  std::unique_ptr<Worker> worker_;  // fills and digests: too slow for a loop
  BenchNode node_;
};

}  // namespace mooncake
