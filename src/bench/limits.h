// What bare code reaches on this machine, doing what a row does and nothing else.
#pragma once

#include <memory>
#include <optional>

#include "base/plain_socket.h"
#include "base/process_memory.h"
#include "bench/areas.h"
#include "bench/rows.h"
#include "memory/copy_kernels.h"
#include "memory/shared_segment.h"

namespace mooncake {

/// Of the memfd behind the peer's mappable area.
inline constexpr const char* kBenchMemfdName = "mooncake-bench";

/// The peer's side of one command of TcpLimit. kConnectionClosed when there are no more.
[[nodiscard]] Status ServeLimitCommand(PlainSocket& socket, MutableBytes area);

/// One call of a row, at a position of its layout.
class BenchCall {
 public:
  virtual ~BenchCall() = default;
  [[nodiscard]] virtual Status Run(std::size_t position) = 0;
  /// Waits for calls that Run() has left on their way.
  [[nodiscard]] virtual Status Finish() { return {}; }
  /// How often Run() is to be called for one call of the row; more than 1 where a command carries
  /// several.
  [[nodiscard]] virtual std::uint64_t calls_per_run() const noexcept { return 1; }
  /// Nobody calls for a while: nothing may spin meanwhile.
  virtual void Rest() {}
};

/// Copies of the row into (from) a mapping of shared memory, with the kernel that does them
/// fastest.
class MappingLimit {
 public:
  /// Maps the mappable area of the peer, process `process`: where memory lies changes how fast it
  /// is. Memory of its own where the peer is on another host.
  [[nodiscard]] static Result<MappingLimit> Open(std::int64_t process, std::uint64_t area_bytes);
  /// `local` is as long as the area; written if the direction is kRead.
  [[nodiscard]] std::unique_ptr<BenchCall> Prepare(Clock& clock, const BenchRow& row,
                                                   Direction direction, MutableBytes local) const;

 private:
  MappingLimit(std::unique_ptr<SharedSegment> segment, std::unique_ptr<MappedView> view)
      : segment_(std::move(segment)), view_(std::move(view)) {}
  std::unique_ptr<SharedSegment> segment_;  // null if it is the peer's
  std::unique_ptr<MappedView> view_;
};

/// `remote_base` is an area of `process`.
[[nodiscard]] std::unique_ptr<BenchCall> PrepareProcessVm(const BenchRow& row, Direction direction,
                                                          MutableBytes local, std::int64_t process,
                                                          std::uint64_t remote_base);

/// Plain TCP to the peer's thread that serves nothing else.
class TcpLimit {
 public:
  [[nodiscard]] static Result<TcpLimit> Open(const Endpoint& to);
  [[nodiscard]] std::unique_ptr<BenchCall> PrepareStream(const BenchRow& row, Direction direction,
                                                         MutableBytes local);
  /// Each Run() is one message there and one back. `spin`: both sides ask again and again instead
  /// of sleeping.
  [[nodiscard]] std::unique_ptr<BenchCall> PreparePingPong(const BenchRow& row, Direction direction,
                                                           bool spin);

 private:
  explicit TcpLimit(PlainSocket socket)
      : socket_(std::make_unique<PlainSocket>(std::move(socket))) {}
  std::unique_ptr<PlainSocket> socket_;
};

}  // namespace mooncake
