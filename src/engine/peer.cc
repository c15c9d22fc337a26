#include "engine/peer.h"

#include <fmt/format.h>

#include "base/log.h"
#include "engine/region_messages.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kReopenDelayMin = std::chrono::milliseconds(50);
constexpr Duration kReopenDelayMax = std::chrono::seconds(5);
constexpr Duration kOpenTimeout = std::chrono::seconds(3);

}  // namespace

const RegionInfo* KnownRegions::LookUp(RegionId id) const {
  const std::shared_lock lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  last_.store(found->second, std::memory_order_release);
  return &found->second->info;
}

bool KnownRegions::KnowsAll(std::span<const Slice> slices) const {
  RegionId last{};
  for (const Slice& slice : slices) {
    if (slice.region == last) continue;
    if (Find(slice.region) == nullptr) return false;
    last = slice.region;
  }
  return true;
}

bool KnownRegions::FindOnGpu(std::span<const Slice> slices) const {
  RegionId last{};
  for (const Slice& slice : slices) {
    if (slice.region == last) continue;
    const RegionInfo* const region = Find(slice.region);
    if (region != nullptr && IsOnGpu(*region)) return true;
    last = slice.region;
  }
  return false;
}

void KnownRegions::Add(const RegionInfo& region, bool listed) {
  const std::unique_lock lock(mutex_);
  const auto found = by_id_.find(region.id);
  if (found != by_id_.end() && found->second->info.key == region.key) return;
  all_.push_back({region, listed});
  by_id_[region.id] = &all_.back();
  last_ = nullptr;
  if (IsOnGpu(region)) has_gpu_regions_.store(true, std::memory_order_release);
  version_.fetch_add(1, std::memory_order_release);
}

void KnownRegions::Remove(RegionId id) {
  const std::unique_lock lock(mutex_);
  last_ = nullptr;
  if (by_id_.erase(id) > 0) version_.fetch_add(1, std::memory_order_release);
}

std::vector<RegionInfo> KnownRegions::Listed() const {
  std::vector<RegionInfo> listed;
  const std::shared_lock lock(mutex_);
  for (const auto& [id, known] : by_id_) {
    if (known->listed) listed.push_back(known->info);
  }
  std::sort(listed.begin(), listed.end(),
            [](const RegionInfo& a, const RegionInfo& b) { return a.id < b.id; });
  return listed;
}

void PathSlot::Observe(std::uint64_t moved_bytes, Duration took) noexcept {
  constexpr std::uint64_t kTellingBytes =
      64 << 10;  // below, the time says more about calls than about bytes
  if (moved_bytes < kTellingBytes) return;
  const double now = static_cast<double>(moved_bytes) / static_cast<double>(took.count());
  const double before = gigabytes_per_second.load(std::memory_order_relaxed);
  constexpr double kWeight = 0.2;
  gigabytes_per_second.store(before == 0 ? now : before + kWeight * (now - before),
                             std::memory_order_relaxed);
}

PeerImpl::PeerImpl(World& world, Identity identity, Record record, std::vector<PathSlotPtr> slots)
    : world_(world),
      identity_(std::move(identity)),
      record_(std::move(record)),
      slots_(std::move(slots)),
      paths_(std::make_shared<PathChoices>()) {}

bool PeerImpl::is_suspected() const { return connection_ && connection_->Silence().has_value(); }

