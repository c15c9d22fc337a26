#include "base/task.h"

#include <boost/asio/co_spawn.hpp>
#include <exception>

#include "base/log.h"

namespace mooncake {

void Spawn(const Executor& executor, Task<void> task) {
  boost::asio::co_spawn(executor, std::move(task), [](const std::exception_ptr& exception) {
    if (!exception) return;
    try {
      std::rethrow_exception(exception);
    } catch (const std::exception& error) {
      MC_LOG(error, "an exception left a task: {}", error.what());
    }
    AssertionFailed("no exception leaves a task", __FILE__, __LINE__);
  });
}

}  // namespace mooncake
