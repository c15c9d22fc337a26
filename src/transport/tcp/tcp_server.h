// The target's side of a data connection: puts what arrives where its gather list says, and answers
// reads.
#pragma once

#include <memory>

#include "base/metrics.h"
#include "memory/copy.h"
#include "memory/region_table.h"
#include "transport/served_lanes.h"

namespace mooncake {

struct TcpServerContext {
  std::shared_ptr<const RegionTable> regions;
  CopyEngine copy;
  Counter& received_bytes;
  Counter& sent_bytes;
  Counter& corrupt_frames;
};

/// Serves until the stream ends or says something that is no data frame. On the stream's loop. The
/// context is shared with the connections that it serves: they end after the transport that
/// accepted them.
[[nodiscard]] Task<void> ServeTcpData(World& world, std::shared_ptr<ServedLane> lane,
                                      std::shared_ptr<const TcpServerContext> context);

}  // namespace mooncake
