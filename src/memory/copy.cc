#include "memory/copy.h"

#include <sys/mman.h>

#include <algorithm>

namespace mooncake {
namespace {

using internal::CopyCrcKernel;
using internal::CopyKernel;

constexpr double kNominalGigabytesPerSecond = 10;
constexpr std::size_t kWindowBytes = 4 << 20;  // source, and as much target
constexpr std::size_t kRunBytes = 2 << 20;     // copied per timing
constexpr int kRounds = 3;
constexpr double kHopeless = 1.4;  // this much slower in the first round: not tried again
constexpr double kWorthIt =
    1.05;  // a streaming kernel must win by this much over one that leaves bytes in the cache
constexpr std::size_t kStreamFrom = 64
                                    << 10;  // smaller values are read at once by whoever gets them

// Memory of our own to measure on, in small pages: what applications and memfds have, and what some
// kernels do better with than others. Before each run it is flushed from the caches: bytes to be
// moved are rarely there.
class Window {
 public:
  Window() {
    void* const base = ::mmap(nullptr, 2 * kWindowBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return;
    bytes_ = static_cast<std::byte*>(base);
    ::madvise(bytes_, 2 * kWindowBytes, MADV_NOHUGEPAGE);
    std::memset(bytes_, 1, 2 * kWindowBytes);
  }
  ~Window() {
    if (bytes_ != nullptr) ::munmap(bytes_, 2 * kWindowBytes);
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  [[nodiscard]] bool usable() const { return bytes_ != nullptr; }

  // Calls copy(to, from, size_bytes) for kRunBytes in all; `scattered` over the target, as the
  // ranges of a batch are.
  template <class Copy>
  double Time(Clock& clock, std::size_t size_bytes, bool scattered, const Copy& copy) {
    const std::size_t places = kRunBytes / size_bytes;
    const std::size_t step =
        scattered ? places * 5 / 8 | 1 : 1;  // odd, as their number is a power of two
    std::byte* const from = bytes_ + next_;
    std::byte* const to = from + kWindowBytes;
    next_ = (next_ + kRunBytes) % kWindowBytes;
    internal::FlushFromCaches(from, kRunBytes);
    internal::FlushFromCaches(to, kRunBytes);
    const Instant begin = clock.Now();
    for (std::size_t i = 0; i < places; ++i)
      copy(to + i * step % places * size_bytes, from + i * size_bytes, size_bytes);
    const auto spent = clock.Now() - begin;
    return std::max<double>(1, static_cast<double>(std::chrono::nanoseconds(spent).count()));
  }

 private:
  std::byte* bytes_ = nullptr;
  std::size_t next_ = 0;
};

struct Winner {
  std::size_t index = 0;
  double gigabytes_per_second = kNominalGigabytesPerSecond;
};

// Rounds alternate between the kernels, so that a disturbance hits all of them; the best time of
// each counts.
template <class Kernel, class Call>
Winner FindWinner(Window& window, Clock& clock, std::span<const Kernel> kernels,
                  std::size_t size_bytes, bool bulk, const Call& call) {
  std::vector<double> best(kernels.size(), 0);
  double fastest = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < kernels.size(); ++i) {
      if (kernels[i].streams && size_bytes < kStreamFrom && !bulk) continue;
      if (round > 0 && best[i] > kHopeless * fastest) continue;
      const double time = window.Time(
          clock, size_bytes, bulk, [&](std::byte* to, const std::byte* from, std::size_t length) {
            call(kernels[i], to, from, length);
          });
      best[i] = best[i] == 0 ? time : std::min(best[i], time);
      fastest = fastest == 0 ? time : std::min(fastest, time);
    }
  }
  std::size_t winner = 0;
  for (std::size_t i = 1; i < kernels.size(); ++i) {
    if (best[i] == 0) continue;
    const double handicap = kernels[i].streams && !kernels[winner].streams ? kWorthIt : 1;
    if (best[i] * handicap < best[winner]) winner = i;
  }
  return {winner, static_cast<double>(kRunBytes) / best[winner]};
}

}  // namespace

CopyEngine CopyEngine::Plain() {
  CopyEngine engine;
  for (Choice& choice : engine.choices_) {
    choice = {internal::CopyKernels().front(), kNominalGigabytesPerSecond,
              internal::CopyKernels().front(), internal::CopyCrcKernels().front(),
              kNominalGigabytesPerSecond};
  }
  return engine;
}

CopyEngine CopyEngine::Measure(Clock& clock) {
  CopyEngine engine = Plain();
  Window window;
  if (!window.usable()) return engine;
  for (std::size_t i = 0; i < kClassBytesMax.size(); ++i) {
    const bool tiny = i == 0;  // Copy() calls memcpy directly: only its speed is of interest
    const std::size_t size = std::min<std::uint64_t>(kClassBytesMax[i], kRunBytes);
    const auto copies = tiny ? internal::CopyKernels().first(1) : internal::CopyKernels();
    const auto crcs = tiny ? internal::CopyCrcKernels().first(1) : internal::CopyCrcKernels();
    const auto call = [](const CopyKernel& kernel, auto... range) { kernel.copy(range...); };
    const Winner copy = FindWinner(window, clock, copies, size, false, call);
    const Winner bulk =
        size < kStreamFrom ? FindWinner(window, clock, copies, size, true, call) : copy;
    const Winner crc = FindWinner(window, clock, crcs, size, false,
                                  [](const CopyCrcKernel& kernel, auto... range) {
                                    // Nobody looks at the sum; the call itself is opaque.
                                    static_cast<void>(kernel.copy(range..., 0));
                                  });
    engine.choices_[i] = {copies[copy.index], copy.gigabytes_per_second, copies[bulk.index],
                          crcs[crc.index], crc.gigabytes_per_second};
  }
  return engine;
}

std::uint32_t CopyEngine::CopyCrc32c(void* to, const void* from, std::size_t length_bytes,
                                     std::uint32_t seed) const noexcept {
  return ~choices_[ClassOf(length_bytes)].copy_crc.copy(
      static_cast<std::byte*>(to), static_cast<const std::byte*>(from), length_bytes, ~seed);
}

std::uint32_t CopyEngine::Crc32c(const void* from, std::size_t length_bytes,
                                 std::uint32_t seed) const noexcept {
  return ~internal::CrcState(static_cast<const std::byte*>(from), length_bytes, ~seed);
}

std::vector<CopyEngine::Row> CopyEngine::Describe() const {
  std::vector<Row> rows;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    rows.push_back({kClassBytesMax[i], choice.copy.name, choice.gigabytes_per_second,
                    choice.bulk.name, choice.copy_crc.name, choice.crc_gigabytes_per_second});
  }
  return rows;
}

}  // namespace mooncake
