// Cuts transfers into data frames.
#pragma once

#include <string>
#include <vector>

#include "memory/copy.h"
#include "transport/data_frames.h"
#include "transport/transport.h"
#include "wire/frame.h"

namespace mooncake {

/// How much of a transfer is in frames already. Begins before the first byte.
class FrameCursor {
 public:
  /// The first slice that is not wholly in a frame, and how much of it is.
  std::size_t slice = 0;
  std::uint64_t offset = 0;
  /// Past slices of which nothing is left.
  void SkipEmpty(const Transfer& transfer) noexcept {
    while (!AtEnd(transfer) && offset == transfer.slices[slice].length_bytes) {
      slice += 1;
      offset = 0;
    }
  }
  [[nodiscard]] bool AtEnd(const Transfer& transfer) const noexcept {
    return slice == transfer.slices.size();
  }
};

/// One frame, ready to be sent. Its memory is used again for the next one.
struct OutgoingFrame {
  FrameHeader header;
  std::string body;
  std::vector<Bytes> payload;       ///< Of a write.
  std::vector<MutableBytes> local;  ///< Of a read: where the answer's bytes go.
  std::uint64_t payload_bytes = 0;  ///< Of either.

 private:
  friend Status CutFrame(const Transfer&, const PeerRegions&, const CopyEngine&, std::uint64_t,
                         FrameCursor&, OutgoingFrame&);
  friend Status CutRanges(const Transfer&, const PeerRegions&, std::uint64_t, FrameCursor&,
                          OutgoingFrame&);
  friend void Seal(OutgoingFrame&, std::uint32_t);
  DataBody list_;
  std::vector<std::byte> gathered_;
};

/// The next frame, of at most `payload_bytes_max`; all but its id. `frame.payload` refers to the
/// slices, or to memory of the frame. Errors: kRegionUnknown, kBadRegionKey, kOutOfRegion.
[[nodiscard]] Status CutFrame(const Transfer& transfer, const PeerRegions& regions,
                              const CopyEngine& copy, std::uint64_t payload_bytes_max,
                              FrameCursor& cursor, OutgoingFrame& frame);
/// The same without the bytes, for whoever moves them otherwise: `frame.local` says where they lie,
/// of a write too. Seal() makes it ready.
[[nodiscard]] Status CutRanges(const Transfer& transfer, const PeerRegions& regions,
                               std::uint64_t payload_bytes_max, FrameCursor& cursor,
                               OutgoingFrame& frame);
/// `crc32c`: of a write's payload; 0 of a read.
void Seal(OutgoingFrame& frame, std::uint32_t crc32c);

}  // namespace mooncake
