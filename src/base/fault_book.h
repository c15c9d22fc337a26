// What fakes of driver libraries have in common: a call fails when a test says so, and what has
// been made and not released is counted.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace mooncake {

/// Any thread.
class FaultBook {
 public:
  /// The `nth` call of that name from now on fails, counted from 1, as the driver would fail it.
  void FailCall(const std::string& name, int nth) {
    const std::lock_guard lock(mutex_);
    fail_name_ = name;
    fail_in_ = nth;
    has_failed_ = false;
  }
  /// Whether it has.
  [[nodiscard]] bool HasFailed() const {
    const std::lock_guard lock(mutex_);
    return has_failed_;
  }
  /// Calls so far, of all names.
  [[nodiscard]] std::uint64_t calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  /// Of each kind, those that have not been released; kinds without any are not there.
  [[nodiscard]] std::map<std::string, int> live_handles() const {
    const std::lock_guard lock(mutex_);
    std::map<std::string, int> live = live_;
    std::erase_if(live, [](const auto& kind) { return kind.second == 0; });
    return live;
  }
  /// Of all kinds.
  [[nodiscard]] int live_handle_count() const {
    int count = 0;
    for (const auto& [kind, live] : live_handles()) count += live;
    return count;
  }

 protected:
  ~FaultBook() = default;
  /// For the fake, at the beginning of each call.
  [[nodiscard]] bool Fails(const std::string& name) {
    const std::lock_guard lock(mutex_);
    calls_ += 1;
    if (name != fail_name_ || --fail_in_ != 0) return false;
    has_failed_ = true;
    return true;
  }
  void CountHandle(const std::string& kind, int change) {
    const std::lock_guard lock(mutex_);
    live_[kind] += change;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, int> live_;  // guarded by mutex_, like the rest
  std::uint64_t calls_ = 0;
  std::string fail_name_;
  int fail_in_ = 0;
  bool has_failed_ = false;
};

}  // namespace mooncake
