#include "instance/core.h"

#include <fmt/format.h>

namespace mooncake {

std::string_view ToString(Role role) noexcept {
  switch (role) {
    case Role::kPrefill:
      return "prefill";
    case Role::kDecode:
      return "decode";
    case Role::kBoth:
      return "both";
  }
  return "both";
}

Task<void> InstanceCore::Pause(Instant until, const Abandon& abandon) {
  constexpr Duration kLook = std::chrono::milliseconds(20);
  while (world.clock.Now() < until && !abandon.is_set() && !closing) {
    const Instant next = std::min(until, After(world.clock.Now(), kLook));
    co_await world.clock.SleepUntil(world.control, next);
  }
}

Error InstanceCore::GivenUp(Instant deadline, std::string where) const {
  const bool late = world.clock.Now() >= deadline;
  return {late ? ErrorId::kDeadline : ErrorId::kCancelled, std::move(where)};
}

Task<Status> Turnstile::Enter(Instant deadline) {
  if (inside_ < inside_max_) {
    inside_ += 1;
    co_return Status{};
  }
  if (inside_ + waiting_.size() >= total_max_) {
    co_return Fail(ErrorId::kQueueFull,
                   fmt::format("{} requests are here already", inside_ + waiting_.size()));
  }
  const auto turn = std::make_shared<OneShot<bool>>();
  waiting_.push_back(turn);
  // Whoever leaves hands over the place.
  auto wait = WaitUntil(world_.clock, world_.control, turn, deadline);
  if (co_await std::move(wait)) co_return Status{};
  std::erase(waiting_, turn);
  co_return Fail(ErrorId::kDeadline,
                 fmt::format("it was not its turn yet, behind {} others", inside_));
}

void Turnstile::Leave() {
  while (!waiting_.empty()) {
    const auto next = waiting_.front();
    waiting_.pop_front();
    if (next->Set(true)) return;  // else its time has just come, and it goes by itself
  }
  inside_ -= 1;
}

}  // namespace mooncake
