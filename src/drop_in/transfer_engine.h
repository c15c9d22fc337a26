// The transfer engine as clients of the public project know it: names of segments, raw addresses,
// integer codes. What `mooncake.engine` and transfer_engine_c.h are made of.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mooncake::drop_in {

/// What calls return. Everything but kOk is negative; why is in the log, once, with an error id and
/// a remedy, unless the caller catches it (CaughtError in report.h).
enum Code : int {
  kOk = 0,
  kFailed = -1,                ///< Bad arguments, a dead peer, an address that no region holds.
  kAddressNotRegistered = -3,  ///< Nothing begins at that address: unregister.
  kAddressOverlap = -7,        ///< Some of the range is registered already.
};

/// What becomes of a transfer that was started.
enum State : int { kDone = 1, kUnderWay = 0, kBroken = -1, kTimedOut = -2 };

enum class Opcode : std::uint8_t { kRead = 0, kWrite = 1 };  ///< kWrite goes to the peer.

struct TransferNotify {
  std::string name;
  std::string message;
};

/// Many ranges of one direction: (`local[i]`, `remote[i]`, `lengths[i]`) are addresses in this
/// process, addresses in the peer's, and bytes. The arrays are of equal length and only read during
/// the call. A local or remote range lies inside registered memory; a length of 0 moves nothing,
/// and its addresses are not looked at.
struct Ranges {
  std::span<const std::uint64_t> local;
  std::span<const std::uint64_t> remote;
  std::span<const std::uint64_t> lengths;
};

/// Bytes that went over one transport.
struct PathUse {
  std::string transport;
  std::uint64_t bytes = 0;
};

class ForkMark;
class RunningEngine;

/// One engine: its own port, threads and connections; any number in a process. Any thread, any
/// number at once; Initialize() and the destructor alone. No call throws. A call that waits does so
/// at most MC_TRANSFER_TIMEOUT seconds (30 unless set, at least 5).
///
/// After a fork() the parent's engine goes on, and the child's copy of it answers every call with
/// kFailed (0 where that means failure) and is destroyed without touching anything.
class TransferEngine {
 public:
  TransferEngine();
  ~TransferEngine();  ///< Ends transfers in flight, frees the port. Managed buffers are gone.
  TransferEngine(const TransferEngine&) = delete;
  TransferEngine& operator=(const TransferEngine&) = delete;

  /// `metadata_server`: "P2PHANDSHAKE" (the name of this segment is then the host of
  /// `local_hostname` with the port that is chosen), or a directory, in which this segment's name
  /// is `local_hostname` verbatim. `protocol` "tcp" leaves RDMA out; otherwise every transport that
  /// works is used, the fastest for each transfer. `devices`: which RDMA devices, as device_name
  /// (topology/device_choice.h); one that is named and cannot be used is a failure. A second call
  /// fails.
  int Initialize(std::string_view local_hostname, std::string_view metadata_server,
                 std::string_view protocol, std::string_view devices) noexcept;
  /// The same; `metadata_type` ("http", "redis", "etcd", "P2PHANDSHAKE") says what a
  /// `metadata_server` without a scheme is.
  int InitializeExt(std::string_view local_hostname, std::string_view metadata_server,
                    std::string_view protocol, std::string_view devices,
                    std::string_view metadata_type) noexcept;
  /// The port that peers connect to; -1 before Initialize().
  [[nodiscard]] int rpc_port() const noexcept;
  /// "host:port" at which peers reach this process; empty before Initialize().
  [[nodiscard]] std::string LocalAddress() const noexcept;
  /// How peers call this segment; empty before Initialize().
  [[nodiscard]] std::string SegmentName() const noexcept;

  // ---- memory; `location` is "cpu:0", "cuda:3" or "*" ----
  /// kAddressOverlap; kFailed: null, empty, past the end of the address space. Nothing has changed
  /// then. No peer is told of memory that is not `remote_accessible`.
  int RegisterMemory(std::uint64_t address, std::uint64_t length_bytes,
                     std::string_view location = "*", bool remote_accessible = true) noexcept;
  /// When it returns kOk neither a peer nor a transfer of this engine touches the memory any more:
  /// what is under way is waited for. kAddressNotRegistered. kFailed, within seconds: something
  /// still does, though the registration has ended.
  int UnregisterMemory(std::uint64_t address) noexcept;
  /// All or nothing.
  int BatchRegisterMemory(std::span<const std::uint64_t> addresses,
                          std::span<const std::uint64_t> lengths_bytes,
                          std::string_view location = "*") noexcept;
  /// Nothing has changed if one of them is not registered.
  int BatchUnregisterMemory(std::span<const std::uint64_t> addresses) noexcept;
  /// Whether all of it is registered here.
  [[nodiscard]] bool IsRegistered(std::uint64_t address, std::uint64_t length_bytes) const noexcept;
  /// Zeroed memory that is registered and that peers of this host map, so that transfers to it are
  /// single copies. 0: there is none. Aligned to 64 bytes.
  [[nodiscard]] std::uint64_t AllocateManagedBuffer(std::uint64_t length_bytes) noexcept;
  /// Of AllocateManagedBuffer(), once. kAddressNotRegistered.
  int FreeManagedBuffer(std::uint64_t address) noexcept;

