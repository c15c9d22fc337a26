// Threads for copies that nobody waits for on a thread of their own.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/world.h"

namespace mooncake {

/// Does pieces of work side by side, so that one that waits for a slow peer holds nobody else up:
/// each goes to a worker that has nothing to do, and to a new one where there is none. One stays;
/// the others end when they have nothing left.
class CopyWorkers : public std::enable_shared_from_this<CopyWorkers> {
 public:
  static constexpr std::size_t kWorkersMax = 16;  ///< Beyond it pieces wait in turn.

  explicit CopyWorkers(World& world) : world_(world) {}
  /// Any thread.
  void Add(std::function<void()> work);
  /// Returns once all that was added before has been done; then no thread is left. Nothing is added
  /// after that. On the control loop.
  [[nodiscard]] Task<void> Close();

 private:
  struct Seat {
    std::unique_ptr<Worker> worker;
    std::size_t pieces = 0;  // queued and running
  };
  using SeatPtr = std::shared_ptr<Seat>;
  void Done(const SeatPtr& seat);
  void Retire(const SeatPtr& seat);

  World& world_;
  std::mutex mutex_;
  std::vector<SeatPtr> seats_;  // guarded by mutex_; the first one stays
};

}  // namespace mooncake
