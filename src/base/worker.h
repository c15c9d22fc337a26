// One thread that does what may block: copies of batches that nobody waits for on a thread of their own, unmapping. It
// starts with the first piece of work.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace mooncake {

/// The calling thread runs only when a processor has nothing else to do (SCHED_IDLE).
void YieldToEverybody() noexcept;

class Worker {
 public:
  Worker() = default;
  ~Worker() { Stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Runs `work` after what was added before. After Stop(): runs it here and now.
  void Add(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      if (!stopped_) {
        queue_.push_back(std::move(work));
        if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
        wake_.notify_one();
        return;
      }
    }
    work();
  }

  /// Finishes what is queued, then ends the thread.
  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stopped_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  bool stopped_ = false;                     // guarded by mutex_
  std::thread thread_;
};

}  // namespace mooncake
