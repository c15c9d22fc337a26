// From a thread of its own into a loop and back.
#pragma once

#include <future>
#include <type_traits>

#include "base/task.h"

namespace mooncake {

/// Runs `task` on `loop` and waits for its end. Not from a loop.
template <class T>
T Await(const Executor& loop, Task<T> task) {
  std::promise<T> end;
  Spawn(loop, [](Task<T> body, std::promise<T>& result) -> Task<void> {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(body);
      result.set_value();
    } else {
      T value = co_await std::move(body);
      result.set_value(std::move(value));
    }
  }(std::move(task), end));
  return end.get_future().get();
}

}  // namespace mooncake
