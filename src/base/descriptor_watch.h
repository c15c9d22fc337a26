// Waits on a loop until a descriptor can be read, for libraries that tell of events that way.
#pragma once

#include <memory>

#include "base/world.h"

namespace mooncake {

/// One descriptor, on one loop; one waiter at a time. Hold it by shared_ptr in the coroutine that
/// awaits it.
class DescriptorWatch {
 public:
  /// `descriptor` is borrowed: it may be closed while this lives. kNoDescriptors.
  [[nodiscard]] static Result<std::shared_ptr<DescriptorWatch>> Open(const Executor& executor,
                                                                     int descriptor);
  ~DescriptorWatch();
  DescriptorWatch(const DescriptorWatch&) = delete;
  DescriptorWatch& operator=(const DescriptorWatch&) = delete;

  /// True: it can be read. False after Close().
  [[nodiscard]] Task<bool> Readable();
  /// On the loop. Idempotent.
  void Close() noexcept;

 private:
  struct Impl;
  explicit DescriptorWatch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mooncake
