#include "transport/shm/ring_client.h"

#include <cstring>
#include <new>

#include "base/outside_order.h"

namespace mooncake::shm {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLookEvery = 20ms;  // asleep: how late a cancellation is noticed
constexpr Duration kDrainMax =
    1s;  // after a cancellation: how long the target may take over what it has begun
constexpr std::size_t kSplinterBytes =
    4096;  // a range is cut at a slot's end only if the part is at least this
constexpr std::size_t kKnownRegions = 256;

}  // namespace

Result<RingClient::Made> RingClient::Make(World& world, const CopyEngine& copy) {
  MC_TRY(std::unique_ptr<SharedSegment> memory, SharedSegment::Create("mooncake ring", kRingBytes));
  memory->Populate();
  MC_TRY(auto bells, Doorbell::MakePair());
  std::shared_ptr<RingClient> client(
      new RingClient(world, copy, std::move(memory), std::move(bells.first)));
  return Made{std::move(client), std::move(bells.second)};
}

RingClient::RingClient(World& world, const CopyEngine& copy, std::unique_ptr<SharedSegment> memory,
                       std::unique_ptr<Doorbell> bell)
    : world_(world),
      copy_(copy),
      memory_(std::move(memory)),
      bell_(std::move(bell)),
      header_(*new(memory_->bytes().data()) RingHeader{}),
      known_(kKnownRegions) {
  header_.magic.store(kRingMagic, std::memory_order_release);
  regions_.reserve(kWireRegionsMax);
  ranges_.reserve(kWireRangesMax);
  for (std::vector<Piece>& pieces : pieces_) pieces.reserve(kWireRangesMax);
}

std::uint32_t RingClient::RegionIndex(RegionId id, const PeerRegions& regions, bool* added) {
  KnownRegion& known = known_[static_cast<std::uint64_t>(id) % kKnownRegions];
  *added = known.id != id || known.slot_number != posted_;
  if (*added) {
    known = {id, posted_, static_cast<std::uint32_t>(regions_.size())};
    const RegionInfo* const info = regions.Find(id);
    // Unregistered since the transfer was checked: the peer will say so.
    const RegionKey key = info == nullptr ? RegionKey{} : info->key;
    regions_.push_back({static_cast<std::uint64_t>(id), static_cast<std::uint64_t>(key)});
  }
  return known.index;
}

// As many ranges as the slot holds, with their list.
void RingClient::ChooseRanges(const Transfer& transfer, const PeerRegions& regions, bool first,
                              Cursor& cursor) {
  const std::span<const Slice> slices = transfer.slices;
  std::vector<Piece>& pieces = pieces_[posted_ % kRingSlots];
  regions_.clear();
  ranges_.clear();
  pieces.clear();
  bool added = false;
  if (first && transfer.region_count > 1) {
    // Every region's key goes ahead, so that a wrong one is found before the first byte of the
    // batch has moved.
    for (const Slice& slice : slices) {
      if (regions_.size() == kWireRegionsMax / 2) break;
      static_cast<void>(RegionIndex(slice.region, regions, &added));
    }
  }
  std::size_t room = kRingSlotBytes - regions_.size() * sizeof(WireRegion);
  while (cursor.slice < slices.size() && ranges_.size() < kWireRangesMax &&
         regions_.size() < kWireRegionsMax) {
    const Slice& slice = slices[cursor.slice];
    const std::uint64_t rest = slice.length_bytes - cursor.offset;
    if (rest > 0) {
      constexpr std::size_t kListBytes = sizeof(WireRange) + sizeof(WireRegion);
      if (room <= kListBytes) break;
      const std::uint64_t take = std::min<std::uint64_t>(rest, room - kListBytes);
      if (take < rest && take < kSplinterBytes && !ranges_.empty()) break;
      const std::uint32_t index = RegionIndex(slice.region, regions, &added);
      ranges_.push_back({slice.offset + cursor.offset, static_cast<std::uint32_t>(take), index});
      pieces.push_back({slice.local + cursor.offset, static_cast<std::uint32_t>(take)});
      room -= take + sizeof(WireRange) + (added ? sizeof(WireRegion) : 0);
      cursor.offset += take;
    }
    if (cursor.offset == slice.length_bytes) cursor = {cursor.slice + 1, 0};
  }
}

