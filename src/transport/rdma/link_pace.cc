#include "transport/rdma/link_pace.h"

#include <algorithm>

namespace mooncake::rdma {
namespace {

// A piece takes about so long on its link, unless that is so fast that the longest request takes
// less.
constexpr double kPieceNanoseconds = 4'000'000;
constexpr std::uint64_t kPieceBytesMin = 64 << 10;
constexpr double kWindowNanoseconds = 1'000'000;
constexpr double kWindowBytesMin = 4 << 20;
constexpr double kNewShare = 0.2;

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

void LinkPace::Fit() noexcept {
  const auto fitted = static_cast<std::uint64_t>(bytes_per_nanosecond_ * kPieceNanoseconds);
  piece_bytes_ = std::min(piece_bytes_max_,
                          std::max(kPieceBytesMin, fitted / kPieceBytesMin * kPieceBytesMin));
  window_bytes_ = static_cast<std::uint64_t>(
      std::max(bytes_per_nanosecond_ * kWindowNanoseconds, kWindowBytesMin));
}

}  // namespace mooncake::rdma