Task<void> PeerImpl::Attach(std::shared_ptr<RpcConnection> connection, Instant deadline) {
  const auto self = shared_from_this();
  ClosePaths(Error{ErrorId::kPathFailed, "a new connection replaces it"});
  connection_ = connection;
  connection->OnClose([weak = weak_from_this(), raw = connection.get()](const Error& cause) {
    const auto peer = weak.lock();
    if (!peer || peer->connection_.get() != raw) return;
    peer->connected_ = false;
    peer->ClosePaths(cause);
    peer->Changed();
  });
  for (const PathSlotPtr& slot : slots_) slot->coming = true;
  connected_ = connection->is_open();
  const Status listed = co_await Refresh(deadline);
  if (!listed) MC_LOG(debug, "{}", listed.error().Text());
  // All at once, each with its own time: a caller in a hurry goes on with those that are open by
  // then.
  const auto all = std::make_shared<OneShot<bool>>();
  const auto left = std::make_shared<std::size_t>(slots_.size());
  for (const PathSlotPtr& slot : slots_) {
    Spawn(world_.control,
          [](std::shared_ptr<PeerImpl> me, PathSlotPtr one, std::shared_ptr<OneShot<bool>> end,
             std::shared_ptr<std::size_t> count) -> Task<void> {
            co_await me->OpenSlot(one);
            if (--*count == 0) end->Set(true);
          }(self, slot, all, left));
  }
  if (slots_.empty()) all->Set(true);
  auto opened = WaitUntil(world_.clock, world_.control, all, deadline);
  co_await std::move(opened);
  if (!connection->is_open()) co_return;
  std::string line;
  for (const PathSlotPtr& slot : slots_) {
    const std::lock_guard lock(slot->mutex);
    line += fmt::format("{}{}{}", line.empty() ? "" : "; ", slot->transport->name(),
                        slot->path ? "" : ": no, " + slot->reason);
  }
  MC_LOG(info, "peer {} at {}: {}", Describe(identity_), ToString(connection->remote()), line);
}

Task<void> PeerImpl::OpenSlot(PathSlotPtr slot) {
  const auto self = shared_from_this();
  const std::shared_ptr<RpcConnection> connection = connection_;
  if (!connection || !connection->is_open() || slot->opening_over.lock() == connection) co_return;
  slot->opening_over = connection;
  auto info = std::make_shared<PeerInfo>();
  info->id = identity_.id;
  info->label = Describe(identity_);
  info->host = identity_.host;
  info->endpoint = connection->remote();
  info->regions = regions_;
  const auto& advertised = connection->handshake().transports;
  if (const auto found = advertised.find(std::string(slot->transport->name()));
      found != advertised.end()) {
    info->advertisement = found->second;
  }
  Result<std::shared_ptr<Path>> path = Fail(ErrorId::kPathUnusable, "the peer does not offer it");
  if (!info->advertisement.empty()) {
    const Instant limit = After(world_.clock.Now(), kOpenTimeout);
    auto end = EndLooseEnds(limit);
    const Status ended = co_await std::move(end);
    if (ended) {
      auto open = slot->transport->Open(info, limit);
      path = co_await std::move(open);
    } else {
      path = Fail(ErrorId::kPathFailed, ended.error().context);
    }
  }
  const bool stale = closed_ || connection != connection_ || !connection->is_open();
  if (path && stale) (*path)->Close();
  if (stale) co_return;  // whoever opens over the connection that replaced it does the rest
  slot->opening_over.reset();
  const bool again = !path && path.error().code() != Errc::kUnsupported;
  slot->coming = again;
  {
    const std::lock_guard lock(slot->mutex);
    slot->path = path ? *path : nullptr;
    slot->reason = path ? std::string() : path.error().context;
  }
  PathsChanged();
  if (path) {
    slot->failures_in_row = 0;
  } else if (again) {
    slot->failures_in_row += 1;
    Spawn(world_.control, Reopen(slot));
  }
  Changed();
}

// A path that failed is tried again, later each time, as long as the peer itself is there.
Task<void> PeerImpl::Reopen(PathSlotPtr slot) {
  const auto self = shared_from_this();
  const int doublings = std::min(slot->failures_in_row, 10);
  const Duration delay = std::min(kReopenDelayMax, kReopenDelayMin * (1 << doublings) / 2);
  const std::shared_ptr<RpcConnection> connection = connection_;
  const auto pause = std::make_shared<OneShot<bool>>();
  pausing_.push_back(pause);
  auto wait = WaitUntil(world_.clock, world_.control, pause, After(world_.clock.Now(), delay));
  co_await std::move(wait);
  std::erase(pausing_, pause);
  if (closed_ || connection != connection_ || slot->Get()) co_return;
  co_await OpenSlot(slot);
}

