// Coroutines: Task<T> is what control flows are made of, Spawn() starts one, OneShot<T> lets one
// wait for another.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "base/assert.h"

namespace mooncake {

/// A lazily started coroutine. It runs on the loop that awaits it, from one suspension to the next.
/// GCC 12 mishandles some temporaries inside a co_await expression: name the operand, then await
/// it.
template <class T = void>
using Task = boost::asio::awaitable<T>;

/// One loop: everything posted to it runs on one thread, in order.
using Executor = boost::asio::any_io_executor;

/// Runs `task` on `executor` until it ends; nobody waits for it. What it uses must live as long as
/// it does: pass it a shared_ptr to its own state. No exception may leave it.
void Spawn(const Executor& executor, Task<void> task);

/// Runs `work` on `executor`, after what is queued there.
template <class Work>
void Post(const Executor& executor, Work&& work) {
  boost::asio::post(executor, std::forward<Work>(work));
}

namespace internal {

class WaiterBase {
 public:
  virtual ~WaiterBase() = default;
  virtual void Resume() = 0;
};

template <class Handler>
class Waiter final : public WaiterBase {
 public:
  explicit Waiter(Handler handler) : handler_(std::move(handler)) {}
  void Resume() override {
    auto executor = boost::asio::get_associated_executor(handler_);
    boost::asio::post(executor, std::move(handler_));
  }

 private:
  Handler handler_;
};

}  // namespace internal

/// One value, set once, awaited once, both on the same loop. The first Set() wins, later ones do
/// nothing: an answer, a timeout and a broken connection may race for it.
template <class T>
class OneShot {
 public:
  /// Returns whether this call was the first.
  bool Set(T value) {
    if (value_) return false;
    value_.emplace(std::move(value));
    if (waiter_) std::exchange(waiter_, nullptr)->Resume();
    return true;
  }
  [[nodiscard]] bool is_set() const noexcept { return value_.has_value(); }

  [[nodiscard]] Task<T> Get() {
    if (!value_) {
      MC_ASSERT(!waiter_);
      auto initiate = [this](auto handler) {
        waiter_ = std::make_unique<internal::Waiter<decltype(handler)>>(std::move(handler));
      };
      co_await boost::asio::async_initiate<const boost::asio::use_awaitable_t<>, void()>(
          initiate, boost::asio::use_awaitable);
    }
    co_return std::move(*value_);
  }

 private:
  std::optional<T> value_;
  std::unique_ptr<internal::WaiterBase> waiter_;
};

/// Wakes whoever waits, again and again; one waiter, one loop. Notify() before Wait() is
/// remembered.
class Signal {
 public:
  void Notify() {
    notified_ = true;
    if (waiter_) std::exchange(waiter_, nullptr)->Resume();
  }
  [[nodiscard]] Task<void> Wait() {
    while (!notified_) {
      MC_ASSERT(!waiter_);
      auto initiate = [this](auto handler) {
        waiter_ = std::make_unique<internal::Waiter<decltype(handler)>>(std::move(handler));
      };
      co_await boost::asio::async_initiate<const boost::asio::use_awaitable_t<>, void()>(
          initiate, boost::asio::use_awaitable);
    }
    notified_ = false;
  }

 private:
  bool notified_ = false;
  std::unique_ptr<internal::WaiterBase> waiter_;
};

/// Counts the coroutines of one loop that use an owner, so that it can wait for them before it
/// goes.
class TaskGroup {
 public:
  /// Held by a coroutine while it runs.
  class Pass {
   public:
    explicit Pass(TaskGroup& group) : group_(group) { group_.inside_ += 1; }
    ~Pass() {
      group_.inside_ -= 1;
      if (group_.inside_ == 0) group_.emptied_.Notify();
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    TaskGroup& group_;
  };

  /// Returns when nobody is inside. One waiter.
  [[nodiscard]] Task<void> Empty() {
    while (inside_ > 0) co_await emptied_.Wait();
  }

 private:
  std::size_t inside_ = 0;
  Signal emptied_;
};

}  // namespace mooncake
