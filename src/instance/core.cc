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

Task<Status> Turnstile::Enter() {
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
  co_await turn->Get();  // whoever leaves hands over the place
  co_return Status{};
}

void Turnstile::Leave() {
  if (waiting_.empty()) {
    inside_ -= 1;
    return;
  }
  const auto next = waiting_.front();
  waiting_.pop_front();
  next->Set(true);
}

}  // namespace mooncake
