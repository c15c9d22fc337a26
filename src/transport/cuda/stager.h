// Copies between frames and registered memory, of which some is a GPU's: what waits for a GPU waits
// here, on a thread of its own, not on a loop.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "gpu/device_memory.h"
#include "memory/copy.h"
#include "transport/data_frames.h"

namespace mooncake::cuda {

/// Registered memory of this process.
struct LocalRange {
  Place place;
  std::uint64_t length_bytes = 0;
};

/// Whoever reads or writes registered memory for a peer holds `mutex` meanwhile: once the peer has
/// been given up under it, nothing lands any more.
struct Landing {
  std::mutex mutex;
  bool ended = false;  // guarded by mutex
};

using StagingBuffer = std::shared_ptr<OwnedBytes>;  ///< Goes back to where it came from.
template <class T>
using Later = std::shared_ptr<OneShot<T>>;  ///< Set on the data loop.

/// On the data loop, unless said otherwise.
class Stager : public std::enable_shared_from_this<Stager> {
 public:
  /// Holds the payload of any frame.
  static constexpr std::uint64_t kBufferBytes = kDataPayloadBytesMax;

  Stager(World& world, std::shared_ptr<DeviceMemory> gpus, const CopyEngine& copy)
      : world_(world), gpus_(std::move(gpus)), copy_(copy) {}

  /// One that is free, or a new one. kGpuCall.
  [[nodiscard]] Task<Result<StagingBuffer>> TakeBuffer();
  /// Puts the ranges one behind the other into the buffer. Its value is the CRC32C of all.
  [[nodiscard]] Later<Result<std::uint32_t>> Gather(std::vector<LocalRange> from,
                                                    StagingBuffer into);
  /// The other way, if the bytes have that CRC32C (else kChecksum) and `landing`, which may be
  /// null, has not ended (else kClosed).
  [[nodiscard]] Later<Status> Scatter(StagingBuffer from, std::vector<LocalRange> into,
                                      std::uint32_t crc32c, std::shared_ptr<Landing> landing);
  /// Runs `work` on the thread. Any thread.
  void Do(std::function<void()> work);
  /// Finishes what has been begun, and frees the buffers. Any thread but its own; idempotent.
  void Close() noexcept;

 private:
  template <class T>
  Later<T> Begin(std::function<T()> work);
  // On the thread.
  [[nodiscard]] Status Copy(std::span<const LocalRange> ranges, std::byte* buffer, bool gather);

  World& world_;
  const std::shared_ptr<DeviceMemory> gpus_;
  const CopyEngine copy_;
  std::unique_ptr<CopyQueue> queue_;  // of the thread; null as long as no GPU is in use
  std::mutex mutex_;
  bool closed_ = false;                            // guarded by mutex_
  std::shared_ptr<Worker> worker_;                 // guarded by mutex_; null until there is work
  std::vector<std::unique_ptr<OwnedBytes>> free_;  // guarded by mutex_
};

}  // namespace mooncake::cuda
