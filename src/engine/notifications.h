// Both ends of notifications: the receiver keeps each exactly once, however often the sender had to
// repeat itself.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine/peer.h"

namespace mooncake {

/// Says what peers are to hear. On the control loop.
class NotificationSender {
 public:
  explicit NotificationSender(World& world) : world_(world) {}
  /// Returns when the peer has taken it: over a path that takes messages, else over the control
  /// connection, again and again until the deadline. This lives until then. kPeerGone, kClosed
  /// (after Close()), kDeadline: it may have been heard; and what the peer answers.
  [[nodiscard]] Task<Status> Send(std::shared_ptr<PeerImpl> peer, std::string name,
                                  std::string message, Instant deadline);
  /// Nothing is repeated any more.
  void Close() noexcept { closed_ = true; }

 private:
  [[nodiscard]] Task<bool> SendOverPath(std::shared_ptr<PeerImpl> peer, std::string body,
                                        Instant deadline);

  World& world_;
  std::map<InstanceId, std::uint64_t> sequences_;  // of the last one to each peer
  bool closed_ = false;
};

/// What peers have said and nobody has taken yet. Any thread.
class NotificationBox {
 public:
  /// A NotifyRequest of `sender`. Keeps it unless its sequence number has been seen from this
  /// sender. kBadFrame; kPeerBusy when 65,536 wait to be taken.
  [[nodiscard]] Status Put(const InstanceId& sender, const std::string& request);
  [[nodiscard]] std::vector<Notification> Take();

 private:
  struct Seen {
    std::uint64_t all_up_to = 0;
    std::set<std::uint64_t> beyond;
  };
  std::mutex mutex_;
  std::map<InstanceId, Seen> seen_;    // guarded by mutex_
  std::vector<Notification> waiting_;  // guarded by mutex_
};

}  // namespace mooncake
