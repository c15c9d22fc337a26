// Messages with file descriptors between processes of one host: packet sockets under abstract
// names. A packet arrives whole or not at all, so no peer can stop in the middle of one, and
// descriptors stay with the bytes they belong to.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/descriptor_watch.h"
#include "base/unique_fd.h"
#include "base/world.h"

namespace mooncake {

inline constexpr std::size_t kLocalMessageBytesMax = 4096;
inline constexpr std::size_t kLocalDescriptorsMax = 4;

struct LocalMessage {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> descriptors;  ///< Closed on exec.
};

/// The process at the other end, as the kernel says.
struct LocalPeer {
  std::uint32_t user = 0;
  std::int64_t process = 0;
  /// Whether it may be served: the same user as this process, or root.
  [[nodiscard]] bool MayBeServed() const noexcept;
};

/// One connection. Used on its loop only; at most one Receive() at a time, any number of Send()s:
/// messages do not mix. Hold it by shared_ptr in the coroutine that awaits it.
class LocalSocket {
 public:
  /// Does not wait: the kernel answers at once. Errors: kConnectRefused (nobody listens in this
  /// network namespace), kPeerBusy (its queue is full), kNetwork.
  [[nodiscard]] static Result<std::shared_ptr<LocalSocket>> Connect(const Executor& executor,
                                                                    const std::string& name);
  ~LocalSocket();
  LocalSocket(const LocalSocket&) = delete;
  LocalSocket& operator=(const LocalSocket&) = delete;

  /// The next message. Errors: kConnectionClosed, kClosed after Close(), kDeadline, kFrameTooLarge
  /// (longer, or with more descriptors, than allowed: they are closed), kNetwork.
  [[nodiscard]] Task<Result<LocalMessage>> Receive(Instant deadline);
  /// `descriptors` are borrowed until it returns. Errors as Receive().
  [[nodiscard]] Task<Status> Send(Bytes bytes, std::span<const int> descriptors, Instant deadline);
  /// Ends what is in flight with kClosed. Idempotent. On the loop.
  void Close() noexcept;
  [[nodiscard]] LocalPeer peer() const noexcept;

 private:
  friend class LocalListener;
  struct Impl;
  explicit LocalSocket(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Listens under an abstract name: it needs no directory, dies with the process, and is seen only
/// within the network namespace.
class LocalListener {
 public:
  /// Errors: kPortTaken (somebody has the name), kListenFailed.
  [[nodiscard]] static Result<std::shared_ptr<LocalListener>> Listen(const Executor& executor,
                                                                     const std::string& name);
  ~LocalListener();
  LocalListener(const LocalListener&) = delete;
  LocalListener& operator=(const LocalListener&) = delete;
  /// Errors: kClosed after Close(), kNetwork (out of descriptors: call again after a pause).
  [[nodiscard]] Task<Result<std::shared_ptr<LocalSocket>>> Accept();
  /// On the loop.
  void Close() noexcept;

 private:
  struct Impl;
  explicit LocalListener(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// One end of a bell rope between two processes: each wakes the other, neither can block it. Not an
/// eventfd: whoever shares one can clear its O_NONBLOCK or fill its counter, and the other's loop
/// would hang in read() or write(). A socket takes "do not wait" with each call, and tells at once
/// when the other end is gone.
class Doorbell {
 public:
  enum class Heard { kRung, kNothing, kGone };

  /// Two ends; the second is for the peer. kNetwork (out of descriptors).
  [[nodiscard]] static Result<std::pair<std::unique_ptr<Doorbell>, UniqueFd>> MakePair();
  /// A descriptor that a peer sent. kBadFrame if it is no Unix socket.
  [[nodiscard]] static Result<std::unique_ptr<Doorbell>> Adopt(UniqueFd fd);
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  /// Any thread. Never blocks; rings that are not yet heard become one.
  void Ring() noexcept;
  /// Waits on the calling thread, at most `patience`. kGone: the peer closed its end, or this one
  /// was cut.
  [[nodiscard]] Heard Wait(Duration patience) noexcept;
  /// What has been heard until now.
  [[nodiscard]] Heard Listen() noexcept;
  /// Waits on a loop, always the same one. kGone also when cut.
  [[nodiscard]] Task<Heard> Hear(Executor executor);
  /// Both ends hear kGone from now on. Any thread; idempotent.
  void Cut() noexcept;

 private:
  explicit Doorbell(UniqueFd fd);
  UniqueFd fd_;
  std::shared_ptr<DescriptorWatch> watch_;
};

}  // namespace mooncake
