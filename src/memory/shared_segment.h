// Memory that peers of the same host can map: a memfd, mapped here once, handed out by descriptor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/world.h"

namespace mooncake {

/// Zeroed memory behind a memfd. The address is stable for the segment's life. Its size is sealed,
/// so that no peer can shrink it under a reader.
class SharedSegment {
 public:
  /// `length_bytes` is rounded up to whole pages. Errors: kMemoryShortage (more than the host has
  /// free, says how much there is), kMapFailed.
  [[nodiscard]] static Result<std::unique_ptr<SharedSegment>> Create(const std::string& name,
                                                                     std::uint64_t length_bytes);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  [[nodiscard]] MutableBytes bytes() const noexcept { return bytes_; }
  /// Borrowed. The read-only one cannot be mapped writable, by anybody.
  [[nodiscard]] int fd(bool writable) const noexcept {
    return writable ? writable_.get() : read_only_.get();
  }
  /// A descriptor of its own for whoever maps the memory too. kMapFailed.
  [[nodiscard]] Result<UniqueFd> Duplicate(bool writable) const;
  /// Touches every page so that no later copy pays for the first touch (0.4 GB/s). Blocks; meant
  /// for a thread of its own, which may be one that runs only when nobody else wants to.
  void Populate() const noexcept;
  /// Populate() returns soon, also one that begins later. Any thread.
  void StopPopulating() noexcept { stop_populating_ = true; }

 private:
  SharedSegment(UniqueFd writable, UniqueFd read_only, MutableBytes bytes)
      : writable_(std::move(writable)), read_only_(std::move(read_only)), bytes_(bytes) {}
  UniqueFd writable_;
  UniqueFd read_only_;
  MutableBytes bytes_;
  std::atomic<bool> stop_populating_ = false;
};

/// A peer's segment, mapped into this process.
class MappedView {
 public:
  /// Maps the first `length_bytes` of `fd`, after checking that the file is a sealed memfd at least
  /// that long (a peer's descriptor is data: a file that can shrink would kill the reader).
  /// kMapFailed.
  [[nodiscard]] static Result<std::unique_ptr<MappedView>> Map(UniqueFd fd,
                                                               std::uint64_t length_bytes,
                                                               bool writable);
  ~MappedView();
  MappedView(const MappedView&) = delete;
  MappedView& operator=(const MappedView&) = delete;
  [[nodiscard]] MutableBytes bytes() const noexcept { return bytes_; }
  [[nodiscard]] bool writable() const noexcept { return writable_; }

 private:
  MappedView(MutableBytes bytes, bool writable) : bytes_(bytes), writable_(writable) {}
  MutableBytes bytes_;
  bool writable_;
};

}  // namespace mooncake
