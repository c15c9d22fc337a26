// Batches cut into frames: sent slice by slice, byte by byte, they are the same memory.
#include <vector>

#include "choices.h"
#include "memory/copy.h"
#include "transport/frame_cutter.h"
#include "wire/frame.h"

namespace mooncake {
namespace {

constexpr std::uint64_t kLocalBytes = 16 << 10;
constexpr std::uint64_t kRemoteBytes = 16 << 10;
constexpr std::uint64_t kRegions = 3;

class Regions final : public PeerRegions {
 public:
  Regions() {
    for (std::uint64_t i = 0; i < kRegions; ++i) {
      regions_[i].id = RegionId{i + 1};
      regions_[i].key = RegionKey{i + 100};
      regions_[i].length_bytes = kRemoteBytes;
    }
    regions_[2].access = Access::kRead;
  }
  const RegionInfo* Find(RegionId id) const override {
    for (const RegionInfo& region : regions_) {
      if (region.id == id) return &region;
    }
    return nullptr;
  }
  bool has_gpu_regions() const noexcept override { return false; }

 private:
  std::array<RegionInfo, kRegions> regions_;
};

using Memory = std::array<std::vector<std::byte>, kRegions>;

struct Batch {
  Direction direction;
  std::vector<Slice> slices;
  std::uint64_t total_bytes = 0;
  bool valid = true;
};

Batch Draw(FuzzChoices& choices, const Regions& regions, std::vector<std::byte>& local) {
  Batch batch{choices.Below(2) == 0 ? Direction::kWrite : Direction::kRead, {}};
  const std::uint64_t length_max = choices.Below(2) == 0 ? 64 : 6000;
  for (std::uint64_t count = choices.Below(300); count > 0; --count) {
    Slice slice;
    slice.length_bytes = choices.Below(length_max);
    slice.local = local.data() + choices.Below(kLocalBytes - slice.length_bytes + 1);
    slice.region = RegionId{1 + choices.Below(choices.Below(16) == 0 ? kRegions + 1 : 2)};
    slice.offset = choices.Below(kRemoteBytes - slice.length_bytes + 1);
    if (choices.Below(64) == 1) slice.offset = kRemoteBytes - choices.Below(length_max);
    const RegionInfo* const region = regions.Find(slice.region);
    const bool allowed =
        region != nullptr &&
        Allows(region->access,
               batch.direction == Direction::kWrite ? Access::kWrite : Access::kRead) &&
        slice.offset + slice.length_bytes <= region->length_bytes;
    batch.valid = batch.valid && (allowed || slice.length_bytes == 0);
    batch.total_bytes += slice.length_bytes;
    batch.slices.push_back(slice);
  }
  return batch;
}

// What the peer does with a frame, as docs/wire.md says.
void Apply(const OutgoingFrame& frame, const CopyEngine& copy, Memory& remote) {
  const Result<DataBody> list = DecodeDataBody(AsBytes(frame.body));
  MC_FUZZ_CHECK(list);
  MC_FUZZ_CHECK(list->total_bytes == frame.payload_bytes);
  const bool write = frame.header.kind == FrameKind::kWrite;
  std::vector<std::byte> payload;
  for (const Bytes part : frame.payload) payload.insert(payload.end(), part.begin(), part.end());
  MC_FUZZ_CHECK(payload.size() == frame.header.payload_bytes);
  if (write) {
    MC_FUZZ_CHECK(payload.size() == list->total_bytes);
    MC_FUZZ_CHECK(copy.Crc32c(payload.data(), payload.size(), 0) == list->payload_crc32c);
  }
  std::size_t at = 0;      // in the payload
  std::size_t local = 0;   // of frame.local
  std::size_t within = 0;  // of that part
  for (const WireRange& range : list->ranges) {
    const WireRegion& region = list->regions[range.region_index];
    MC_FUZZ_CHECK(region.key == region.id + 99);
    std::vector<std::byte>& memory = remote[region.id - 1];
    MC_FUZZ_CHECK(range.offset + range.length_bytes <= memory.size());
    for (std::uint32_t i = 0; i < range.length_bytes; ++i) {
      if (write) {
        memory[range.offset + i] = payload[at++];
        continue;
      }
      while (within == frame.local[local].size()) {
        ++local;
        within = 0;
      }
      frame.local[local][within++] = memory[range.offset + i];
    }
  }
}

}  // namespace
}  // namespace mooncake

MOONCAKE_FUZZER(slices) {
  using namespace mooncake;
  static const CopyEngine copy = CopyEngine::Plain();
  FuzzChoices choices(input);
  const Regions regions;
  std::vector<std::byte> local(kLocalBytes);
  Memory remote;
  for (std::uint64_t i = 0; i < kLocalBytes; ++i) local[i] = static_cast<std::byte>(i * 13);
  for (std::uint64_t r = 0; r < kRegions; ++r) {
    remote[r].resize(kRemoteBytes);
    for (std::uint64_t i = 0; i < kRemoteBytes; ++i)
      remote[r][i] = static_cast<std::byte>(i * 7 + r);
  }
  const std::uint64_t payload_max = 1 + choices.Below(20000);
  const Batch batch = Draw(choices, regions, local);

  // The oracle: one byte after another.
  std::vector<std::byte> expected_local = local;
  Memory expected_remote = remote;
  for (const Slice& slice : batch.slices) {
    if (!batch.valid) break;
    const auto begin = static_cast<std::size_t>(slice.local - local.data());
    for (std::uint64_t i = 0; i < slice.length_bytes; ++i) {
      std::byte& there =
          expected_remote[static_cast<std::uint64_t>(slice.region) - 1][slice.offset + i];
      std::byte& here = expected_local[begin + i];
      (batch.direction == Direction::kWrite ? there : here) =
          batch.direction == Direction::kWrite ? here : there;
    }
  }

  Transfer transfer;
  transfer.direction = batch.direction;
  transfer.slices = batch.slices;
  transfer.total_bytes = batch.total_bytes;
  FrameCursor cursor;
  OutgoingFrame frame;
  std::uint64_t sent = 0;
  cursor.SkipEmpty(transfer);
  while (!cursor.AtEnd(transfer)) {
    const Status cut = CutFrame(transfer, regions, copy, payload_max, cursor, frame);
    if (!cut) {
      MC_FUZZ_CHECK(!batch.valid);
      return;
    }
    MC_FUZZ_CHECK(frame.payload_bytes > 0 && frame.payload_bytes <= payload_max);
    sent += frame.payload_bytes;
    Apply(frame, copy, remote);
  }
  MC_FUZZ_CHECK(batch.valid && sent == batch.total_bytes);
  MC_FUZZ_CHECK(local == expected_local);
  MC_FUZZ_CHECK(remote == expected_remote);
}
