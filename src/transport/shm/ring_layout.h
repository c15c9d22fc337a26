// The ring in shared memory: a page of counters, then slots. One initiator posts slots in order,
// one target works them off in order. In a slot: the gather list (regions, then ranges), then the
// bytes, in the order of the ranges.
//
// Both sides write here, so each reads a field once, into a local, and believes only what it has
// checked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "transport/gather_list.h"

namespace mooncake::shm {

inline constexpr std::uint64_t kRingMagic = 0x3130474E4952434D;  // "MCRING01"
inline constexpr std::uint32_t kRingSlots = 8;
inline constexpr std::size_t kRingSlotBytes = 256 << 10;
inline constexpr std::size_t kRingHeaderBytes = 4096;
inline constexpr std::size_t kRingBytes = kRingHeaderBytes + kRingSlots * kRingSlotBytes;

struct alignas(64) RingSlot {
  std::atomic<std::uint64_t>
      batch;  ///< Slots of one batch: after an error the rest of them is skipped.
  std::atomic<std::uint32_t> direction;      ///< A Direction.
  std::atomic<std::uint32_t> region_count;   ///< WireRegions at the slot's begin.
  std::atomic<std::uint32_t> range_count;    ///< WireRanges behind them.
  std::atomic<std::uint32_t> payload_bytes;  ///< Bytes behind those; of a read, room for them.
  std::atomic<std::uint32_t> status;         ///< By the target: 0 or an ErrorId.
};

struct RingHeader {
  std::atomic<std::uint64_t> magic;
  alignas(64)
      std::atomic<std::uint64_t> posted;  ///< By the initiator: slots handed over since the begin.
  alignas(64)
      std::atomic<std::uint64_t> completed;  ///< By the target: slots worked off since the begin.
  alignas(64) std::atomic<std::uint32_t> target_parked;     ///< Ring the bell after posting.
  alignas(64) std::atomic<std::uint32_t> initiator_parked;  ///< Ring the bell after completing.
  alignas(64)
      std::atomic<std::uint32_t> abandoned;  ///< By the initiator: nobody waits for what is posted.
  RingSlot slots[kRingSlots];
};
static_assert(sizeof(RingHeader) <= kRingHeaderBytes);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);

/// The bytes of slot number `index` (counted from the ring's begin of life).
[[nodiscard]] inline std::byte* SlotBytes(std::byte* ring, std::uint64_t index) noexcept {
  return ring + kRingHeaderBytes + (index % kRingSlots) * kRingSlotBytes;
}

/// A pause of a spinning loop: some ten nanoseconds, and the other thread of the core gets on.
inline void SpinPause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace mooncake::shm
