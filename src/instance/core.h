// What the services of one instance share: model, memory, caches, engine. Everything on the control
// loop, except the bytes of pages, which the compute thread reads and writes while their sequence
// holds them.
#pragma once

#include <chrono>
#include <string>

#include "base/metrics.h"
#include "engine/engine.h"
#include "instance/compute.h"
#include "instance/kv_memory.h"
#include "kv/prefix_cache.h"
#include "kv/sequence.h"
#include "model/synthetic_model.h"

namespace mooncake {

enum class Role { kPrefill, kDecode, kBoth };
[[nodiscard]] std::string_view ToString(Role role) noexcept;
/// Between two attempts of one request, with this or another partner.
inline constexpr Duration kRetryPause = std::chrono::milliseconds(50);

[[nodiscard]] constexpr bool CanPrefill(Role role) noexcept { return role != Role::kDecode; }
[[nodiscard]] constexpr bool CanDecode(Role role) noexcept { return role != Role::kPrefill; }

struct InstanceLimits {
  std::size_t queue_max = 256;   ///< Requests held at once, running and waiting, of each service.
  std::size_t running_max = 32;  ///< Sequences decoded at once.
  Duration request_timeout = std::chrono::seconds(60);
  double prefill_tokens_per_second = 0;  ///< 0: as fast as this machine computes.
  double decode_tokens_per_second = 0;   ///< For each request.
};

/// A request may be given up at any time, by its client, its deadline or its caller. Shared between
/// who gives up and who works; any thread.
struct Abandon {
  std::atomic<bool> flag = false;
  [[nodiscard]] bool is_set() const noexcept { return flag.load(std::memory_order_relaxed); }
};
using AbandonPtr = std::shared_ptr<Abandon>;

struct InstanceCore {
  World& world;
  Metrics& metrics;
  Engine& engine;
  Role role;
  InstanceLimits limits;
  SyntheticModel model;
  std::string
      model_id;  ///< Name, scale and page size: instances whose texts are equal may exchange pages.
  KvMemory memory;
  PrefixCache cache;
  Compute prefill_compute;
  Compute decode_compute;
  bool draining = false;
  bool closing = false;  ///< Everything ends now.
  TaskGroup tasks;       ///< Coroutines that use this core or a service: Instance waits for them.

  InstanceCore(World& w, Metrics& m, Engine& e, Role r, InstanceLimits l, SyntheticModel mo,
               std::string id, KvMemory mem)
      : world(w),
        metrics(m),
        engine(e),
        role(r),
        limits(l),
        model(std::move(mo)),
        model_id(std::move(id)),
        memory(std::move(mem)),
        cache(memory.pages()),
        prefill_compute(w),
        decode_compute(w) {}
  [[nodiscard]] const ScaledShape& shape() const noexcept { return model.shape(); }
  /// Returns at `until`, or soon after nobody wants the result any more.
  [[nodiscard]] Task<void> Pause(Instant until, const Abandon& abandon);
  /// Why a request has ended that nobody wants any more. Calls are given up at their deadline too:
  /// then that is the reason, and not that somebody asked for it.
  [[nodiscard]] Error GivenUp(Instant deadline, std::string where) const;
  [[nodiscard]] std::size_t PagesFor(std::size_t tokens) const noexcept {
    return (tokens + shape().page_tokens - 1) / shape().page_tokens;
  }
};

/// Lets a bounded number in, first come first served; the rest wait, or are refused when too many
/// wait already.
class Turnstile {
 public:
  Turnstile(World& world, std::size_t inside_max, std::size_t total_max)
      : world_(world), inside_max_(inside_max), total_max_(total_max) {}
  /// kQueueFull at once, kDeadline, or returns when it is the caller's turn; then Leave() once.
  [[nodiscard]] Task<Status> Enter(Instant deadline);
  void Leave();
  [[nodiscard]] std::size_t inside() const noexcept { return inside_; }
  [[nodiscard]] std::size_t waiting() const noexcept { return waiting_.size(); }

 private:
  World& world_;
  std::size_t inside_max_;
  std::size_t total_max_;
  std::size_t inside_ = 0;
  std::deque<std::shared_ptr<OneShot<bool>>> waiting_;
};

}  // namespace mooncake
