// The target's side of a data connection: puts what arrives where its gather list says, and answers
// reads.
#pragma once

#include <memory>
#include <optional>
#include <vector>

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
  std::optional<Instant> frame_begun;  ///< Since when the rest of a frame is awaited.
  /// What has arrived and is not in its place yet is dropped.
  void End() {
    ended = true;
    stream->Close();
  }
};

/// Serves until the stream ends or says something that is no data frame. On the stream's loop. The
/// context is shared with the connections that it serves: they end after the transport that
/// accepted them.
[[nodiscard]] Task<void> ServeTcpData(World& world, std::shared_ptr<ServedLane> lane,
                                      std::shared_ptr<const TcpServerContext> context);

/// The connections that are served, while they are: a frame that begins and does not end holds
/// memory, and regions, so it ends its connection. On the data loop.
class ServedLanes : public std::enable_shared_from_this<ServedLanes> {
 public:
  ServedLanes(World& world, Duration frame_timeout)
      : world_(world), frame_timeout_(frame_timeout) {}
  void Add(std::shared_ptr<ServedLane> lane);
  void EndOf(const InstanceId& peer);
  void Close();  ///< Ends all of them. Nothing is added after that.

 private:
  void WatchOn();
  void Look();
  void Tidy() {
    std::erase_if(lanes_, [](const std::weak_ptr<ServedLane>& lane) { return lane.expired(); });
  }

  World& world_;
  const Duration frame_timeout_;
  std::vector<std::weak_ptr<ServedLane>> lanes_;
  std::unique_ptr<Timer> timer_;
  bool watching_ = false;
};

}  // namespace mooncake
