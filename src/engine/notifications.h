// Notifications as the receiver keeps them: each exactly once, however often the sender had to
// repeat itself.
#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "engine/engine.h"

namespace mooncake {

class NotificationBox {
 public:
  /// Keeps it unless its sequence number has been seen from this sender. kPeerBusy when 65,536 wait
  /// to be taken.
  [[nodiscard]] Status Put(const InstanceId& sender, std::uint64_t sequence,
                           Notification notification) {
    constexpr std::size_t kWaitingMax = 65536;
    const std::lock_guard lock(mutex_);
    Seen& seen = seen_[sender];
    if (sequence <= seen.all_up_to || seen.beyond.contains(sequence)) return {};
    if (waiting_.size() >= kWaitingMax)
      return Fail(ErrorId::kPeerBusy, "65536 notifications wait to be taken");
    seen.beyond.insert(sequence);
    while (!seen.beyond.empty() && *seen.beyond.begin() == seen.all_up_to + 1) {
      seen.all_up_to += 1;
      seen.beyond.erase(seen.beyond.begin());
    }
    constexpr std::size_t kGapsMax =
        4096;  // a sender that leaves gaps for ever: the oldest gap is given up
    if (seen.beyond.size() > kGapsMax) {
      seen.all_up_to = *seen.beyond.begin();
      seen.beyond.erase(seen.beyond.begin());
    }
    waiting_.push_back(std::move(notification));
    return {};
  }

  [[nodiscard]] std::vector<Notification> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(waiting_, {});
  }

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
