#include "transport/served_lanes.h"

#include "base/log.h"

namespace mooncake {

void ServedLanes::Add(std::shared_ptr<ServedLane> lane) {
  Tidy();
  lanes_.push_back(std::move(lane));
  if (!timer_) timer_ = world_.clock.MakeTimer(world_.data);
  if (!std::exchange(watching_, true)) WatchOn();
}

void ServedLanes::WatchOn() {
  constexpr int kLooksPerTimeout = 4;
  timer_->At(After(world_.clock.Now(), frame_timeout_ / kLooksPerTimeout),
             [weak = weak_from_this()] {
               if (const auto self = weak.lock()) self->Look();
             });
}

void ServedLanes::Look() {
  const Instant now = world_.clock.Now();
  for (const auto& weak : lanes_) {
    const auto lane = weak.lock();
    if (!lane || !lane->frame_begun || now - *lane->frame_begun < frame_timeout_) continue;
    MC_LOG(info, "data connection from {}: a frame that did not end within {} s",
           ToString(lane->stream->remote()),
           std::chrono::duration_cast<std::chrono::seconds>(frame_timeout_).count());
    lane->End();
  }
  Tidy();
  watching_ = !lanes_.empty();
  if (watching_) WatchOn();
}

void ServedLanes::EndOf(const InstanceId& peer) {
  for (const auto& weak : lanes_) {
    const auto lane = weak.lock();
    if (lane && lane->peer == peer) lane->End();
  }
}

void ServedLanes::Close() {
  timer_ = nullptr;
  for (const auto& weak : lanes_) {
    if (const auto lane = weak.lock()) lane->End();
  }
}

}  // namespace mooncake
