#include "transport/shm/ring_server.h"

#include <cstring>

#include "base/outside_order.h"
#include "transport/transfer_check.h"

namespace mooncake::shm {
namespace {

using namespace std::chrono_literals;

constexpr Duration kSpinOnce =
    2us;  // at a stretch: other connections of the loop get their turn between
constexpr int kSlotsBetweenTurns = 4;
constexpr std::uint32_t kBulkPayloadBytes = 128
                                            << 10;  // a slot so full belongs to a batch of several

std::uint64_t LoadWord(const std::byte* at) noexcept {
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at), __ATOMIC_RELAXED);
}

}  // namespace

Result<std::shared_ptr<RingServer>> RingServer::Attach(World& world,
                                                       std::shared_ptr<const RegionTable> regions,
                                                       const CopyEngine& copy, UniqueFd memory,
                                                       UniqueFd bell) {
  MC_TRY(std::unique_ptr<MappedView> view, MappedView::Map(std::move(memory), kRingBytes, true));
  MC_TRY(std::unique_ptr<Doorbell> adopted, Doorbell::Adopt(std::move(bell)));
  std::shared_ptr<RingServer> server(
      new RingServer(world, std::move(regions), copy, std::move(view), std::move(adopted)));
  if (server->header_.magic.load(std::memory_order_relaxed) != kRingMagic) {
    return Fail(ErrorId::kBadFrame, "a ring of another version");
  }
  return server;
}

RingServer::RingServer(World& world, std::shared_ptr<const RegionTable> regions,
                       const CopyEngine& copy, std::unique_ptr<MappedView> memory,
                       std::unique_ptr<Doorbell> bell)
    : world_(world),
      regions_(std::move(regions)),
      copy_(copy),
      memory_(std::move(memory)),
      bell_(std::move(bell)),
      header_(*std::launder(reinterpret_cast<RingHeader*>(memory_->bytes().data()))) {
  pins_.reserve(64);
  pieces_.reserve(kWireRangesMax);
}

Task<void> RingServer::Serve(std::shared_ptr<RingServer> self) {
  while (true) {
    const bool going = co_await self->WorkUntilQuiet();
    if (!going) break;
    self->header_.target_parked.store(1, std::memory_order_seq_cst);
    // Posted between the last look and the flag: nobody rings for it.
    if (self->header_.posted.load(std::memory_order_seq_cst) == self->served_) {
      const Doorbell::Heard heard = co_await self->bell_->Hear(self->world_.data);
      if (heard == Doorbell::Heard::kGone) break;
    }
    self->header_.target_parked.store(0, std::memory_order_relaxed);
  }
  self->Close();
}

// False when there is nothing left to serve, ever.
Task<bool> RingServer::WorkUntilQuiet() {
  Instant last_work = world_.clock.Now();
  Duration patience = habit_.Next();
  while (true) {
    const Progress progress = WorkSome();
    if (progress == Progress::kEnd) co_return false;
    const Instant now = world_.clock.Now();
    if (progress == Progress::kSome) {
      if (now - last_work > kSpinOnce) habit_.Learn(true);
      last_work = now;
    }
    if (now - last_work > patience) {
      habit_.Learn(false);
      co_return true;
    }
    if (progress == Progress::kNone) AwaitPosted(kSpinOnce);
    co_await boost::asio::post(world_.data, boost::asio::use_awaitable);
  }
}

void RingServer::AwaitPosted(Duration patience) {
  const Instant end = After(world_.clock.Now(), patience);
  do {
    for (int i = 0; i < 16; ++i) {
      if (header_.posted.load(std::memory_order_relaxed) != served_) return;
      SpinPause();
    }
    YieldProcessor();
  } while (world_.clock.Now() < end);
}

RingServer::Progress RingServer::WorkSome() {
  Progress progress = Progress::kNone;
  for (int i = 0; i < kSlotsBetweenTurns; ++i) {
    const std::uint64_t posted = header_.posted.load(std::memory_order_acquire);
    if (posted == served_) break;
    const bool abandoned = header_.abandoned.load(std::memory_order_acquire) != 0;
    if (abandoned || posted - served_ > kRingSlots)
      return Progress::kEnd;  // a count that cannot be
    RingSlot& slot = header_.slots[served_ % kRingSlots];
    OrderAfterOutside();
    const std::lock_guard lock(working_);
    if (closed_) return Progress::kEnd;
    const Status status = WorkSlot(slot, SlotBytes(memory_->bytes().data(), served_));
    slot.status.store(status ? 0 : static_cast<std::uint32_t>(status.error().id),
                      std::memory_order_relaxed);
    served_ += 1;
    OrderBeforeOutside();
    header_.completed.store(served_, std::memory_order_seq_cst);
    if (header_.initiator_parked.load(std::memory_order_seq_cst) != 0) bell_->Ring();
    progress = Progress::kSome;
  }
  return progress;
}