void PeerImpl::OpenNow(std::string_view transport) {
  for (const PathSlotPtr& slot : slots_) {
    if (slot->transport->name() != transport || slot->Get() || closed_ || !is_connected()) continue;
    slot->failures_in_row = 0;
    Spawn(world_.control, [](std::shared_ptr<PeerImpl> me, PathSlotPtr one) -> Task<void> {
      co_await me->OpenSlot(one);
    }(shared_from_this(), slot));
  }
}

[[gnu::hot]] PathChoice PeerImpl::Choose(const Transfer& transfer) const {
  std::shared_ptr<const PathChoices> paths;
  {
    const std::lock_guard lock(paths_lock_);
    paths = paths_;
  }
  const PathChoice* best = nullptr;
  Duration least = Duration::max();
  for (const PathChoice& choice : *paths) {
    const std::optional<Duration> estimate = choice.path->Estimate(transfer);
    if (!estimate || *estimate >= least) continue;
    least = *estimate;
    best = &choice;
  }
  if (best == nullptr) return {};
  return {best->slot, {std::move(paths), best->path.get()}};
}

// After each change of a slot's path.
void PeerImpl::PathsChanged() {
  std::shared_ptr<const PathChoices> before;  // ends after the locks: paths may end with it
  const std::lock_guard making(paths_mutex_);
  auto paths = std::make_shared<PathChoices>();
  for (const PathSlotPtr& slot : slots_) {
    if (std::shared_ptr<Path> path = slot->Get()) paths->push_back({slot.get(), std::move(path)});
  }
  const std::lock_guard lock(paths_lock_);
  before = std::exchange(paths_, std::move(paths));
}

void PeerImpl::Failed(const PathChoice& choice, const Error& error) {
  choice.slot->failures.fetch_add(1, std::memory_order_relaxed);
  choice.slot->failures_total.Add();
  {
    const std::lock_guard lock(choice.slot->mutex);
    if (choice.slot->path != choice.path) return;
    choice.slot->coming = true;  // at once: whoever finds no path now must wait for it
    choice.slot->path = nullptr;
    if (choice.slot->transport->lands_late()) choice.slot->loose_ends = true;
    choice.slot->reason = error.context;
  }
  PathsChanged();
  choice.path->Close();
  MC_LOG(info, "path {} to {} is out of use: {}", choice.slot->transport->name(),
         Describe(identity_), error.Text());
  Post(world_.control, [self = shared_from_this(), slot = choice.slot->shared_from_this()] {
    slot->failures_in_row += 1;
    if (!self->closed_) Spawn(self->world_.control, self->Reopen(slot));
    self->Changed();
  });
}

void PeerImpl::Changed() {
  for (const auto& waiting : std::exchange(waiting_, {})) waiting->Set(true);
}

Task<bool> PeerImpl::WaitForChange(Instant deadline) {
  const auto self = shared_from_this();
  const auto changed = std::make_shared<OneShot<bool>>();
  waiting_.push_back(changed);
  auto wait = WaitUntil(world_.clock, world_.control, changed, deadline);
  co_return co_await std::move(wait);
}

bool PeerImpl::has_loose_ends() const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [](const PathSlotPtr& slot) { return slot->loose_ends.load(); });
}

Task<Status> PeerImpl::EndLooseEnds(Instant deadline) {
  const auto self = shared_from_this();
  while (ending_) {
    co_await WaitForChange(deadline);
    if (world_.clock.Now() >= deadline) co_return Fail(ErrorId::kDeadline, Describe(identity_));
  }
  ending_ = true;
  Status outcome;
  for (const PathSlotPtr& slot : slots_) {
    // Nobody opens this path before it is done, so a path that is lost later is another one.
    while (outcome && slot->loose_ends) {
      const std::shared_ptr<RpcConnection> connection = connection_;
      if (!connection) outcome = Fail(ErrorId::kPeerGone, Describe(identity_));
      if (!connection) break;
      pb::EndTransfersRequest request;
      request.set_transport(std::string(slot->transport->name()));
      auto call = connection->Call(Method::kEndTransfers, request.SerializeAsString(), deadline);
      const Result<Reply> reply = co_await std::move(call);
      if (!reply) outcome = Fail(reply.error());
      if (reply) slot->loose_ends = false;
    }
  }
  ending_ = false;
  Changed();
  co_return outcome;
}

