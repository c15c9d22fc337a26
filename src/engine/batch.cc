#include "engine/batch.h"

#include <algorithm>

namespace mooncake {

TransferNeeds NeedsOf(const Transfer& transfer, const RegionTable& regions) {
  TransferNeeds needs{transfer.direction, {}, {}};
  RegionInfo local;
  for (const Slice& slice : transfer.slices) {
    if (needs.remote.empty() || needs.remote.back() != slice.region)
      needs.remote.push_back(slice.region);
    if (slice.length_bytes == 0) continue;
    if (!needs.local.empty() && Contains(local, slice.local)) continue;
    const Result<RegionInfo> around = regions.FindLocal(slice.local, slice.length_bytes);
    if (!around) continue;
    local = *around;
    needs.local.push_back(local.id);
  }
  for (std::vector<RegionId>* const ids : {&needs.local, &needs.remote}) {
    std::sort(ids->begin(), ids->end());
    ids->erase(std::unique(ids->begin(), ids->end()), ids->end());
  }
  return needs;
}

BatchImpl::BatchImpl(World& world, std::shared_ptr<PeerImpl> peer, Direction direction,
                     std::vector<Copy> copies, BatchOptions options)
    : world_(world),
      peer_(std::move(peer)),
      direction_(direction),
      copies_(std::move(copies)),
      options_(std::move(options)) {
  for (const Copy& copy : copies_) total_bytes_ += copy.length_bytes;
}

Transfer BatchImpl::MakeTransfer(std::span<const Copy> copies) const noexcept {
  Transfer transfer = Summarise(direction_, copies);
  transfer.deadline = options_.deadline;
  transfer.cancelled = &cancelled_;
  return transfer;
}

Status BatchImpl::Wait() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return outcome_.has_value(); });
  return *outcome_;
}

// Without the lock: whoever asks again and again would hold up what is to end it.
std::optional<Status> BatchImpl::Poll() {
  if (!has_ended_.load(std::memory_order_acquire)) return std::nullopt;
  return outcome_;
}

Task<Status> BatchImpl::Done() {
  const auto self = shared_from_this();
  const auto end = std::make_shared<OneShot<bool>>();
  OnDone([end](const Status&) { end->Set(true); });
  co_await end->Get();
  co_return *outcome_;
}

void BatchImpl::Cancel() noexcept {
  cancelled_ = true;
  Post(world_.control, [self = shared_from_this()] {
    if (self->on_cancel_) self->on_cancel_();
  });
}

void BatchImpl::OnCancel(std::function<void()> call) {
  on_cancel_ = std::move(call);
  if (cancelled_ && on_cancel_) on_cancel_();
}

void BatchImpl::OnDone(std::function<void(const Status&)> call) {
  {
    const std::lock_guard lock(mutex_);
    if (!outcome_) {
      on_done_.push_back(std::move(call));
      return;
    }
  }
  Post(world_.control,
       [self = shared_from_this(), call = std::move(call)] { call(*self->outcome_); });
}

std::string BatchImpl::transport() const {
  const std::lock_guard lock(mutex_);
  return transport_;
}

void BatchImpl::SetTransport(std::string_view name) {
  const std::lock_guard lock(mutex_);
  transport_ = name;
}

void BatchImpl::Finish(Status outcome) {
  std::vector<std::function<void(const Status&)>> calls;
  {
    const std::lock_guard lock(mutex_);
    MC_ASSERT(!outcome_);
    outcome_ = std::move(outcome);
    has_ended_.store(true, std::memory_order_release);
    calls.swap(on_done_);
    ended_.notify_all();
  }
  if (calls.empty()) return;
  Post(world_.control, [self = shared_from_this(), calls = std::move(calls)] {
    for (const auto& call : calls) call(*self->outcome_);
  });
}

}  // namespace mooncake