void RingClient::Fill(const Transfer& transfer, const PeerRegions& regions, bool first,
                      Cursor& cursor) {
  ChooseRanges(transfer, regions, first, cursor);
  std::byte* to = SlotBytes(memory_->bytes().data(), posted_);
  std::memcpy(to, regions_.data(), regions_.size() * sizeof(WireRegion));
  to += regions_.size() * sizeof(WireRegion);
  std::memcpy(to, ranges_.data(), ranges_.size() * sizeof(WireRange));
  to += ranges_.size() * sizeof(WireRange);
  list_bytes_[posted_ % kRingSlots] =
      regions_.size() * sizeof(WireRegion) + ranges_.size() * sizeof(WireRange);
  const std::vector<Piece>& pieces = pieces_[posted_ % kRingSlots];
  std::size_t payload = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (transfer.direction == Direction::kWrite) {
      if (i + kPrefetchAhead < pieces.size()) __builtin_prefetch(pieces[i + kPrefetchAhead].local);
      std::memcpy(to + payload, pieces[i].local, pieces[i].length_bytes);
    }
    payload += pieces[i].length_bytes;
  }
  RingSlot& slot = header_.slots[posted_ % kRingSlots];
  slot.batch.store(batch_, std::memory_order_relaxed);
  slot.direction.store(transfer.direction == Direction::kWrite ? 0 : 1, std::memory_order_relaxed);
  slot.region_count.store(static_cast<std::uint32_t>(regions_.size()), std::memory_order_relaxed);
  slot.range_count.store(static_cast<std::uint32_t>(ranges_.size()), std::memory_order_relaxed);
  slot.payload_bytes.store(static_cast<std::uint32_t>(payload), std::memory_order_relaxed);
  posted_ += 1;
  OrderBeforeOutside();
  header_.posted.store(posted_, std::memory_order_seq_cst);
  if (header_.target_parked.load(std::memory_order_seq_cst) != 0 &&
      header_.target_parked.exchange(0, std::memory_order_seq_cst) != 0) {
    bell_->Ring();
  }
}

// True once it is decided: completed, or counted in a way that cannot be.
bool RingClient::HasCompleted(Waited& outcome) const noexcept {
  const std::uint64_t completed = header_.completed.load(std::memory_order_seq_cst);
  if (completed == reaped_) return false;
  OrderAfterOutside();
  outcome = completed - reaped_ <= posted_ - reaped_ ? Waited::kCompleted : Waited::kMiscounted;
  return true;
}

RingClient::Waited RingClient::AwaitCompleted(const Transfer& transfer, Instant until,
                                              bool look_at_cancelled) {
  Waited outcome{};
  if (HasCompleted(outcome)) return outcome;
  if (const Duration patience = habit_.Next(); patience > Duration::zero()) {
    const Instant spin_until = std::min(until, After(world_.clock.Now(), patience));
    do {
      for (int i = 0; i < 32; ++i) {
        if (HasCompleted(outcome)) {
          habit_.Learn(true);
          return outcome;
        }
        SpinPause();
      }
      YieldProcessor();  // the target may be waiting for this very one
    } while (world_.clock.Now() < spin_until);
    habit_.Learn(false);
  }
  while (true) {
    header_.initiator_parked.store(1, std::memory_order_seq_cst);
    if (HasCompleted(outcome)) break;
    const Instant now = world_.clock.Now();
    if (now >= until) {
      outcome = Waited::kDeadline;
      break;
    }
    const Doorbell::Heard heard = bell_->Wait(std::min<Duration>(until - now, kLookEvery));
    if (HasCompleted(outcome)) break;
    if (heard == Doorbell::Heard::kGone) {
      outcome = Waited::kGone;
      break;
    }
    if (look_at_cancelled && transfer.cancelled != nullptr &&
        transfer.cancelled->load(std::memory_order_acquire)) {
      outcome = Waited::kCancelled;
      break;
    }
  }
  header_.initiator_parked.store(0, std::memory_order_relaxed);
  return outcome;
}

