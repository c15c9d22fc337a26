#include "directory/leased_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "base/log.h"
#include "directory/record.h"

namespace mooncake {
namespace {

constexpr Duration kRefreshJitterMax =
    kRefreshInterval / 8;  // processes that start together drift apart
constexpr Duration kRetryInterval = std::chrono::milliseconds(500);
constexpr Duration kCallTimeout = std::chrono::seconds(2);

class LeasedDirectory final : public Directory {
 public:
  LeasedDirectory(World& world, std::unique_ptr<RecordStore> store)
      : state_(std::make_shared<State>(world, std::move(store))) {}
  ~LeasedDirectory() override {
    Post(state_->world.control, [state = state_] { state->Stop(); });
  }

  std::string Describe() const override { return state_->store->Describe(); }
  std::optional<Outage> outage() const override { return state_->outage; }

  Task<Status> Publish(Record record, Instant deadline) override {
    const auto state = state_;
    state->record = std::move(record);
    state->keeper_ended = std::make_shared<OneShot<bool>>();
    const Status published = co_await state->PutFirst(deadline);
    if (!published) {
      state->keeper_ended->Set(true);
      co_return published;
    }
    Spawn(state->world.control,
          [](std::shared_ptr<State> s) -> Task<void> { co_await s->KeepAlive(); }(state));
    co_return Status{};
  }

  Task<void> Withdraw(Instant deadline) override {
    const auto state = state_;
    state->stopped = true;
    state->wake.Notify();
    if (const auto ended = std::exchange(state->keeper_ended, nullptr)) {
      // A sign of life on its way would bring the record back after it was removed.
      auto wait = WaitUntil(state->world.clock, state->world.control, ended, deadline);
      static_cast<void>(co_await std::move(wait));
      auto remove = state->Remove(deadline);
      const Status removed = co_await std::move(remove);
      if (!removed) MC_LOG(debug, "withdraw: {}", removed.error().Text());
    }
    state->Stop();
  }

  Task<Result<std::vector<Record>>> List(Instant deadline) override {
    const auto state = state_;
    Result<Listing> listing = co_await state->List(deadline);
    if (!listing) co_return Fail(listing.error());
    std::sort(listing->records.begin(), listing->records.end(),
              [](const Record& a, const Record& b) { return a.identity.id < b.identity.id; });
    for (const Obituary& obituary : listing->gone) state->roster.Bury(obituary);
    state->roster.Update(listing->records, state->world.clock.WallNow());
    co_return std::move(listing->records);
  }

  Task<Result<Record>> Find(std::string label, Instant deadline) override {
    const auto state = state_;
    const Result<std::vector<Record>> records = co_await List(deadline);
    if (!records) co_return Fail(records.error());
    co_return PickNewest(label, *records, state->roster.gone());
  }

 private:
  struct State : std::enable_shared_from_this<State> {
    State(World& w, std::unique_ptr<RecordStore> s) : world(w), store(std::move(s)) {}

    Task<Status> Put(Instant deadline) {
      return InTurn<void>([this](Instant limit) { return store->Put(*record, limit); }, deadline);
    }
    Task<Status> Remove(Instant deadline) {
      return InTurn<void>(
          [this](Instant limit) { return store->Remove(record->identity.id, limit); }, deadline);
    }
    Task<Result<Listing>> List(Instant deadline) {
      return InTurn<Listing>([this](Instant limit) { return store->List(limit); }, deadline);
    }

    // Until the record stands for the first time.
    Task<Status> PutFirst(Instant deadline) {
      const auto self = shared_from_this();
      const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
      std::optional<Error> seen;  // the last one that was not merely cut off by the deadline
      for (;;) {
        const Status put = co_await Put(deadline);
        if (put) co_return put;
        if (!IsWorthRetrying(put.error())) co_return put;
        if (world.clock.Now() >= deadline) co_return Fail(seen.value_or(put.error()));
        if (!seen) MC_LOG(info, "waiting for {}: {}", store->Describe(), put.error().Text());
        seen = put.error();
        const Instant next = std::min(deadline, After(world.clock.Now(), kRetryInterval));
        timer->At(next, [this] { wake.Notify(); });
        co_await wake.Wait();
        if (stopped) co_return Fail(ErrorId::kClosed, "the directory's client stops");
      }
    }

