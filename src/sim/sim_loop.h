// Simulated time: one queue of events, ordered by time and then by the order in which they were
// added. Processes run on it, each through an executor of its own, so that one can be frozen,
// thawed or counted without the others.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/execution_context.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/world.h"

namespace mooncake {

namespace internal {

// A piece of work that can be moved and not copied, as Asio's handlers are.
class SimWork {
 public:
  virtual ~SimWork() = default;
  virtual void Run() = 0;
};
using SimWorkPtr = std::unique_ptr<SimWork>;

template <class Function>
SimWorkPtr MakeSimWork(Function&& function) {
  using F = std::decay_t<Function>;
  class Work final : public SimWork {
   public:
    explicit Work(Function&& f) : function_(std::forward<Function>(f)) {}
    void Run() override {
      F function = std::move(function_);  // gone before what it started can come back here
      function();
    }

   private:
    F function_;
  };
  return std::make_unique<Work>(std::forward<Function>(function));
}

}  // namespace internal

class SimLoop;

/// What the loop knows of a process: where its work waits, and how much of it there is.
class SimTurn final : public boost::asio::execution_context {
 public:
  explicit SimTurn(SimLoop& loop) : loop_(loop) {}
  ~SimTurn() { shutdown(); }

  void Add(internal::SimWorkPtr work);  ///< Now, after what is queued.
  void AddAt(Instant when, internal::SimWorkPtr work);
  /// Nothing of this process runs until Thaw(), which then runs what came meanwhile, in order.
  void Freeze() noexcept { frozen_ = true; }
  void Thaw();
  [[nodiscard]] bool is_frozen() const noexcept { return frozen_; }
  /// What Asio counts as outstanding: something as long as a coroutine has not ended, else 0.
  [[nodiscard]] std::size_t outstanding() const noexcept { return outstanding_; }
  [[nodiscard]] SimLoop& loop() const noexcept { return loop_; }

 private:
  friend class SimLoop;
  friend class SimExecutor;
  SimLoop& loop_;
  bool frozen_ = false;
  std::deque<internal::SimWorkPtr> held_;
  std::size_t outstanding_ = 0;
};

/// Asio's view of a SimTurn. "Tracked" copies are those that co_spawn() keeps while its coroutine
/// lives.
class SimExecutor {
 public:
  explicit SimExecutor(SimTurn& turn, bool tracked = false) noexcept
      : turn_(&turn), tracked_(tracked) {
    Count(1);
  }
  SimExecutor(const SimExecutor& other) noexcept : turn_(other.turn_), tracked_(other.tracked_) {
    Count(1);
  }
  SimExecutor& operator=(const SimExecutor& other) noexcept {
    other.Count(1);
    Count(-1);
    turn_ = other.turn_;
    tracked_ = other.tracked_;
    return *this;
  }
  ~SimExecutor() { Count(-1); }

  template <class Function>
  void execute(Function&& function) const {
    turn_->Add(internal::MakeSimWork(std::forward<Function>(function)));
  }
  bool operator==(const SimExecutor& other) const noexcept { return turn_ == other.turn_; }
  bool operator!=(const SimExecutor& other) const noexcept { return turn_ != other.turn_; }

  boost::asio::execution_context& query(boost::asio::execution::context_t) const noexcept {
    return *turn_;
  }
  static constexpr boost::asio::execution::blocking_t query(
      boost::asio::execution::blocking_t) noexcept {
    return boost::asio::execution::blocking.never;
  }
  boost::asio::execution::outstanding_work_t query(
      boost::asio::execution::outstanding_work_t) const noexcept {
    if (tracked_) return boost::asio::execution::outstanding_work.tracked;
    return boost::asio::execution::outstanding_work.untracked;
  }
  SimExecutor require(boost::asio::execution::blocking_t::never_t) const noexcept { return *this; }
  SimExecutor require(boost::asio::execution::outstanding_work_t::tracked_t) const noexcept {
    return SimExecutor(*turn_, true);
  }
  SimExecutor require(boost::asio::execution::outstanding_work_t::untracked_t) const noexcept {
    return SimExecutor(*turn_, false);
  }

 private:
  void Count(int by) const noexcept {
    if (tracked_) turn_->outstanding_ += static_cast<std::size_t>(by);
  }
  SimTurn* turn_;
  bool tracked_;
};

class SimLoop {
 public:
  ~SimLoop() { Clear(); }

  [[nodiscard]] Instant Now() const noexcept { return now_; }
  void AddAt(Instant when, SimTurn* turn, internal::SimWorkPtr work);
  /// Work of nobody in particular: the network, faults.
  template <class Function>
  void At(Instant when, Function&& function) {
    AddAt(when, nullptr, internal::MakeSimWork(std::forward<Function>(function)));
  }
  /// Runs the next event, unless it lies after `limit`; false: there is none, and the time is
  /// `limit` (unless kNever).
  bool Step(Instant limit);
  [[nodiscard]] std::uint64_t steps() const noexcept { return steps_; }
  /// Called after each event, with the process that it belonged to (or null).
  std::function<void(SimTurn*)> on_step;
  /// Drops everything that is queued, without running it.
  void Clear();

 private:
  struct Event {
    Instant when;
    std::uint64_t sequence;
    SimTurn* turn;
    internal::SimWorkPtr work;
    [[nodiscard]] bool operator>(const Event& other) const noexcept {
      return when != other.when ? when > other.when : sequence > other.sequence;
    }
  };
  void Run(SimTurn* turn, internal::SimWorkPtr work);
  Instant now_{std::chrono::hours(1)};
  std::uint64_t sequence_ = 0;
  std::uint64_t steps_ = 0;
  std::deque<Event> ready_;   // due now, in order
  std::vector<Event> later_;  // a heap
  bool clearing_ = false;
};

}  // namespace mooncake
