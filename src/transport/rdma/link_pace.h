// How fast a link is, as measured, and what follows for how much is posted on it at once.
#pragma once

#include <cstdint>

#include "base/world.h"

namespace mooncake::rdma {

/// One thread at a time.
class LinkPace {
 public:
  /// `bytes_per_nanosecond` as its port says; no piece is longer than `piece_bytes_max`.
  LinkPace(double bytes_per_nanosecond, std::uint64_t piece_bytes_max) noexcept;

  /// Bytes have been posted on the idle link, or are the first of those that are counted next.
  void Begin(Instant now) noexcept {
    since_ = now;
    bytes_since_ = 0;
  }
  /// Bytes that were posted have arrived. Whether these and those before say something about the
  /// rate: then Measure(), which takes a look at the clock.
  [[nodiscard]] bool Count(std::uint64_t bytes) noexcept {
    bytes_since_ += bytes;
    return bytes_since_ >= kTellingBytes;
  }
  /// All that has been counted had arrived by `now`.
  void Measure(Instant now) noexcept;

  /// Posting so many bytes took the thread that did it so long. Of those that say something.
  void NotePosting(std::uint64_t bytes, Duration took) noexcept;
  /// Whether it is the thread that posts which carries requests out, as soft-RoCE has it, more than
  /// a link.
  [[nodiscard]] bool is_carried_by_poster() const noexcept;

  [[nodiscard]] double bytes_per_nanosecond() const noexcept { return bytes_per_nanosecond_; }
  /// How long a piece may be where others are to end with it.
  [[nodiscard]] std::uint64_t piece_bytes() const noexcept { return piece_bytes_; }
  [[nodiscard]] std::uint64_t piece_bytes_max() const noexcept { return piece_bytes_max_; }
  /// How much is posted together: each chain costs a completion, and where nobody polls, a waking.
  /// `share_bytes` is what is left for this link, and all that has been posted (`ahead_bytes`) and
  /// longer chains than piece_bytes() should have arrived within `time_left`.
  [[nodiscard]] std::uint64_t ChainBytesFor(std::uint64_t share_bytes, std::uint64_t ahead_bytes,
                                            Duration time_left) const noexcept;
  /// How much keeps the link busy until whoever polls it has been woken and has posted more.
  [[nodiscard]] std::uint64_t window_bytes() const noexcept { return window_bytes_; }

 private:
  // Short bursts say more about latency than about the rate.
  static constexpr std::uint64_t kTellingBytes = 256 << 10;
  void Fit() noexcept;
  [[nodiscard]] std::uint64_t BytesIn(double nanoseconds) const noexcept;

  const std::uint64_t piece_bytes_max_;
  double bytes_per_nanosecond_;
  double posting_share_ = 0;  // of the time that the link takes
  std::uint64_t piece_bytes_ = 0;
  std::uint64_t chain_bytes_max_ = 0;
  std::uint64_t window_bytes_ = 0;
  Instant since_{};
  std::uint64_t bytes_since_ = 0;
};

}  // namespace mooncake::rdma
