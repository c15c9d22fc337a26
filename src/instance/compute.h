// The thread that stands for the GPU: prefill and decode steps run on it, one after another, while
// the control loop goes on.
#pragma once

#include <functional>

#include "base/world.h"

namespace mooncake {

class Compute {
 public:
  explicit Compute(World& world) : world_(world), worker_(world.threads.MakeWorker()) {}
  /// Runs `work` on the compute thread and returns to the control loop when it is done. Steps of
  /// many requests take turns, so keep each to about a millisecond.
  [[nodiscard]] Task<void> Run(std::function<void()> work) {
    const auto done = std::make_shared<OneShot<bool>>();
    worker_->Add([this, work = std::move(work), done] {
      work();
      Post(world_.control, [done] { done->Set(true); });
    });
    co_await done->Get();
  }
  void Stop() { worker_->Stop(); }

 private:
  World& world_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace mooncake
