#include "transport/shm/shm_path.h"

#include <thread>

namespace mooncake::shm {
namespace {

constexpr Duration kMappedCost{150};
constexpr double kMappedNanosecondsPerRange = 25;
constexpr std::size_t kRangesBetweenLooks =
    4096;  // tiny ranges: the deadline is looked at after so many
constexpr std::size_t kMappedPrefetchAhead = 12;
constexpr std::uint64_t kPrefetchedBytes = 512;  // longer copies fetch ahead themselves

}  // namespace

ShmPath::ShmPath(World& world, CopyEngine copy, std::shared_ptr<const PeerInfo> peer,
                 std::shared_ptr<ServiceLink> link)
    : world_(world),
      copy_(copy),
      peer_(std::move(peer)),
      link_(std::move(link)),
      cost_(kMappedCost, kMappedNanosecondsPerRange, 1 / copy.gigabytes_per_second(1 << 20)),
      views_(std::make_shared<const Views>()) {}

std::optional<Duration> ShmPath::Estimate(const Transfer& transfer) const {
  if (transfer.on_gpu) return std::nullopt;
  const RegionInfo* info = transfer.region;
  if (info != nullptr)
    return info->mappable ? std::optional(cost_.Estimate(transfer)) : std::nullopt;
  for (const Slice& slice : transfer.slices) {
    if (info != nullptr && info->id == slice.region) continue;
    info = peer_->regions->Find(slice.region);
    if (info == nullptr || !info->mappable) return {};
    if (transfer.region_count == 1) break;
  }
  return cost_.Estimate(transfer);
}

ShmPath::View* ShmPath::Find(const Views& views, RegionId region, Access wanted) {
  const auto found =
      std::lower_bound(views.begin(), views.end(), region,
                       [](const auto& view, RegionId id) { return view->region < id; });
  if (found == views.end() || (*found)->region != region || !Allows((*found)->access, wanted))
    return nullptr;
  return found->get();
}

// A short copy waits mostly for the peer's memory: it is fetched while the checks are made. An
// address that they will refuse does no harm here.
void ShmPath::FetchAhead(const View& view, const Slice& slice) noexcept {
  const auto base = reinterpret_cast<std::uintptr_t>(view.mapped->bytes().data());
  __builtin_prefetch(reinterpret_cast<const void*>(base + slice.offset), 1);
  __builtin_prefetch(slice.local, 1);
}

bool ShmPath::IsPrepared(const Transfer& transfer) const {
  return AreMapped(*views_.load(std::memory_order_acquire), transfer);
}

bool ShmPath::AreMapped(const Views& views, const Transfer& transfer) {
  const Access wanted = WantedAccess(transfer.direction);
  const View* view = nullptr;
  for (const Slice& slice : transfer.slices) {
    if (view != nullptr && view->region == slice.region) continue;
    view = Find(views, slice.region, wanted);
    if (view == nullptr) return false;
    if (transfer.region_count == 1) break;
  }
  if (transfer.slices.size() == 1) FetchAhead(*view, transfer.slices.front());
  return true;
}

Task<Status> ShmPath::Prepare(TransferNeeds needs, Instant deadline) {
  const std::shared_ptr<ShmPath> self = shared_from_this();
  for (const RegionId region : needs.remote) {
    const Access wanted = WantedAccess(needs.direction);
    if (Find(*views_.load(std::memory_order_acquire), region, wanted) != nullptr) continue;
    const Status mapped = co_await MapRegion(region, needs.direction, deadline);
    if (!mapped) co_return mapped;
  }
  co_return Status{};
}

Task<Status> ShmPath::MapRegion(RegionId region, Direction direction, Instant deadline) {
  if (gate_.closed()) co_return Fail(ErrorId::kPathFailed, "the path is closed");
  const RegionInfo* const info = peer_->regions->Find(region);
  const auto number = static_cast<std::uint64_t>(region);
  if (info == nullptr)
    co_return Fail(ErrorId::kRegionUnknown,
                   fmt::format("the peer has told of no region {}", number));
  if (!info->mappable)
    co_return Fail(ErrorId::kPathUnusable, fmt::format("region {} cannot be mapped", number));
  const Access wanted = WantedAccess(direction);
  if (!Allows(info->access, wanted))
    co_return Fail(ErrorId::kBadRegionKey, fmt::format("region {}", number));
  // Whoever writes may read as well where the region allows it: one mapping then serves both.
  const Access asked = direction == Direction::kWrite ? info->access : Access::kRead;
  const Map request{number, static_cast<std::uint64_t>(info->key),
                    static_cast<std::uint64_t>(asked)};
  Result<LocalMessage> answer = co_await link_->Call(request, {}, deadline);
  if (!answer) co_return Fail(Within(fmt::format("mapping region {}", number), answer.error()));
  const std::optional<Reply> reply = DecodeBody<Reply>(answer->bytes);
  if (!reply || answer->descriptors.size() != 1)
    co_return Fail(ErrorId::kBadFrame, "a mapping without a descriptor");
  if (reply->length_bytes != info->length_bytes) {
    co_return Fail(ErrorId::kRegionUnknown,
                   fmt::format("region {} has changed its length", number));
  }
  Result<std::unique_ptr<MappedView>> mapped = MappedView::Map(
      std::move(answer->descriptors.front()), info->length_bytes, Allows(asked, Access::kWrite));
  if (!mapped) co_return Fail(mapped.error());
  auto view = std::make_shared<View>();
  view->region = region;
  view->access = asked;
  view->mapped = std::move(*mapped);
  Publish(region, std::move(view));
  co_return Status{};
}

// Replaces the view of `region`; null removes it.
void ShmPath::Publish(RegionId region, std::shared_ptr<View> view) {
  const std::lock_guard lock(publish_);
  auto views = std::make_shared<Views>(*views_.load(std::memory_order_acquire));
  std::erase_if(*views, [region](const auto& each) { return each->region == region; });
  if (view) {
    const auto place =
        std::lower_bound(views->begin(), views->end(), region,
                         [](const auto& each, RegionId id) { return each->region < id; });
    views->insert(place, std::move(view));
  }
  views_.store(std::move(views), std::memory_order_release);
}

Status ShmPath::CheckGoing(const Transfer& transfer) const {
  if (gate_.closed()) return Fail(ErrorId::kPathFailed, "the path is closed");
  if (link_->gone()) return Fail(ErrorId::kPeerGone, "the peer has closed its local connection");
  return CheckPace(transfer, world_.clock);
}

Status ShmPath::Run(const Transfer& transfer) {
  const CallGate::Pass pass(gate_);
  const std::shared_ptr<const Views> views = views_.load(std::memory_order_acquire);
  return RunOn(*views, transfer);
}

// One look at the views for both questions.
std::optional<Status> ShmPath::TryRun(const Transfer& transfer) {
  const CallGate::Pass pass(gate_);
  const std::shared_ptr<const Views> views = views_.load(std::memory_order_acquire);
  if (!AreMapped(*views, transfer)) return std::nullopt;
  return RunOn(*views, transfer);
}

Status ShmPath::RunOn(const Views& views, const Transfer& transfer) {
  MC_TRY_STATUS(CheckGoing(transfer));
  MC_TRY_STATUS(CheckTransfer(transfer, *peer_->regions));
  if (!CostModel::IsWorthObserving(transfer)) return CopyAll(transfer, views);
  const Instant begin = world_.clock.Now();
  Status status = CopyAll(transfer, views);
  if (status) cost_.Observe(transfer, world_.clock.Now() - begin);
  return status;
}

Status ShmPath::CopyAll(const Transfer& transfer, const Views& views) {
  const Access wanted = WantedAccess(transfer.direction);
  const bool writes = transfer.direction == Direction::kWrite;
  const bool bulk = transfer.total_bytes >= CopyEngine::kBulkBytesMin;
  const std::span<const Slice> slices = transfer.slices;
  // First every region, so that one that is missing is found before a byte has moved.
  const View* view = nullptr;
  for (const Slice& slice : slices) {
    if (view != nullptr && view->region == slice.region) continue;
    view = Find(views, slice.region, wanted);
    if (view == nullptr) return Fail(ErrorId::kPathUnusable, "a region that is not prepared");
    if (transfer.region_count == 1) break;
  }
  std::byte* base = view == nullptr ? nullptr : view->mapped->bytes().data();
  std::uint64_t since_look = 0;
  std::size_t next_look = kRangesBetweenLooks;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Slice& slice = slices[i];
    if (view->region != slice.region) {
      view = Find(views, slice.region, wanted);
      if (view == nullptr) return Fail(ErrorId::kPathUnusable, "a region that is not prepared");
      base = view->mapped->bytes().data();
    }
    // The peer's memory is usually far from this processor's caches, and ours too: fetch both ends
    // of what comes.
    if (slice.length_bytes <= kPrefetchedBytes && i + kMappedPrefetchAhead < slices.size()) {
      const Slice& coming = slices[i + kMappedPrefetchAhead];
      __builtin_prefetch(writes ? base + coming.offset : coming.local, 1);
      __builtin_prefetch(writes ? coming.local : base + coming.offset, 0);
    }
    for (std::uint64_t done = 0; done < slice.length_bytes;) {
      const std::uint64_t piece = std::min(slice.length_bytes - done, kPieceBytesMax);
      if (since_look + piece > kPieceBytesMax || i >= next_look) {
        if (view->forgotten.load(std::memory_order_acquire))
          return Fail(ErrorId::kRegionUnknown, "the peer has unregistered it");
        MC_TRY_STATUS(CheckGoing(transfer));
        since_look = 0;
        next_look = i + kRangesBetweenLooks;
      }
      std::byte* const there = base + slice.offset + done;
      std::byte* const here = slice.local + done;
      std::byte* const to = writes ? there : here;
      const std::byte* const from = writes ? here : there;
      if (bulk) {
        copy_.CopyInBulk(to, from, piece);
      } else {
        copy_.Copy(to, from, piece);
      }
      since_look += piece;
      done += piece;
    }
  }
  return {};
}

void ShmPath::Start(const Transfer& transfer, std::function<void(Status)> done) {
  done(Run(transfer));
}

void ShmPath::Forget(RegionId region) {
  std::shared_ptr<View> view;
  {
    const std::shared_ptr<const Views> views = views_.load(std::memory_order_acquire);
    for (const std::shared_ptr<View>& each : *views) {
      if (each->region == region) view = each;
    }
  }
  if (!view) return;
  view->forgotten.store(true, std::memory_order_release);
  Publish(region, nullptr);
  // Each Run() holds the snapshot it began with, and that holds the view: the last reference but
  // ours going is the end.
  while (view.use_count() > 1) std::this_thread::yield();
  std::atomic_thread_fence(std::memory_order_acquire);
}

void ShmPath::Close() noexcept {
  gate_.Close();
  link_->Close();
  gate_.AwaitEmpty();
}

}  // namespace mooncake::shm
