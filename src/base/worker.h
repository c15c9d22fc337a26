// The real Worker: one thread, which starts with the first piece of work.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/world.h"

namespace mooncake {

/// The calling thread leaves the processor to all others, but for a hundredth (nice 19).
void YieldToEverybody() noexcept;

class ThreadWorker final : public Worker {
 public:
  explicit ThreadWorker(WorkerUrgency urgency) : urgency_(urgency) {}
  ~ThreadWorker() override { Stop(); }
  ThreadWorker(const ThreadWorker&) = delete;
  ThreadWorker& operator=(const ThreadWorker&) = delete;

  void Add(std::function<void()> work) override {
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

  void Stop() override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Loop() {
    if (urgency_ == WorkerUrgency::kWhenIdle) YieldToEverybody();
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

  const WorkerUrgency urgency_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  bool stopped_ = false;                     // guarded by mutex_
  std::thread thread_;
};

}  // namespace mooncake
