// World: the clock, chance, the network, threads and files as arguments. The real one
// (real_world.h) is Asio on a few loops; the simulated one (sim/sim_world.h) runs many nodes in one
// thread under simulated time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/task.h"

namespace mooncake {

using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::steady_clock::time_point;  ///< Monotonic; only Clock::Now() makes one.
using WallTime = std::chrono::system_clock::time_point;
inline constexpr Instant kNever = Instant::max();

/// Calls back once, on its loop, unless cancelled first. Not thread-safe: used on its loop only.
class Timer {
 public:
  virtual ~Timer() = default;  ///< Cancels.
  /// Replaces what was scheduled before.
  virtual void At(Instant when, std::function<void()> call) = 0;
  virtual void Cancel() = 0;  ///< After it returns, the callback will not run.
};

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual Instant Now() = 0;  ///< Any thread.
  [[nodiscard]] virtual WallTime
  WallNow() = 0;  ///< Any thread. For people and records, never for deadlines.
  [[nodiscard]] virtual std::unique_ptr<Timer> MakeTimer(const Executor& executor) = 0;
  /// Returns at `when`; on the loop `executor`, which is the awaiting coroutine's.
  [[nodiscard]] Task<void> SleepUntil(Executor executor, Instant when);
  [[nodiscard]] Task<void> SleepFor(Executor executor, Duration duration);
};

/// Sets `event` to false at `deadline`, unless it has been set before, and returns what it was set
/// to.
[[nodiscard]] Task<bool> WaitUntil(Clock& clock, Executor executor,
                                   std::shared_ptr<OneShot<bool>> event, Instant deadline);

/// `now` + `duration`, at most kNever.
[[nodiscard]] Instant After(Instant now, Duration duration) noexcept;

class Random {
 public:
  virtual ~Random() = default;
  [[nodiscard]] virtual std::uint64_t Next() = 0;  ///< 64 unpredictable bits. Any thread.
  /// Uniform in [0, bound); bound > 0.
  [[nodiscard]] std::uint64_t Below(std::uint64_t bound);
  [[nodiscard]] InstanceId DrawInstanceId();
};

inline constexpr Duration kDeadPathMax = std::chrono::seconds(20);

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

/// A connection that calling threads use instead of a loop: a thread at a time, Close() from any.
/// Calls block, and look for a while before they sleep.
class ThreadStream {
 public:
  virtual ~ThreadStream() = default;
  /// Writes every byte of every buffer, in order. Errors as Stream, and kDeadline: some of it may
  /// have been written.
  [[nodiscard]] virtual Status Write(std::span<const Bytes> buffers, Instant deadline) = 0;
  /// Reads at least one byte into `into`, filling the spans in order. Errors as Stream, and
  /// kDeadline.
  [[nodiscard]] virtual Result<std::size_t> ReadSomeV(std::span<const MutableBytes> into,
                                                      Instant deadline) = 0;
  /// Ends a call in progress, and those to come, with kConnectionClosed. Idempotent.
  virtual void Close() noexcept = 0;
};

/// One connection: bytes in order, both ways. Lives on one loop; at most one read and one write at
/// a time. To another host it ends within kDeadPathMax once nothing that is sent arrives any more,
/// idle or not; a process that only does not read does not end it.
class Stream {
 public:
  virtual ~Stream() = default;  ///< Closes.
  /// Reads at least one byte. Errors: kConnectionClosed at the peer's end, kClosed after Close(),
  /// kConnectTimeout if nothing arrives any more, kNetwork.
  [[nodiscard]] virtual Task<Result<std::size_t>> ReadSome(MutableBytes into) = 0;
  /// Reads at least one byte into `into`, filling the spans in order.
  [[nodiscard]] virtual Task<Result<std::size_t>> ReadSomeV(std::span<const MutableBytes> into) = 0;
  /// Writes every byte of every buffer, in order, in as few system calls as it can.
  [[nodiscard]] virtual Task<Status> Write(std::span<const Bytes> buffers) = 0;
  /// Ends operations in flight with kClosed. Idempotent.
  virtual void Close() noexcept = 0;
  /// Continues on another loop. Nothing may be in flight.
  [[nodiscard]] virtual Status MoveTo(const Executor& executor) = 0;
  /// Leaves its loop for good, and this object without a connection. Nothing may be in flight. Null
  /// where the world has no threads (the simulator): nothing has changed then.
  [[nodiscard]] virtual std::unique_ptr<ThreadStream> TakeForThreads() = 0;
  /// From now on reads look for a while before they leave the loop to others and sleep: what comes
  /// is likely to come soon.
  virtual void ExpectMore() noexcept = 0;
  [[nodiscard]] virtual Endpoint local() const = 0;
  [[nodiscard]] virtual Endpoint remote() const = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;
  /// The next connection, on the listener's loop. Errors: kClosed after Close(), kNoDescriptors
  /// (the listener lives, call again after a pause), kNetwork.
  [[nodiscard]] virtual Task<Result<std::unique_ptr<Stream>>> Accept() = 0;
  [[nodiscard]] virtual Endpoint bound() const = 0;  ///< With the port that the kernel chose.
  virtual void Close() noexcept = 0;
};

