// A mutex whose fast paths are inlined: for data paths that lock and unlock several times within a
// microsecond, where std::mutex costs some 60 instructions and two calls into libc each time.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace mooncake {

/// Sleeps in the kernel where it is taken; not recursive, not fair. For LightLock,
/// std::unique_lock and std::condition_variable_any. The three states are those of U. Drepper,
/// "Futexes Are Tricky" (2011), mutex2.
class LightMutex {
 public:
  LightMutex() = default;
  LightMutex(const LightMutex&) = delete;
  LightMutex& operator=(const LightMutex&) = delete;

  [[gnu::always_inline]] void lock() noexcept {
    if (!try_lock()) [[unlikely]]
      Wait();
  }
  [[nodiscard]] [[gnu::always_inline]] bool try_lock() noexcept {
    std::uint32_t expected = kFree;
    return state_.compare_exchange_strong(expected, kTaken, std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }
  [[gnu::always_inline]] void unlock() noexcept {
    if (state_.exchange(kFree, std::memory_order_release) == kAwaited) [[unlikely]]
      Wake();
  }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kTaken = 1;
  static constexpr std::uint32_t kAwaited = 2;  // taken, and somebody may sleep
  void Wait() noexcept;
  void Wake() noexcept;
  std::atomic<std::uint32_t> state_ = kFree;
};

/// std::lock_guard<LightMutex>, which is a call of its own where the compiler has inlined enough.
class LightLock {
 public:
  [[gnu::always_inline]] explicit LightLock(LightMutex& mutex) noexcept : mutex_(mutex) {
    mutex_.lock();
  }
  /// The caller has it already.
  [[gnu::always_inline]] LightLock(LightMutex& mutex, std::adopt_lock_t) noexcept : mutex_(mutex) {}
  [[gnu::always_inline]] ~LightLock() { mutex_.unlock(); }
  LightLock(const LightLock&) = delete;
  LightLock& operator=(const LightLock&) = delete;

 private:
  LightMutex& mutex_;
};

}  // namespace mooncake
