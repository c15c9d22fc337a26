// The target's side of a data connection: puts what arrives where its gather list says, and answers
// reads.
#pragma once

#include <memory>

#include "base/metrics.h"
#include "memory/copy.h"
#include "memory/region_table.h"
#include "wire/frame.h"

namespace mooncake {

struct TcpServerContext {
  std::shared_ptr<const RegionTable> regions;
  CopyEngine copy;
  Counter& received_bytes;
  Counter& sent_bytes;
  Counter& corrupt_frames;
};

/// One connection that is served. On the data loop.
struct ServedLane {
  std::shared_ptr<Stream> stream;
  InstanceId peer;
  bool ended = false;
  /// What has arrived and is not in its place yet is dropped.
  void End() {
    ended = true;
    stream->Close();
  }
};

/// Serves until the stream ends or says something that is no data frame. On the stream's loop. The
/// context is shared with the connections that it serves: they end after the transport that
/// accepted them.
[[nodiscard]] Task<void> ServeTcpData(std::shared_ptr<ServedLane> lane,
                                      std::shared_ptr<const TcpServerContext> context);

}  // namespace mooncake