/// What tells two processes whether they share a host.
struct HostIdentity {
  std::string boot_id;  ///< Equal on one running kernel.
  std::string host_name;
  std::int64_t process = 0;       ///< Process id.
  std::string process_namespace;  ///< Equal where process ids mean the same.
  std::uint32_t user = 0;         ///< User id.
};

/// Whether both run on one kernel, as far as they say.
[[nodiscard]] inline bool IsSameHost(const HostIdentity& a, const HostIdentity& b) noexcept {
  return !a.boot_id.empty() && a.boot_id == b.boot_id;
}

class Network {
 public:
  virtual ~Network() = default;
  /// Binds and listens before it returns. An unspecified IPv6 address accepts both families.
  /// Errors: kPortTaken (names the holder), kAddressNotOurs, kListenFailed.
  [[nodiscard]] virtual Result<std::unique_ptr<Listener>> Listen(const Executor& executor,
                                                                 const Endpoint& at) = 0;
  /// Listens under a name that only processes of this host (and this network namespace) see; the
  /// name dies with the process. kPortTaken if somebody has it.
  [[nodiscard]] virtual Result<std::unique_ptr<Listener>> ListenLocal(const Executor& executor,
                                                                      const std::string& name) = 0;
  /// Errors: kConnectRefused, kConnectTimeout, kNoDescriptors, kNetwork.
  [[nodiscard]] virtual Task<Result<std::unique_ptr<Stream>>> Connect(Executor executor,
                                                                      Endpoint to,
                                                                      Instant deadline) = 0;
  [[nodiscard]] virtual Task<Result<std::unique_ptr<Stream>>> ConnectLocal(Executor executor,
                                                                           std::string name,
                                                                           Instant deadline) = 0;
  /// A literal address or a name, in the order to try. kBadAddress if there is none.
  [[nodiscard]] virtual Task<Result<std::vector<IpAddress>>> Resolve(Executor executor,
                                                                     std::string host,
                                                                     Instant deadline) = 0;
  /// The addresses of this host's interfaces that are up, routable ones first, loopback last.
  [[nodiscard]] virtual std::vector<IpAddress> LocalAddresses() = 0;
  /// The address that packets to `to` start from when they leave through `interface`, by the
  /// kernel's routes; nothing is sent. kNetwork: no route leads there.
  [[nodiscard]] virtual Result<IpAddress> SourceAddressTo(const IpAddress& to,
                                                          const std::string& interface) = 0;
  [[nodiscard]] virtual const HostIdentity& host() const = 0;
};

class Files {
 public:
  virtual ~Files() = default;
  /// The whole file, at most `bytes_max`. kFileAccess.
  [[nodiscard]] virtual Result<std::string> Read(const std::string& path,
                                                 std::uint64_t bytes_max) = 0;
  /// Replaces the file in one step (written beside it, renamed). kFileAccess.
  [[nodiscard]] virtual Status Write(const std::string& path, std::string_view content) = 0;
};

/// Does what may block, away from the loops: one piece after another, each after those that were
/// added before.
class Worker {
 public:
  virtual ~Worker() = default;  ///< Stop().
  /// Any thread. After Stop(): runs `work` here and now.
  virtual void Add(std::function<void()> work) = 0;
  /// Finishes what is queued, then ends. Not from its own work. Idempotent.
  virtual void Stop() = 0;
};

/// Returns once everything that `worker` was given before has been done. On the loop `executor`.
[[nodiscard]] Task<void> Finished(Worker& worker, Executor executor);

enum class WorkerUrgency : std::uint8_t {
  kNormal,
  kWhenIdle,  ///< Runs when a processor has nothing else to do, and hardly at all otherwise.
};

class Threads {
 public:
  virtual ~Threads() = default;
  [[nodiscard]] virtual std::unique_ptr<Worker> MakeWorker(
      WorkerUrgency urgency = WorkerUrgency::kNormal) = 0;
};

struct World {
  Clock& clock;
  Random& random;
  Network& network;
  Files& files;
  Threads& threads;
  Executor control;  ///< Loop of heartbeats, RPC, HTTP: nothing slow runs there.
  Executor data;     ///< Loop of bulk bytes. In the simulator, the same loop.
};

/// Reads until `into` is full. Errors as ReadSome.
[[nodiscard]] Task<Status> ReadFull(Stream& stream, MutableBytes into);

}  // namespace mooncake