Result<RingServer::SlotFacts> RingServer::ReadFacts(const RingSlot& slot) const {
  const std::uint32_t direction = slot.direction.load(std::memory_order_relaxed);
  const SlotFacts facts{slot.batch.load(std::memory_order_relaxed),
                        direction == 0 ? Direction::kWrite : Direction::kRead,
                        slot.region_count.load(std::memory_order_relaxed),
                        slot.range_count.load(std::memory_order_relaxed),
                        slot.payload_bytes.load(std::memory_order_relaxed)};
  if (facts.region_count > kWireRegionsMax || facts.range_count > kWireRangesMax ||
      facts.payload_bytes > kRingSlotBytes || direction > 1) {
    return Fail(ErrorId::kBadFrame, {});
  }
  const std::size_t list =
      facts.region_count * sizeof(WireRegion) + facts.range_count * sizeof(WireRange);
  if (list + facts.payload_bytes > kRingSlotBytes) return Fail(ErrorId::kBadFrame, {});
  return facts;
}

Status RingServer::WorkSlot(const RingSlot& slot, std::byte* bytes) {
  MC_TRY(const SlotFacts facts, ReadFacts(slot));
  if (failed_batch_ != 0 && facts.batch == failed_batch_) return Fail(failed_with_, {});
  Status resolved = ResolvePieces(facts, bytes);
  if (resolved) {
    MovePieces(facts, bytes + facts.region_count * sizeof(WireRegion) +
                          facts.range_count * sizeof(WireRange));
  } else {
    failed_batch_ = facts.batch;
    failed_with_ = resolved.error().id;
  }
  pins_.clear();
  return resolved;
}

// The whole list before the first byte: nothing of a slot moves if any of it is wrong. The list is
// read once; what is used afterwards is ours.
Status RingServer::ResolvePieces(const SlotFacts& facts, const std::byte* list) {
  const Access wanted = WantedAccess(facts.direction);
  for (std::uint32_t i = 0; i < facts.region_count; ++i, list += sizeof(WireRegion)) {
    MC_TRY(PinnedRange pin,
           regions_->Pin(RegionId{LoadWord(list)}, RegionKey{LoadWord(list + 8)}, wanted));
    pins_.push_back(std::move(pin));
  }
  pieces_.clear();
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < facts.range_count; ++i, list += sizeof(WireRange)) {
    const std::uint64_t offset = LoadWord(list);
    const std::uint64_t rest = LoadWord(list + 8);
    const auto length = static_cast<std::uint32_t>(rest);
    const auto index = static_cast<std::uint32_t>(rest >> 32);
    if (index >= pins_.size()) return Fail(ErrorId::kBadFrame, {});
    const MutableBytes region = pins_[index].bytes();
    if (offset > region.size() || length > region.size() - offset)
      return Fail(ErrorId::kOutOfRegion, {});
    total += length;
    pieces_.push_back({region.data() + offset, length});
  }
  if (total != facts.payload_bytes) return Fail(ErrorId::kBadFrame, {});
  return {};
}

void RingServer::MovePieces(const SlotFacts& facts, std::byte* payload) const {
  const bool writes = facts.direction == Direction::kWrite;
  const bool bulk = facts.payload_bytes >= kBulkPayloadBytes;
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    if (i + kPrefetchAhead < pieces_.size())
      __builtin_prefetch(pieces_[i + kPrefetchAhead].local, 1);
    if (writes && bulk) {
      copy_.CopyInBulk(piece.local, payload, piece.length_bytes);
    } else if (writes) {
      std::memcpy(piece.local, payload, piece.length_bytes);
    } else {
      std::memcpy(payload, piece.local, piece.length_bytes);
    }
    payload += piece.length_bytes;
  }
}

void RingServer::Close() noexcept {
  {
    const std::lock_guard lock(working_);
    closed_ = true;
  }
  ended_.store(true, std::memory_order_release);
  bell_->Cut();
}

}  // namespace mooncake::shm
