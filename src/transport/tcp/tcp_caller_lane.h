// A data connection that calling threads use themselves: no loop stands between a call and its
// answer.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "transport/frame_cutter.h"
#include "transport/transfer_check.h"

namespace mooncake {

class TcpCallerLane {
 public:
  /// `stream` is a connection over which the peer has agreed to carry data, with nothing read or
  /// written since.
  TcpCallerLane(World& world, const CopyEngine& copy, std::uint64_t frame_bytes_max,
                std::unique_ptr<ThreadStream> stream);

  /// Held by whoever calls Run().
  std::mutex turn;
  /// Moves all slices. Errors as Path::Run() (kPeerGone and kDeadline excepted, after those of the
  /// stream), and kChecksum. After an error that the peer did not answer with, usable() is false.
  [[nodiscard]] Status Run(const Transfer& transfer, const PeerRegions& regions);
  [[nodiscard]] bool usable() const noexcept { return usable_.load(std::memory_order_acquire); }
  /// A Run() in progress ends, with kPathFailed. Any thread; idempotent.
  void Close() noexcept;
  /// Usable again, over a new connection. Under `turn`.
  void Revive(std::unique_ptr<ThreadStream> stream);

 private:
  struct Asked {
    std::uint64_t id = 0;
    std::uint64_t list_bytes = 0;
    std::uint64_t payload_bytes = 0;
    std::vector<MutableBytes> local;
  };
  static constexpr std::size_t kReadsAheadMax = 4;

  [[nodiscard]] Status Write(const Transfer& transfer, const PeerRegions& regions);
  [[nodiscard]] Status Read(const Transfer& transfer, const PeerRegions& regions);
  [[nodiscard]] Status Send(Instant deadline);
  [[nodiscard]] Status ReceiveAcknowledgement(Instant deadline);
  [[nodiscard]] Status ReceiveData(Asked& asked, Instant deadline);
  [[nodiscard]] Status ReceiveFailure(const FrameHeader& header, Instant deadline);
  [[nodiscard]] Result<FrameHeader> ReceiveHeader(Instant deadline);
  [[nodiscard]] Status ReceiveExact(std::span<MutableBytes> into, Instant deadline);

  World& world_;
  const CopyEngine copy_;
  const std::uint64_t frame_bytes_max_;
  std::mutex replacing_;  // held by whoever uses `stream_` without `turn`, or replaces it
  std::unique_ptr<ThreadStream> stream_;  // guarded by `turn` or replacing_; written under both
  std::atomic<bool> usable_ = true;
  std::uint64_t sent_ = 0;     // id of the last frame
  std::uint64_t settled_ = 0;  // every frame up to this one has been answered
  Status refused_;             // the first refusal of the transfer under way
  OutgoingFrame frame_;
  std::vector<Bytes> buffers_;
  std::array<Asked, kReadsAheadMax> asked_;
  std::vector<std::byte> ahead_;  // read beyond what was wanted
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::vector<MutableBytes> spans_;
  std::vector<std::byte> staging_;
};

}  // namespace mooncake
