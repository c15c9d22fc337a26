#include "transport/rdma/rdma_path.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/spin.h"

namespace mooncake::rdma {
namespace {

constexpr Duration kRoundTrip = std::chrono::microseconds(5);
constexpr double kNanosecondsPerRange = 200;
// What is posted when a deadline passes ends by itself in most cases, and soon.
constexpr Duration kGrace = std::chrono::milliseconds(50);
constexpr Duration kLookEvery = std::chrono::milliseconds(50);
constexpr Duration kConfirmTimeout = std::chrono::seconds(3);
constexpr std::uint64_t kShortBytes = 16 << 10;
constexpr Duration kSpunRoundTripMax = std::chrono::microseconds(250);
constexpr unsigned kTimedEvery = 8;  // short transfers: a look at the clock costs something
constexpr std::int64_t kRoundTripMemory = 4;  // those that are timed, about
constexpr unsigned kPollsPerLook = 8;         // at the clock

bool IsCancelled(const Transfer& transfer) noexcept {
  return transfer.cancelled != nullptr && transfer.cancelled->load(std::memory_order_acquire);
}

std::vector<std::string> NamesOf(const std::vector<PeerDevice>& devices) {
  std::vector<std::string> names;
  for (const PeerDevice& device : devices) names.push_back(device.name);
  return names;
}

}  // namespace

RdmaPath::RdmaPath(World& world, std::shared_ptr<const PeerInfo> peer,
                   std::shared_ptr<RdmaLink> link, std::shared_ptr<RdmaMemory> memory,
                   RdmaCounters counters, double nanoseconds_per_byte)
    : world_(world),
      peer_(std::move(peer)),
      link_(std::move(link)),
      regions_(std::move(memory)),
      counters_(counters),
      cost_(kRoundTrip, kNanosecondsPerRange, nanoseconds_per_byte),
      round_trip_(kRoundTrip.count()),
      last_used_(world.clock.Now()),
      rails_(NamesOf(link_->devices())),
      turn_(world.clock),
      poster_(rails_, regions_, turn_) {}

// ---- rails ----

void RdmaPath::AddRail(std::unique_ptr<Rail> rail) {
  const Lock lock(mutex_);
  if (failure_) return;
  rails_.Add(std::move(rail));
  parked_ = false;
  some_left_ = true;
  operations_.TryAllRails();
  Progress(lock);
  if (!operations_.empty()) LeaveToEvents(lock);
}

void RdmaPath::SetMissing(const RdmaDevice& device, std::string reason) {
  const Lock lock(mutex_);
  if (!rails_.HasFrom(device)) rails_.SetMissing(device.rank(), std::move(reason));
}

std::string RdmaPath::Describe() const {
  const Lock lock(mutex_);
  return rails_.Describe();
}

bool RdmaPath::has_rails() const {
  const Lock lock(mutex_);
  return !rails_.empty();
}

bool RdmaPath::HasRailFrom(const RdmaDevice& device) const {
  const Lock lock(mutex_);
  return rails_.HasFrom(device);
}

void RdmaPath::BreakRailsOf(const RdmaDevice& device, const std::string& reason) {
  const Lock lock(mutex_);
  for (std::size_t i = rails_.size(); i-- > 0;) {
    if (i < rails_.size() && &rails_[i].device() == &device) Break(i, reason, lock);
  }
  Progress(lock);
}

void RdmaPath::BreakRailsTo(std::size_t peer_device, const std::string& reason) {
  const Lock lock(mutex_);
  for (std::size_t i = rails_.size(); i-- > 0;) {
    if (i < rails_.size() && rails_[i].peer_device() == peer_device) Break(i, reason, lock);
  }
  Progress(lock);
}

void RdmaPath::Break(std::size_t place, const std::string& reason, const Lock& lock) {
  const std::unique_ptr<Rail> rail = rails_.Take(place, reason);
  const std::string name = fmt::format("{} of {}", rails_.Name(*rail), peer_->label);
  counters_.broken_rails.Add();
  std::vector<OperationPtr> touched;
  const std::vector<Piece> left = rail->Break();
  for (const Piece& piece : left) {
    Operation& operation = *piece.operation;
    operation.pieces -= 1;
    if (!operation.outcome) {
      operation.left.push_back(piece.range);
      counters_.resent_pieces.Add();
    }
    const bool is_write = operation.transfer->direction == Direction::kWrite;
    if (!is_write) continue;
    if (touched.empty() || touched.back().get() != &operation) {
      operation.unconfirmed += 1;
      touched.push_back(operation.itself);
    }
  }
  operations_.TryAllRails();
  some_left_ = true;
  MC_LOG(info, "RDMA from {} is out of use: {}; {} pieces go over {} other rails", name, reason,
         left.size(), rails_.size());
  if (rails_.empty() && operations_.empty()) {
    parked_ = true;  // nothing is lost: whoever comes next has it connected again
    Confirm(rail->number(), {});
  } else if (rails_.empty()) {
    FailAll({ErrorId::kPathFailed, fmt::format("rdma from {}: {}", name, reason)}, lock);
  } else {
    Confirm(rail->number(), std::move(touched));
  }
  // A settled operation has waited for the last of its pieces only.
  for (const OperationPtr& operation : operations_.All()) ReportIfEnded(*operation, lock);
  if (!failure_ && on_rail_lost_) on_rail_lost_();
}

// A write of a broken rail may still be on its way: until the peer says that its end is gone, the
// operations that it belongs to must not end well.
void RdmaPath::Confirm(std::uint64_t rail, std::vector<OperationPtr> touched) {
  Post(world_.control, [self = shared_from_this(), rail, touched = std::move(touched)]() mutable {
    Spawn(self->world_.control,
          [](std::shared_ptr<RdmaPath> me, std::uint64_t number,
             std::vector<OperationPtr> operations) -> Task<void> {
            auto ask =
                me->link_->Disconnect(number, After(me->world_.clock.Now(), kConfirmTimeout));
            const Status confirmed = co_await std::move(ask);
            const Lock lock(me->mutex_);
            me->turn_.Begin();
            if (!confirmed) me->FailAll({ErrorId::kPathFailed, confirmed.error().context}, lock);
            for (const OperationPtr& operation : operations) {
              operation->unconfirmed -= 1;
              me->ReportIfEnded(*operation, lock);
            }
          }(self, rail, std::move(touched)));
  });
}

bool RdmaPath::Park() {
  const Lock lock(mutex_);
  if (failure_ || parked_ || rails_.empty() || IsAwaited(lock)) return false;
  parked_ = true;
  for (const auto& rail : rails_.TakeAll()) {
    const std::vector<Piece> none = rail->Break();
    MC_ASSERT(none.empty());
    Confirm(rail->number(), {});
  }
  return true;
}

void RdmaPath::FailAll(const Error& cause, const Lock& lock) {
  if (failure_) return;
  failure_ = cause;
  closed_ = true;
  for (const auto& rail : rails_.TakeAll()) {
    for (const Piece& piece : rail->Break()) piece.operation->pieces -= 1;
  }
  for (const OperationPtr& operation : operations_.All()) Settle(*operation, Fail(cause), lock);
}

void RdmaPath::Close() noexcept {
  callers_.Close();
  {
    const Lock lock(mutex_);
    FailAll({ErrorId::kPathFailed, "the path was closed"}, lock);
  }
  callers_.AwaitEmpty();
  Post(world_.data, [self = shared_from_this()] { self->watch_ = nullptr; });
}

// ---- regions ----

[[gnu::hot]] std::optional<Duration> RdmaPath::Estimate(const Transfer& transfer) const {
  const bool some_cannot = some_cannot_ || regions_.local().has_failed();
  if (some_cannot && !regions_.CanBeCarried(transfer)) return std::nullopt;
  return cost_.Estimate(transfer);
}

bool RdmaPath::IsPrepared(const Transfer& transfer) const {
  return !parked_ && regions_.AreKnown(transfer);
}

Task<Status> RdmaPath::Prepare(TransferNeeds needs, Instant deadline) {
  const auto self = shared_from_this();
  if (parked_) {
    auto unpark = unpark_(deadline);
    const Status unparked = co_await std::move(unpark);
    if (!unparked) co_return unparked;
  }
  for (const RegionId id : needs.local) {
    const RegisteredRegionPtr region = regions_.local().Find(id);
    if (!region) continue;
    auto settled = regions_.local().Settled(region, deadline);
    if (!co_await std::move(settled))
      co_return Fail(ErrorId::kDeadline, "the memory is still being registered for RDMA");
    if (!region->is_ready_anywhere())
      co_return Fail(ErrorId::kPathUnusable, "the memory could not be registered for RDMA");
  }
  for (const RegionId id : needs.remote) {
    const RegionInfo* const info = peer_->regions->Find(id);
    if (info == nullptr)
      co_return Fail(ErrorId::kRegionUnknown,
                     fmt::format("region {} of {}", static_cast<std::uint64_t>(id), peer_->label));
    if (regions_.FindRemote(id)) continue;
    auto fetch = link_->FetchKeys(*info, deadline);
    const Result<RemoteRegionPtr> fetched = co_await std::move(fetch);
    if (!fetched) co_return Fail(Within(peer_->label, fetched.error()));
    regions_.AddRemote(id, *fetched);
    if (IsUnregistered(**fetched)) {
      some_cannot_ = true;
      co_return Fail(ErrorId::kPathUnusable,
                     fmt::format("{} could not register the memory for RDMA", peer_->label));
    }
  }
  co_return Status{};
}

void RdmaPath::Forget(RegionId region) {
  regions_.DropRemote(region);
  const Lock lock(mutex_);
  const std::vector<OperationPtr> using_it = operations_.Using(region);
  const auto have_ended = [&using_it] {
    return std::all_of(using_it.begin(), using_it.end(),
                       [](const OperationPtr& operation) { return operation->ended.load(); });
  };
  Sleep(have_ended, kNever, lock);
}

// ---- operations ----

// Without the lock until a report makes `is_over` true; false: not before `until`.
template <class IsOver>
bool RdmaPath::Sleep(IsOver is_over, Instant until, const Lock&) {
  std::unique_lock waiting(mutex_, std::adopt_lock);
  bool over = true;
  sleepers_ += 1;
  if (until == kNever) {
    ended_.wait(waiting, is_over);
  } else {
    over = ended_.wait_until(waiting, until, is_over);
  }
  sleepers_ -= 1;
  turn_.Begin();
  waiting.release();
  return over;
}

// Inlined as the parts of Progress() are.
[[gnu::always_inline]] inline void RdmaPath::Begin(const OperationPtr& operation, Instant now,
                                                   const Lock&) {
  operation->begun = now;
  turn_.Begin(now);
  last_used_.store(now, std::memory_order_relaxed);
  operations_.Add(operation);
}

[[gnu::always_inline]] inline Lane RdmaPath::LaneFor(const Transfer& transfer,
                                                     const Lock&) const noexcept {
  return transfer.total_bytes <= rails_.short_bytes_max() ? Lane::kShort : Lane::kLong;
}

[[gnu::always_inline]] inline void RdmaPath::LeaveAll(Operation& operation, const Lock&) {
  const std::uint64_t bytes = operation.transfer->total_bytes;
  if (bytes > 0) operation.left.push_back({0, 0, bytes});
  some_left_ = true;
}

Status RdmaPath::Run(const Transfer& transfer) {
  std::optional<Status> outcome = TryRun(transfer);
  if (outcome) return *std::move(outcome);
  return Fail(ErrorId::kPathFailed,
              "it was not prepared, or its queue pairs were given away since");
}

[[gnu::hot]] std::optional<Status> RdmaPath::TryRun(const Transfer& transfer) {
  const CallGate::Pass pass(callers_);
  if (Status checked = CheckTransfer(transfer, *peer_->regions); !checked) [[unlikely]]
    return checked;
  OperationPtr operation;
  {
    const Lock lock(mutex_);
    if (failure_) [[unlikely]]
      return Fail(*failure_);
    if (parked_) [[unlikely]]
      return std::nullopt;
    operation = operations_.Make(regions_, transfer, LaneFor(transfer, lock));
    // What need not come before the request is posted comes while it is on its way.
    const bool is_posted = !IsCancelled(transfer) && poster_.PostWhole(*operation);
    if (!is_posted && !regions_.AreKnown(transfer)) [[unlikely]]
      return std::nullopt;
    const Instant now = world_.clock.Now();
    const bool is_late = now >= transfer.deadline;
    if (!is_posted && is_late) [[unlikely]]
      return Fail(ErrorId::kDeadline, "a transfer over rdma");
    Begin(operation, now, lock);
    operation->held.store(true, std::memory_order_relaxed);
    if (is_posted) [[likely]] {
      poster_.StampWhole(now);
    } else {
      LeaveAll(*operation, lock);
    }
    if (is_late) [[unlikely]]
      Expire(*operation, lock);
    Progress(lock, now);
    if (transfer.total_bytes == 0) [[unlikely]]
      ReportIfEnded(*operation, lock);
  }
  if (!operation->ended) Spin(*operation);
  if (!operation->ended) AwaitEnd(*operation);
  const struct Release {
    ~Release() { held.store(false, std::memory_order_release); }
    std::atomic<bool>& held;
  } release{operation->held};
  if (*operation->outcome) [[likely]]
    return std::optional<Status>(std::in_place);
  return std::move(operation->outcome);
}

// A short transfer is over sooner than a sleeping thread would be woken.
[[gnu::hot]] void RdmaPath::Spin(const Operation& operation) {
  const Duration round_trip(round_trip_.load(std::memory_order_relaxed));
  if (operation.transfer->total_bytes > kShortBytes) return;
  // Whoever always sleeps never learns that looking would pay, so it looks now and then.
  if (round_trip > kSpunRoundTripMax &&
      short_transfers_.fetch_add(1, std::memory_order_relaxed) % 32 != 0)
    return;
  const Instant end = After(operation.begun, 2 * round_trip + kSpinMax);
  for (unsigned polls = 1; !operation.ended; ++polls) {
    if (mutex_.try_lock()) {
      const Lock lock(mutex_, std::adopt_lock);
      Progress(lock);
    }
    if (polls % kPollsPerLook == 0 && world_.clock.Now() >= end) return;
  }
}

void RdmaPath::AwaitEnd(Operation& operation) {
  const Lock lock(mutex_);
  LeaveToEvents(lock);
  if (!operation.ended) Watch();
  const auto has_ended = [&operation] { return operation.ended.load(); };
  if (Sleep(has_ended, operation.transfer->deadline, lock)) return;
  Expire(operation, lock);
  if (!Sleep(has_ended, After(world_.clock.Now(), kGrace), lock)) Tear(operation, lock);
}

void RdmaPath::Start(const Transfer& transfer, std::function<void(Status)> done) {
  if (Status checked = CheckTransfer(transfer, *peer_->regions); !checked)
    return done(std::move(checked));
  const Lock lock(mutex_);
  if (failure_) return done(Fail(*failure_));
  if (parked_)
    return done(Fail(ErrorId::kPathFailed, "its queue pairs were given to another peer"));
  const OperationPtr operation = operations_.Make(regions_, transfer, LaneFor(transfer, lock));
  Begin(operation, world_.clock.Now(), lock);
  LeaveAll(*operation, lock);
  operation->done = std::move(done);
  Progress(lock);
  ReportIfEnded(*operation, lock);
  if (operation->ended) return;
  if (transfer.deadline != kNever) {
    operation->timer = world_.clock.MakeTimer(world_.data);
    operation->timer->At(transfer.deadline,
                         [self = shared_from_this(), weak = std::weak_ptr<Operation>(operation)] {
                           const OperationPtr late = weak.lock();
                           if (!late) return;
                           const Lock held(self->mutex_);
                           if (late->ended) return;
                           self->Expire(*late, held);
                           if (late->ended) return;
                           late->timer->At(After(self->world_.clock.Now(), kGrace), [self, weak] {
                             const Lock again(self->mutex_);
                             if (const OperationPtr torn = weak.lock(); torn && !torn->ended)
                               self->Tear(*torn, again);
                           });
                         });
  }
  LeaveToEvents(lock);
  Watch();
}

void RdmaPath::EndCancelled() {
  const Lock lock(mutex_);
  for (const OperationPtr& operation : operations_.All()) {
    if (!operation->outcome && IsCancelled(*operation->transfer))
      Settle(*operation, Fail(ErrorId::kCancelled, {}), lock);
  }
}

void RdmaPath::Expire(Operation& operation, const Lock& lock) {
  std::uint64_t left = 0;
  for (const Range& range : operation.left) left += range.length_bytes;
  Settle(operation,
         Fail(ErrorId::kDeadline,
              fmt::format("{} of {} bytes were not sent to {} over rdma; {} pieces are unanswered",
                          left, operation.transfer->total_bytes, peer_->label, operation.pieces)),
         lock);
}

void RdmaPath::Tear(const Operation& operation, const Lock& lock) {
  for (std::size_t i = rails_.size(); i-- > 0;) {
    if (i < rails_.size() && rails_[i].Carries(operation))
      Break(i, "a transfer over it has passed its deadline", lock);
  }
  Progress(lock);
}

void RdmaPath::Settle(Operation& operation, Status status, const Lock& lock) {
  if (!operation.outcome) {
    operation.outcome = std::move(status);
    operation.left.clear();
  }
  ReportIfEnded(operation, lock);
}

[[gnu::hot]] void RdmaPath::ReportIfEnded(Operation& operation, const Lock&) {
  if (operation.ended || operation.pieces > 0) return;
  if (!operation.outcome) {
    if (!operation.left.empty() || operation.unconfirmed > 0) return;
    operation.outcome.emplace();
  }
  const Transfer& transfer = *operation.transfer;
  if (*operation.outcome) {
    (transfer.direction == Direction::kWrite ? counters_.sent_bytes : counters_.received_bytes)
        .Add(transfer.total_bytes);
    if (CostModel::IsWorthObserving(transfer))
      cost_.Observe(transfer, turn_.Now() - operation.begun);
    if (transfer.total_bytes <= kShortBytes && short_ended_++ % kTimedEvery == 0) {
      const std::int64_t took = (turn_.Now() - operation.begun).count();
      const std::int64_t before = round_trip_.load(std::memory_order_relaxed);
      round_trip_.store(before + (took - before) / kRoundTripMemory, std::memory_order_relaxed);
    }
  }
  OperationPtr kept = operations_.Remove(operation);
  if (!operation.done) {
    operations_.Keep(std::move(kept));
  } else {
    Post(world_.data, [kept] {
      kept->timer = nullptr;
      const auto done = std::exchange(kept->done, nullptr);
      done(*kept->outcome);
    });
  }
  operation.ended.store(true, std::memory_order_release);
  if (sleepers_ > 0) ended_.notify_all();
}

// ---- progress ----

[[gnu::always_inline]] inline void RdmaPath::Poll(const Lock& lock) {
  for (std::size_t i = 0; i < rails_.size(); ++i) {
    Rail& rail = rails_[i];
    if (!rail.is_awaited()) continue;
    Rail::Polled polled;
    rail.Poll(world_.clock, polled);
    if (!polled.seen) continue;
    turn_.Begin(polled.when);
    for (Operation* const operation : polled.done) {
      operation->pieces -= 1;
      ReportIfEnded(*operation, lock);
    }
    some_left_ = !operations_.empty();
    if (!polled.failed) continue;
    if (polled.culprit && polled.culprit->operation) Blame(*polled.culprit, *polled.failed, lock);
    Break(i, std::string(rail.device().verbs().StatusText(*polled.failed)), lock);
    if (failure_) return;
    i -= 1;
  }
}

// What a device refuses for its own operation's sake is not tried again elsewhere.
void RdmaPath::Blame(const Piece& culprit, ibv_wc_status status, const Lock& lock) {
  Operation& operation = *culprit.operation;
  const RegionId region = operation.transfer->slices[culprit.range.slice].region;
  if (status == IBV_WC_REM_ACCESS_ERR) {
    regions_.DropRemote(region);
    Settle(operation,
           Fail(ErrorId::kRegionUnknown,
                fmt::format("{} has refused access to its region {}: it was unregistered",
                            peer_->label, static_cast<std::uint64_t>(region))),
           lock);
  } else if (status == IBV_WC_LOC_PROT_ERR) {
    Settle(operation, Fail(ErrorId::kNotRegistered, "it was unregistered under a transfer"), lock);
  }
}

[[gnu::always_inline]] inline void RdmaPath::PostAll(const Lock& lock) {
  some_left_ = false;
  for (const Lane lane : kLanes) PostAllOn(lane, lock);
}

void RdmaPath::PostAllOn(Lane lane, const Lock& lock) {
  auto& operations = operations_.of(lane);
  for (auto next = operations.begin(); next != operations.end();) {
    Operation& operation = *next;
    // It may end while it is posted, others too, and nobody has to keep it then.
    const std::uint64_t removed = operations_.removed();
    const auto is_there = [this, removed] { return operations_.removed() == removed; };
    if (!operation.outcome && IsCancelled(*operation.transfer))
      Settle(operation, Fail(ErrorId::kCancelled, {}), lock);
    while (is_there() && !operation.outcome && !operation.left.empty()) {
      if (!PostNext(operation, lock)) return;
    }
    next = is_there() ? std::next(next) : operations.begin();
  }
}

// False: a completion will make room.
bool RdmaPath::PostNext(Operation& operation, const Lock& lock) {
  switch (poster_.PostNext(operation)) {
    case RequestPoster::Outcome::kPosted:
      return true;
    case RequestPoster::Outcome::kNoRoom:
      return false;
    case RequestPoster::Outcome::kNowhere:
      some_cannot_ = true;
      Settle(operation,
             Fail(ErrorId::kPathUnusable, "the memory is registered on no device of a rail"), lock);
      return true;
    case RequestPoster::Outcome::kRefused:
      Break(poster_.refusal().place, poster_.refusal().reason, lock);
      return true;
  }
  return false;
}

// Its parts have no other caller: as calls they would cost some 50 instructions of a short
// transfer.
[[gnu::hot]] void RdmaPath::Progress(const Lock& lock, Instant now) {
  turn_.Begin(now);
  for (bool has_polled = false;; has_polled = true) {
    if (some_left_) PostAll(lock);
    if (has_polled) return;
    Poll(lock);
  }
}

bool RdmaPath::Send(std::string_view message, std::function<void(bool taken)> answered) {
  if (message.size() > kMessageBytesMax) return false;
  const Lock lock(mutex_);
  Progress(lock);
  for (std::size_t i = rails_.size(); i-- > 0;) {
    if (i >= rails_.size()) continue;
    const Instant now = world_.clock.Now();
    const Result<bool> sent = rails_[i].Send(message, answered, now);
    if (!sent) Break(i, sent.error().Brief(), lock);
    if (!sent || !*sent) continue;
    last_used_.store(now, std::memory_order_relaxed);
    counters_.sent_messages.Add();
    LeaveToEvents(lock);
    Watch();
    return true;
  }
  return false;
}

bool RdmaPath::IsAwaited(const Lock&) const { return !operations_.empty() || rails_.is_awaited(); }

// From now on completions wake the data loop. What has ended before its rail was armed wakes
// nobody, and what is posted then may be on a rail that was idle.
void RdmaPath::LeaveToEvents(const Lock& lock) {
  while (rails_.Arm()) Progress(lock);
}

void RdmaPath::OnCompletion() {
  const Lock lock(mutex_);
  rails_.Heard();
  const Instant end = After(world_.clock.Now(), kSpinMax);
  do {
    Progress(lock);
  } while (!operations_.empty() && world_.clock.Now() < end);
  if (IsAwaited(lock)) LeaveToEvents(lock);
}

// Looks from time to time while an operation is on its way: after what no completion tells.
void RdmaPath::Watch() {
  if (watching_.exchange(true)) return;
  Post(world_.data, [self = shared_from_this()] { self->Look(); });
}

void RdmaPath::Look() {
  {
    const Lock lock(mutex_);
    Progress(lock);
    BreakLate(lock);
    if (!IsAwaited(lock) || failure_) {
      watching_ = false;
      return;
    }
    LeaveToEvents(lock);  // a rail may have refused to be armed
  }
  if (!watch_) watch_ = world_.clock.MakeTimer(world_.data);
  watch_->At(After(world_.clock.Now(), kLookEvery), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Look();
  });
}

void RdmaPath::BreakLate(const Lock& lock) {
  const Instant now = world_.clock.Now();
  for (std::size_t i = rails_.size(); i-- > 0;) {
    if (i >= rails_.size()) continue;
    const std::optional<std::string> why = rails_.WhyLate(i, now);
    if (!why) continue;
    Break(i, *why, lock);
    Progress(lock);
  }
}

}  // namespace mooncake::rdma
