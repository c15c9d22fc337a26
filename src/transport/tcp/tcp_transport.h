// TCP: the transport that always works. A few long-lived connections per peer to its common port;
// gather lists and bytes in frames of at most 2 MiB, acknowledged once the bytes are in place, each
// under a CRC32C.
#pragma once

#include <functional>
#include <memory>

#include "base/metrics.h"
#include "memory/copy.h"
#include "memory/region_table.h"
#include "transport/data_frames.h"
#include "transport/transport.h"
#include "wire/handshake.h"

namespace mooncake {

struct TcpOptions {
  std::size_t lanes = 2;  ///< Connections per peer that the data loop uses,
  std::size_t caller_lanes =
      2;  ///< and that calling threads use themselves, where the world has threads.
  std::size_t frames_in_flight = 32;  ///< Unacknowledged frames per lane: 8 MiB.
  /// Of payload; at least 1, at most kDataPayloadBytesMax. While one side sums and sends a frame,
  /// the other receives and sums the one before: as much as fits into a processor's own cache.
  std::uint64_t frame_bytes_max = 512 << 10;
  /// A frame that has begun to arrive and takes longer ends its connection.
  Duration frame_timeout = std::chrono::seconds(60);
};

/// `introduce` tells who this side is, at each dial. `world` and `metrics` outlive the transport.
[[nodiscard]] std::unique_ptr<Transport> MakeTcpTransport(
    World& world, Metrics& metrics, std::shared_ptr<const RegionTable> regions,
    const CopyEngine& copy, std::function<Introduction()> introduce, TcpOptions options);

}  // namespace mooncake