    Task<void> KeepAlive() {
      const auto self = shared_from_this();
      const auto ended = keeper_ended;
      const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
      while (!stopped) {
        const Duration jitter(
            world.random.Below(static_cast<std::uint64_t>(kRefreshJitterMax.count())));
        const Duration pause = outage ? kRetryInterval : kRefreshInterval - jitter;
        timer->At(After(world.clock.Now(), pause), [this] { wake.Notify(); });
        co_await wake.Wait();
        if (stopped) break;
        const Status put = co_await Put(After(world.clock.Now(), kCallTimeout));
        static_cast<void>(put);  // Settle() has told; the next round tries again
      }
      if (ended) ended->Set(true);
    }

    // One call to the store at a time, each with its own bound: a sign of life never waits long for
    // a listing.
    template <class T>
    Task<Result<T>> InTurn(std::function<Task<Result<T>>(Instant limit)> call, Instant deadline) {
      const auto self = shared_from_this();
      auto turn = Enter(deadline);
      if (!co_await std::move(turn)) {
        co_return Fail(ErrorId::kDirectoryTimeout,
                       store->Describe() + ": other calls wait for it too");
      }
      auto made = call(std::min(deadline, After(world.clock.Now(), kCallTimeout)));
      Result<T> result = co_await std::move(made);
      Leave();
      if (!result) co_return Fail(Settle(result.error()));
      if (outage && !stopped) MC_LOG(info, "{} answers again", store->Describe());
      outage.reset();
      co_return result;
    }

    Task<bool> Enter(Instant deadline) {
      if (!std::exchange(busy, true)) co_return true;
      const auto turn = std::make_shared<OneShot<bool>>();
      waiting.push_back(turn);
      auto wait = WaitUntil(world.clock, world.control, turn, deadline);
      co_return co_await std::move(wait);
    }
    void Leave() {
      while (!waiting.empty()) {
        const auto next = waiting.front();
        waiting.pop_front();
        if (next->Set(true)) return;  // else it waited until its deadline
      }
      busy = false;
    }

    // Remembers since when nothing answers, and says so in the error.
    Error Settle(Error error) {
      if (stopped) return error;
      if (!outage) outage = Outage{world.clock.Now(), error};
      const auto silent = std::chrono::duration<double>(world.clock.Now() - outage->since).count();
      if (error.code() == Errc::kUnavailable && silent >= 1) {
        error.context += fmt::format(", unreachable for {:.0f} s", silent);
      }
      return error;
    }

    void Stop() {
      stopped = true;
      wake.Notify();
      store->Close();
    }

    World& world;
    std::unique_ptr<RecordStore> store;
    std::optional<Record> record;
    bool stopped = false;
    bool busy = false;
    std::deque<std::shared_ptr<OneShot<bool>>> waiting;
    std::optional<Outage> outage;
    Signal wake;  // waited for by PutFirst(), then by KeepAlive() alone
    std::shared_ptr<OneShot<bool>>
        keeper_ended;  // set when neither of the two will call the store again
    Roster roster;
  };

  std::shared_ptr<State> state_;  // shared with the coroutine that keeps the record alive
};

}  // namespace

std::unique_ptr<Directory> MakeLeasedDirectory(World& world, std::unique_ptr<RecordStore> store) {
  return std::make_unique<LeasedDirectory>(world, std::move(store));
}

void AddRecord(std::string_view value, const std::string& where, Listing& listing) {
  Result<Record> record = RecordFromJson(value);
  if (record) {
    listing.records.push_back(std::move(*record));
  } else {
    MC_LOG(debug, "a record in {} cannot be read: {}", where, record.error().Text());
  }
}

bool IsWorthRetrying(const Error& error) noexcept {
  switch (error.code()) {
    case Errc::kUnavailable:
    case Errc::kPeerGone:
    case Errc::kUnknownOutcome:
    case Errc::kTryAgain:
      return true;
    default:
      return false;
  }
}

Error DirectoryFault(const std::string& where, const Error& error) {
  switch (error.id) {
    case ErrorId::kConnectRefused:
      return {ErrorId::kDirectoryRefused, where, error.os_error};
    case ErrorId::kConnectTimeout:
    case ErrorId::kDeadline:
      return {ErrorId::kDirectoryTimeout, where + ": " + error.context, error.os_error};
    case ErrorId::kBadHttp:
      return {ErrorId::kDirectoryGarbage, error.context};
    case ErrorId::kConnectionClosed:
      return {ErrorId::kDirectoryUnreachable, where + " closed the connection without an answer",
              error.os_error};
    default:
      return Within(where, error);
  }
}

}  // namespace mooncake
