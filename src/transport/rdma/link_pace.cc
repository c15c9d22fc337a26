#include "transport/rdma/link_pace.h"

#include <algorithm>

namespace mooncake::rdma {
namespace {

// So long a piece takes on its link at most.
constexpr double kPieceNanoseconds = 4e6;
constexpr std::uint64_t kPieceBytesMax = 1 << 20;
constexpr std::uint64_t kPieceBytesMin = 64 << 10;  // they are multiples of it
// And so long a chain of them.
constexpr double kChainNanoseconds = 256e6;
constexpr std::uint64_t kChainBytesMax = 16 << 20;
// So much is posted ahead on a queue pair: a millisecond, on slower links more.
constexpr double kWindowNanoseconds = 1e6;
constexpr double kLongWindowNanoseconds = 16e6;
constexpr std::uint64_t kWindowBytesMin = 4 << 20;
constexpr std::uint64_t kLongWindowBytesMax = 16 << 20;
constexpr double kNewShare = 0.2;
constexpr double kCarriedShareMin = 0.25;  // a real device: a thousandth, now and then a pause

constexpr std::uint64_t RoundDown(std::uint64_t bytes) noexcept {
  return bytes / kPieceBytesMin * kPieceBytesMin;
}

}  // namespace

LinkPace::LinkPace(double bytes_per_nanosecond, std::uint64_t piece_bytes_max) noexcept
    : piece_bytes_max_(piece_bytes_max), bytes_per_nanosecond_(bytes_per_nanosecond) {
  Fit();
}

void LinkPace::Measure(Instant now) noexcept {
  if (now <= since_) return;
  const double rate =
      static_cast<double>(bytes_since_) / static_cast<double>((now - since_).count());
  bytes_per_nanosecond_ += kNewShare * (rate - bytes_per_nanosecond_);
  Fit();
  Begin(now);
}

void LinkPace::NotePosting(std::uint64_t bytes, Duration took) noexcept {
  if (bytes < kTellingBytes) return;
  const double share =
      static_cast<double>(took.count()) * bytes_per_nanosecond_ / static_cast<double>(bytes);
  posting_share_ += kNewShare * (std::min(share, 1.0) - posting_share_);
}

bool LinkPace::is_carried_by_poster() const noexcept { return posting_share_ >= kCarriedShareMin; }

void LinkPace::Fit() noexcept {
  const auto fitted = [this](double nanoseconds, std::uint64_t most) {
    return std::clamp(RoundDown(BytesIn(nanoseconds)), kPieceBytesMin, most);
  };
  piece_bytes_ = std::min(fitted(kPieceNanoseconds, kPieceBytesMax), piece_bytes_max_);
  chain_bytes_max_ = fitted(kChainNanoseconds, kChainBytesMax);
  window_bytes_ =
      std::max(BytesIn(kWindowNanoseconds),
               std::clamp(BytesIn(kLongWindowNanoseconds), kWindowBytesMin, kLongWindowBytesMax));
}

std::uint64_t LinkPace::BytesIn(double nanoseconds) const noexcept {
  return static_cast<std::uint64_t>(bytes_per_nanosecond_ * nanoseconds);
}

std::uint64_t LinkPace::ChainBytesFor(std::uint64_t share_bytes, std::uint64_t ahead_bytes,
                                      Duration time_left) const noexcept {
  const double in_time = bytes_per_nanosecond_ * static_cast<double>(time_left.count()) -
                         static_cast<double>(ahead_bytes);
  const double fitting = std::clamp(in_time, 0.0, static_cast<double>(share_bytes));
  return std::clamp(RoundDown(static_cast<std::uint64_t>(fitting)), piece_bytes_, chain_bytes_max_);
}

}  // namespace mooncake::rdma