// Takes the oldest completed slot back; of a read, brings its bytes home.
Status RingClient::Reap(const Transfer& transfer, bool scatter) {
  const std::uint32_t status =
      header_.slots[reaped_ % kRingSlots].status.load(std::memory_order_relaxed);
  if (status == 0 && scatter && transfer.direction == Direction::kRead) {
    // Where the bytes begin follows from the list we wrote, not from what the shared memory says
    // now.
    const std::vector<Piece>& pieces = pieces_[reaped_ % kRingSlots];
    const std::byte* from =
        SlotBytes(memory_->bytes().data(), reaped_) + list_bytes_[reaped_ % kRingSlots];
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (i + kPrefetchAhead < pieces.size())
        __builtin_prefetch(pieces[i + kPrefetchAhead].local, 1);
      if (transfer.total_bytes >= CopyEngine::kBulkBytesMin) {
        copy_.CopyInBulk(pieces[i].local, from, pieces[i].length_bytes);
      } else {
        std::memcpy(pieces[i].local, from, pieces[i].length_bytes);
      }
      from += pieces[i].length_bytes;
    }
  }
  reaped_ += 1;
  if (status == 0) return {};
  const ErrorId id{static_cast<std::uint16_t>(status)};
  const bool refused =
      id == ErrorId::kBadRegionKey || id == ErrorId::kOutOfRegion || id == ErrorId::kRegionUnknown;
  return Fail(refused ? id : ErrorId::kPathFailed,
              fmt::format("the peer answers {} to a slot of its ring", ErrorName(id)));
}

Error RingClient::Break(Waited why) noexcept {
  header_.abandoned.store(1, std::memory_order_seq_cst);
  usable_.store(false, std::memory_order_release);
  bell_->Cut();
  const ErrorId asked = abandoned_with_.load(std::memory_order_acquire);
  if (asked != ErrorId{}) return Error{asked, "the path to the peer has ended"};
  if (why == Waited::kDeadline)
    return Error{ErrorId::kDeadline, "the peer's end of the ring does not move"};
  if (why == Waited::kGone)
    return Error{ErrorId::kPeerGone, "the peer has closed its end of the ring"};
  return Error{ErrorId::kPathFailed, "the peer's end of the ring counts what was never posted"};
}

void RingClient::Abandon(ErrorId error) noexcept {
  ErrorId none{};
  abandoned_with_.compare_exchange_strong(none, error, std::memory_order_acq_rel);
  usable_.store(false, std::memory_order_release);
  header_.abandoned.store(1, std::memory_order_seq_cst);
  bell_->Cut();
}

Status RingClient::Move(const Transfer& transfer, const PeerRegions& regions) {
  if (!usable()) return Fail(Break(Waited::kGone));
  batch_ += 1;
  Cursor cursor;
  Status outcome;
  Instant until = transfer.deadline;
  bool first = true;
  while (true) {
    while (outcome && cursor.slice < transfer.slices.size() && posted_ - reaped_ < kRingSlots) {
      outcome = CheckPace(transfer, world_.clock);
      if (!outcome) break;
      Fill(transfer, regions, std::exchange(first, false), cursor);
    }
    if (posted_ == reaped_) return outcome;
    if (!outcome) until = std::min(until, After(world_.clock.Now(), kDrainMax));
    const Waited waited = AwaitCompleted(transfer, until, static_cast<bool>(outcome));
    if (waited == Waited::kCancelled) {
      outcome = Fail(ErrorId::kCancelled, {});
    } else if (waited != Waited::kCompleted) {
      Error error = Break(waited);
      if (outcome) outcome = Fail(std::move(error));
      return outcome;
    } else if (Status reaped = Reap(transfer, static_cast<bool>(outcome)); !reaped && outcome) {
      outcome = std::move(reaped);
    }
  }
}

}  // namespace mooncake::shm
