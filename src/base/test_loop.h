// Runs one coroutine on the control loop of a real World and waits for it: the bridge from a test
// to the loops.
#pragma once

#include <functional>
#include <future>

#include "base/real_world.h"

namespace mooncake {

inline void RunOn(World& world, std::function<Task<void>()> task) {
  std::promise<void> done;
  Spawn(world.control, [](std::function<Task<void>()> body, std::promise<void>& end) -> Task<void> {
    co_await body();
    end.set_value();
  }(std::move(task), done));
  done.get_future().wait();
}

}  // namespace mooncake
