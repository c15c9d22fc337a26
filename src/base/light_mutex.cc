#include "base/light_mutex.h"

namespace mooncake {

void LightMutex::Wait() noexcept {
  while (state_.exchange(kAwaited, std::memory_order_acquire) != kFree)
    state_.wait(kAwaited, std::memory_order_relaxed);
}

void LightMutex::Wake() noexcept { state_.notify_one(); }

}  // namespace mooncake
