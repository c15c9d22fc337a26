// Spinning before sleeping: worth it while answers come sooner than a sleeper wakes, and only then.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>

#include "base/world.h"

namespace mooncake {

/// As long as waking a sleeping thread takes: who spins so long has lost at most as much again.
inline constexpr Duration kSpinMax = std::chrono::microseconds(50);

/// Learns from one kind of wait whether spinning pays. Any thread.
class SpinHabit {
 public:
  /// How long to spin this time; 0 where the last times were in vain, except now and then.
  [[nodiscard]] Duration Next() noexcept {
    if (in_vain_.load(std::memory_order_relaxed) < kInVainMax) return kSpinMax;
    return skipped_.fetch_add(1, std::memory_order_relaxed) % kTryEvery == kTryEvery - 1
               ? kSpinMax
               : Duration::zero();
  }
  /// Whether what was waited for came before the sleep.
  void Learn(bool came) noexcept {
    const int in_vain = in_vain_.load(std::memory_order_relaxed);
    if (came && in_vain != 0) in_vain_.store(0, std::memory_order_relaxed);
    if (!came && in_vain < kInVainMax) in_vain_.store(in_vain + 1, std::memory_order_relaxed);
  }

 private:
  static constexpr int kInVainMax = 4;
  static constexpr unsigned kTryEvery = 32;
  std::atomic<int> in_vain_ = 0;
  std::atomic<unsigned> skipped_ = 0;
};

/// A turn of a spinning loop that asks the kernel: whoever else wants this processor gets it.
inline void YieldProcessor() noexcept { ::sched_yield(); }

/// For the few instructions that copy or exchange what it guards, where a mutex would cost more
/// than they do: no call, no other lock and no allocation under it. For std::lock_guard. A thread
/// with a real-time priority that finds it taken waits until its holder runs on another processor.
class SpinLock {
 public:
  void lock() noexcept {
    while (!try_lock()) YieldProcessor();
  }
  [[nodiscard]] bool try_lock() noexcept { return !taken_.test_and_set(std::memory_order_acquire); }
  void unlock() noexcept { taken_.clear(std::memory_order_release); }

 private:
  std::atomic_flag taken_;
};

}  // namespace mooncake
