// Connections over which peers send frames that carry bytes, watched while they are served.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/world.h"

namespace mooncake {

/// One connection that is served. On the data loop.
struct ServedLane {
  ServedLane(std::shared_ptr<Stream> s, InstanceId p) : stream(std::move(s)), peer(p) {}
  virtual ~ServedLane() = default;
  /// What has arrived and is not in its place yet is dropped.
  virtual void End() {
    ended = true;
    stream->Close();
  }

  const std::shared_ptr<Stream> stream;
  const InstanceId peer;
  bool ended = false;
  std::optional<Instant> frame_begun;  ///< Since when the rest of a frame is awaited.
};

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
