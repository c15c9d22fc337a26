#include "transport/shm/ring_path.h"

#include <fmt/format.h>

namespace mooncake::shm {
namespace {

constexpr Duration kFixedCost =
    std::chrono::microseconds(6);  // the target spins: a slot there and its answer back
constexpr Duration kWakeCost = std::chrono::microseconds(40);  // the target sleeps
constexpr double kNanosecondsPerRange = 14;
constexpr double kNanosecondsPerByte = 0.12;

}  // namespace

RingPath::RingPath(World& world, const CopyEngine& copy, std::shared_ptr<const PeerInfo> peer,
                   std::shared_ptr<ServiceLink> link)
    : world_(world),
      copy_(copy),
      peer_(std::move(peer)),
      link_(std::move(link)),
      cost_(kFixedCost, kNanosecondsPerRange, kNanosecondsPerByte) {}

std::shared_ptr<RingClient> RingPath::Current() const {
  const std::lock_guard lock(current_mutex_);
  return current_;
}

std::optional<Duration> RingPath::Estimate(const Transfer& transfer) const {
  if (transfer.on_gpu) return std::nullopt;
  Duration estimate = cost_.Estimate(transfer);
  const std::shared_ptr<RingClient> ring = Current();
  if (!ring || ring->target_parked()) estimate += kWakeCost;
  return estimate *
         (1 + queued_.load(std::memory_order_relaxed));  // those before us take as long, about
}

bool RingPath::IsPrepared(const Transfer&) const {
  const std::shared_ptr<RingClient> ring = Current();
  return ring && ring->usable();
}

Task<Status> RingPath::Prepare(TransferNeeds, Instant deadline) {
  const std::shared_ptr<RingPath> self = shared_from_this();
  for (;;) {
    if (gate_.closed()) co_return Fail(ErrorId::kPathFailed, "the path is closed");
    if (const std::shared_ptr<RingClient> ring = Current(); ring && ring->usable())
      co_return Status{};
    if (!preparing_) break;
    const auto made = std::make_shared<OneShot<bool>>();
    waiting_.push_back(made);
    co_await made->Get();
  }
  preparing_ = true;
  Status made = co_await MakeRing(deadline);
  preparing_ = false;
  for (const auto& waiting : std::exchange(waiting_, {})) waiting->Set(true);
  co_return made;
}

Task<Status> RingPath::MakeRing(Instant deadline) {
  Result<RingClient::Made> made = RingClient::Make(world_, copy_);
  if (!made) co_return Fail(made.error());
  std::vector<int> descriptors = {made->client->memory_fd(), made->target_bell.get()};
  auto call = link_->Call(Ring{kRingBytes}, std::move(descriptors), deadline);
  const Result<LocalMessage> answer = co_await std::move(call);
  if (!answer) co_return Fail(Within("handing over a ring", answer.error()));
  {
    const std::lock_guard lock(current_mutex_);
    current_ = made->client;
  }
  if (gate_.closed()) made->client->Abandon(ErrorId::kPathFailed);
  co_return Status{};
}

Status RingPath::Run(const Transfer& transfer) {
  const CallGate::Pass pass(gate_);
  if (gate_.closed()) return Fail(ErrorId::kPathFailed, "the path is closed");
  if (link_->gone()) return Fail(ErrorId::kPeerGone, "the peer has closed its local connection");
  MC_TRY_STATUS(CheckTransfer(transfer, *peer_->regions));
  queued_.fetch_add(1, std::memory_order_relaxed);
  Status status;
  {
    const std::lock_guard lock(turn_);
    const std::shared_ptr<RingClient> ring = Current();
    if (!ring || !ring->usable()) {
      status = Fail(ErrorId::kPathFailed, "its ring was given up");
    } else {
      const Instant begin = world_.clock.Now();
      status = ring->Move(transfer, *peer_->regions);
      if (status && CostModel::IsWorthObserving(transfer))
        cost_.Observe(transfer, world_.clock.Now() - begin);
    }
  }
  queued_.fetch_sub(1, std::memory_order_relaxed);
  return status;
}

void RingPath::Start(const Transfer& transfer, std::function<void(Status)> done) {
  done(Run(transfer));
}

void RingPath::Close() noexcept {
  gate_.Close();
  link_->Close();
  if (const std::shared_ptr<RingClient> ring = Current()) ring->Abandon(ErrorId::kPathFailed);
  gate_.AwaitEmpty();
}

}  // namespace mooncake::shm
