// One connection over which transfers go by way of buffers of the host: while one is sent, the
// other is filled from a GPU; while one is received, the other is emptied into it.
#pragma once

#include <memory>
#include <optional>

#include "transport/cuda/local_memory.h"
#include "transport/cuda/stager.h"
#include "transport/frame_cutter.h"
#include "transport/transfer_check.h"

namespace mooncake::cuda {

/// On the data loop. One transfer at a time.
class StagedLane : public std::enable_shared_from_this<StagedLane> {
 public:
  /// `reader` is a connection over which the peer has agreed to carry data.
  StagedLane(World& world, std::shared_ptr<Stager> stager,
             std::shared_ptr<const LocalMemory> memory, std::shared_ptr<BufferedReader> reader);
  /// Moves all slices. Errors as Path::Run(), and kChecksum. Afterwards no local memory is touched.
  /// After an error that the peer did not answer with, is_open() is false.
  [[nodiscard]] Task<Status> Run(const Transfer& transfer, const PeerRegions& there);
  /// A Run() under way ends with `cause`, once nothing touches memory any more. Idempotent.
  void Close(const Error& cause);
  [[nodiscard]] bool is_open() const noexcept { return !cause_.has_value(); }

 private:
  // A frame of a write whose bytes are being gathered.
  struct Gathering {
    OutgoingFrame frame;
    StagingBuffer buffer;
    Later<Result<std::uint32_t>> crc32c;
  };
  // A read that the peer has been asked for.
  struct Asked {
    std::uint64_t id = 0;
    std::vector<LocalRange> into;
    std::uint64_t payload_bytes = 0;
  };

  [[nodiscard]] Task<Status> Write(const Transfer& transfer, const PeerRegions& there);
  [[nodiscard]] Task<Result<Gathering>> BeginGathering(const Transfer& transfer,
                                                       const PeerRegions& there,
                                                       FrameCursor& cursor);
  [[nodiscard]] Task<Status> Send(OutgoingFrame& frame, Bytes payload);
  [[nodiscard]] Task<Status> ReceiveAcknowledgement();
  [[nodiscard]] Task<Status> Read(const Transfer& transfer, const PeerRegions& there);
  [[nodiscard]] Task<Status> ReadAll(const Transfer& transfer, const PeerRegions& there,
                                     Later<Status>& landing);
  [[nodiscard]] Task<Status> Settle(Later<Status>& landing);
  [[nodiscard]] Task<Status> ReceiveFailure(const FrameHeader& header);
  [[nodiscard]] Result<std::vector<LocalRange>> Locate(std::span<const MutableBytes> ranges) const;
  void Refused(Error error);

  World& world_;
  const std::shared_ptr<Stager> stager_;
  const std::shared_ptr<const LocalMemory> memory_;
  const std::shared_ptr<BufferedReader> reader_;
  std::uint64_t sent_ = 0;     // id of the last frame
  std::uint64_t settled_ = 0;  // every frame up to this one has been answered
  Status refused_;             // the first refusal of the transfer under way
  std::optional<Error> cause_;
};

}  // namespace mooncake::cuda