  /// Makes the memory that small managed buffers come from, so that there is some that peers find:
  /// FirstBufferAddress() is its begin until something else is registered.
  int ReserveManagedMemory() noexcept;

  // ---- moving bytes; `segment` is a peer's name, or this engine's own ----
  /// kOk: every byte is in the destination's memory, and `notify` (may be null) has been delivered
  /// after them, exactly once. Otherwise local memory is no longer touched. Connections that break
  /// meanwhile, and a peer that has been restarted under its name, are found again inside.
  int TransferSync(std::string_view segment, const Ranges& ranges, Opcode opcode,
                   const TransferNotify* notify = nullptr) noexcept;
  int TransferSync(std::string_view segment, std::uint64_t local, std::uint64_t remote,
                   std::uint64_t length_bytes, Opcode opcode,
                   const TransferNotify* notify = nullptr) noexcept;
  /// Returns when the peer has been found; an id, or 0: nothing was started. The id lives until
  /// WaitAll(), CheckStatus() or Release() ends it.
  [[nodiscard]] std::uint64_t TransferAsync(std::string_view segment, const Ranges& ranges,
                                            Opcode opcode,
                                            const TransferNotify* notify = nullptr) noexcept;
  /// The same without ever waiting. nullopt, with nothing started: the peer has to be met or asked
  /// first, or the segment is this engine's own.
  [[nodiscard]] std::optional<std::uint64_t> TryTransferAsync(
      std::string_view segment, const Ranges& ranges, Opcode opcode,
      const TransferNotify* notify = nullptr) noexcept;
  /// Calls `call` once with the outcome, on a thread of the engine's, or at once on this one. It
  /// must not block. The id lives on until Release().
  void OnEnd(std::uint64_t id, std::function<void(const Status&)> call) noexcept;
  /// Best effort: the transfer ends soon, either way.
  void Cancel(std::uint64_t id) noexcept;
  /// Blocks until all have ended, and forgets them. kOk if each has moved everything; an id that is
  /// not known fails.
  int WaitAll(std::span<const std::uint64_t> ids) noexcept;
  /// A State; an id that is not known is kBroken. What has ended is forgotten.
  int CheckStatus(std::uint64_t id) noexcept;
  /// The same, without forgetting.
  [[nodiscard]] int PeekStatus(std::uint64_t id) const noexcept;
  /// The same, once it has ended.
  [[nodiscard]] int AwaitStatus(std::uint64_t id) const noexcept;
  /// Waits for it and forgets it. An unknown id is left alone.
  void Release(std::uint64_t id) noexcept;

  // ---- peers ----
  /// Connects, unless it is connected. kFailed within seconds.
  int OpenSegment(std::string_view segment) noexcept;
  /// Whether the peer answers now. kFailed within seconds.
  int SendProbe(std::string_view segment) noexcept;
  /// Delivered exactly once, or kFailed.
  int SendNotify(std::string_view segment, const TransferNotify& notify) noexcept;
  /// Everything that has arrived since the last call, in the order of arrival.
  [[nodiscard]] std::vector<TransferNotify> TakeNotifies() noexcept;
  /// Of the memory that the segment's owner registered first, or, where it has registered none, of
  /// its managed memory. 0: there is neither, or it does not answer.
  [[nodiscard]] std::uint64_t FirstBufferAddress(std::string_view segment) noexcept;
  /// For each transport that works with a segment that has been met: what has moved over it. Empty
  /// for any other, and for this engine's own.
  [[nodiscard]] std::vector<PathUse> Paths(std::string_view segment) noexcept;

 private:
  struct Batches;
  /// Null before Initialize(), and in a forked child.
  [[nodiscard]] RunningEngine* running() const noexcept;
  /// running(), if these can be asked for; null: why not has been reported.
  [[nodiscard]] RunningEngine* ReadyFor(const Ranges& ranges) const noexcept;
  [[nodiscard]] int Move(RunningEngine& running, const std::string& segment, const Ranges& ranges,
                         Opcode opcode, const TransferNotify* notify);

  const std::unique_ptr<ForkMark> mark_;
  std::unique_ptr<Batches> batches_;
  std::mutex initialize_mutex_;
  std::unique_ptr<RunningEngine> owned_;  // guarded by initialize_mutex_
  std::atomic<RunningEngine*> running_ = nullptr;
};

}  // namespace mooncake::drop_in