bool PeerImpl::is_opening() const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [](const PathSlotPtr& slot) { return slot->coming.load(); });
}

void PeerImpl::OpenAll() {
  for (const PathSlotPtr& slot : slots_) {
    if (slot->Get() || slot->coming) continue;
    slot->coming = true;
    OpenNow(slot->transport->name());
  }
}

std::string PeerImpl::Reasons(const Transfer& transfer) const {
  const std::string_view cannot =
      transfer.on_gpu ? "does not reach memory of a GPU" : "cannot carry this";
  std::string text;
  for (const PathSlotPtr& slot : slots_) {
    const std::lock_guard lock(slot->mutex);
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", slot->transport->name(),
                        slot->path ? cannot : std::string_view(slot->reason));
  }
  return text;
}

void PeerImpl::ClosePaths(const Error& cause) {
  for (const PathSlotPtr& slot : slots_) {
    std::shared_ptr<Path> path;
    {
      const std::lock_guard lock(slot->mutex);
      path = std::exchange(slot->path, nullptr);
      if (path && slot->transport->lands_late()) slot->loose_ends = true;
      if (path) slot->reason = cause.context;
    }
    if (path) PathsChanged();
    if (path) path->Close();
  }
}

void PeerImpl::Close(const Error& cause) {
  if (closed_) return;
  closed_ = true;
  // A loop that stops frees nobody who waits for its clock.
  for (const auto& pause : pausing_) pause->Set(true);
  ClosePaths(cause);
  if (connection_) connection_->Close(cause);
  reconnect = nullptr;
  Changed();
}

Task<Result<Reply>> PeerImpl::Call(Method method, std::string body, Instant deadline,
                                   std::vector<std::byte> payload) {
  auto call = CallStream(method, std::move(body), deadline, std::move(payload),
                         std::function<bool(Reply)>());
  co_return co_await std::move(call);
}

Task<Result<Reply>> PeerImpl::CallStream(Method method, std::string body, Instant deadline,
                                         std::vector<std::byte> payload,
                                         std::function<bool(Reply)> on_item) {
  const auto self = shared_from_this();
  if (!is_connected()) {
    if (!reconnect) co_return Fail(ErrorId::kClosed, "the engine stops");
    auto again = reconnect(self, deadline);
    const Status connected = co_await std::move(again);
    if (!connected) co_return Fail(connected.error());
  }
  const std::shared_ptr<RpcConnection> connection = connection_;
  auto call = connection->CallStream(method, std::move(body), deadline, std::move(payload),
                                     std::move(on_item));
  co_return co_await std::move(call);
}

Task<Status> PeerImpl::Refresh(Instant deadline) {
  const auto self = shared_from_this();
  const std::shared_ptr<RpcConnection> connection = connection_;
  if (!connection) co_return Fail(ErrorId::kPeerGone, Describe(identity_));
  pb::ListRegionsRequest request;
  for (;;) {
    auto call = connection->Call(Method::kListRegions, request.SerializeAsString(), deadline);
    const Result<Reply> reply = co_await std::move(call);
    if (!reply) co_return Fail(reply.error());
    pb::ListRegionsReply page;
    if (!Parse(reply->body, page)) co_return Fail(ErrorId::kBadFrame, "ListRegionsReply");
    for (const pb::Region& region : page.regions()) regions_->Add(FromProto(region), true);
    if (!page.more() || page.regions().empty()) co_return Status{};
    request.set_after_id(page.regions().rbegin()->id());
  }
}

}  // namespace mooncake
