#include "base/world.h"

namespace mooncake {

Instant After(Instant now, Duration duration) noexcept {
  return duration >= kNever - now ? kNever : now + duration;
}

Task<void> Clock::SleepUntil(Executor executor, Instant when) {
  const std::unique_ptr<Timer> timer = MakeTimer(executor);
  OneShot<bool> fired;
  timer->At(when, [&fired] { fired.Set(true); });
  co_await fired.Get();
}

Task<void> Clock::SleepFor(Executor executor, Duration duration) {
  const Instant when = After(Now(), duration);
  co_await SleepUntil(std::move(executor), when);
}

Task<bool> WaitUntil(Clock& clock, Executor executor, std::shared_ptr<OneShot<bool>> event,
                     Instant deadline) {
  const std::unique_ptr<Timer> timer = clock.MakeTimer(executor);
  if (deadline != kNever) timer->At(deadline, [event] { event->Set(false); });
  co_return co_await event->Get();
}

Task<void> Finished(Worker& worker, Executor executor) {
  const auto reached = std::make_shared<OneShot<bool>>();
  worker.Add([executor, reached] { Post(executor, [reached] { reached->Set(true); }); });
  co_await reached->Get();
}

std::uint64_t Random::Below(std::uint64_t bound) {
  MC_ASSERT(bound > 0);
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
}

InstanceId Random::DrawInstanceId() {
  InstanceId id;
  do {
    id.high = Next();
    id.low = Next();
  } while (id.empty());
  return id;
}

Task<Status> ReadFull(Stream& stream, MutableBytes into) {
  while (!into.empty()) {
    const Result<std::size_t> count = co_await stream.ReadSome(into);
    if (!count) co_return Fail(count.error());
    into = into.subspan(*count);
  }
  co_return Status{};
}

}  // namespace mooncake
