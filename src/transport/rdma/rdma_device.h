// One RDMA device in use: its context, its protection domain, the channel of its completions, and
// the state of its port.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "base/unique_fd.h"
#include "base/world.h"
#include "gpu/device_memory.h"
#include "transport/rdma/address_choice.h"
#include "transport/rdma/rdma_options.h"
#include "transport/rdma/verbs.h"

namespace mooncake::rdma {

/// A port as it was when it was last looked at.
struct PortState {
  bool usable = false;
  std::string reason;  ///< Why it is not usable.
  std::uint8_t number = 1;
  std::uint32_t mtu_bytes = 1024;
  double gigabits_per_second = 0;
  std::uint32_t message_bytes_max = UINT32_MAX;  ///< Of one request.
  PortAddresses addresses;

  bool operator==(const PortState&) const = default;
};

/// What a peer must know of this end of a queue pair.
struct QueuePairEnd {
  std::uint32_t number = 0;  ///< 24 bits.
  std::uint32_t packet = 0;  ///< Sequence number of the first packet it sends; 24 bits.
  std::uint32_t mtu_bytes = 0;
  std::uint32_t reads = 0;  ///< Reads in flight that it serves.
  std::uint16_t lid = 0;
};

inline constexpr std::uint32_t kReceivesMax = 8;  ///< Receive requests posted on one queue pair.
inline constexpr std::uint64_t kReceiveId = UINT64_MAX;

/// Any thread.
class RdmaDevice {
 public:
  /// `rank` is its place among the devices in use. `verbs` outlives it. Errors: kRdmaCall, naming
  /// the call and the device.
  [[nodiscard]] static Result<std::shared_ptr<RdmaDevice>> Open(Verbs& verbs,
                                                                const std::string& name,
                                                                std::size_t rank,
                                                                const RdmaOptions& options);
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] Verbs& verbs() const noexcept { return verbs_; }
  [[nodiscard]] PortState port() const;
  [[nodiscard]] bool usable() const noexcept { return usable_.load(std::memory_order_acquire); }
  /// Looks at the port and its addresses again.
  void Refresh();
  /// Out of use until the next Refresh().
  void SetUnusable(const std::string& reason);

  [[nodiscard]] int event_descriptor() const noexcept { return context_->async_fd; }
  [[nodiscard]] int completion_descriptor() const noexcept { return channel_->fd; }
  /// The next event of the device; nullopt: none is there.
  [[nodiscard]] std::optional<ibv_event_type> NextEvent();
  /// The cookie of a completion queue that has something; nullopt: none has.
  [[nodiscard]] std::optional<std::uint64_t> NextCompletionEvent();

  [[nodiscard]] std::uint64_t registration_bytes_max() const noexcept {
    return attributes_.max_mr_size;
  }
  /// Requests on one queue pair at once.
  [[nodiscard]] std::uint32_t queue_depth() const noexcept { return queue_depth_; }
  [[nodiscard]] std::uint64_t piece_bytes_max() const {
    return std::min<std::uint64_t>(options_.piece_bytes_max, port().message_bytes_max);
  }
  [[nodiscard]] int entries_max() const noexcept { return entries_max_; }
  [[nodiscard]] std::uint32_t inline_bytes_max() const noexcept { return inline_bytes_max_; }
  [[nodiscard]] std::uint32_t queue_pairs() const noexcept { return queue_pairs_; }

  /// Remote rights come on top of reading and writing here. Errors: kRdmaCall, kMemoryLock.
  [[nodiscard]] Result<MemoryRegion> Register(void* base, std::uint64_t length_bytes,
                                              bool remote_read, bool remote_write);
  /// The same for what `dmabuf` describes, memory of a GPU at `base`. kRdmaCall.
  [[nodiscard]] Result<MemoryRegion> Register(const Dmabuf& dmabuf, void* base,
                                              std::uint64_t length_bytes, bool remote_read,
                                              bool remote_write);
  /// Long enough for all that so many queue pairs may have posted.
  [[nodiscard]] Result<CompletionQueue> MakeCompletionQueue(std::uint64_t cookie,
                                                            std::size_t pairs);
  /// One that counts in the budget while it lives: `Owned`. Errors: kQueuePairBudget, kRdmaCall.
  struct Owned {
    Owned() = default;
    Owned(std::shared_ptr<RdmaDevice> d, QueuePair q) : device(std::move(d)), pair(std::move(q)) {}
    Owned(Owned&&) noexcept = default;
    Owned& operator=(Owned&& other) noexcept;
    ~Owned() { Reset(); }
    void Reset() noexcept;
    std::shared_ptr<RdmaDevice> device;
    QueuePair pair;
  };
  [[nodiscard]] static Result<Owned> MakeQueuePair(const std::shared_ptr<RdmaDevice>& device,
                                                   ibv_cq* completions);
  /// Receive requests without memory, for immediates; their completions have the id kReceiveId.
  /// kRdmaCall.
  [[nodiscard]] Status PostReceives(ibv_qp& pair, std::size_t count);
  /// What the peer must know of `pair`, whose first packet will have the number `packet`.
  [[nodiscard]] QueuePairEnd Describe(const ibv_qp& pair, std::uint32_t packet) const;
  /// Takes `pair` through INIT and RTR to RTS. kRdmaCall.
  [[nodiscard]] Status Connect(ibv_qp& pair, const QueuePairEnd& here, const QueuePairEnd& there,
                               const AddressPair& addresses);

 private:
  RdmaDevice(Verbs& verbs, std::string name, std::size_t rank, const RdmaOptions& options)
      : verbs_(verbs), name_(std::move(name)), rank_(rank), options_(options) {}
  [[nodiscard]] Error Failed(std::string_view call, int os_error) const;
  [[nodiscard]] PortState Look();
  /// Asks for less from now on, after a refusal; false: there is nothing less to ask for.
  [[nodiscard]] bool AskForLess(int refusal);

  Verbs& verbs_;
  const std::string name_;
  const std::size_t rank_;
  const RdmaOptions options_;
  ibv_device_attr attributes_{};
  std::uint32_t queue_depth_ = 1;
  // What queue pairs are asked for; less where the driver refuses it.
  std::atomic<int> entries_max_ = 1;
  std::atomic<std::uint32_t> inline_bytes_max_ = 0;
  Context context_;
  ProtectionDomain domain_;
  CompletionChannel channel_;
  std::atomic<std::uint32_t> queue_pairs_ = 0;
  std::atomic<bool> relaxed_ordering_ = true;
  std::atomic<bool> usable_ = false;
  mutable std::mutex mutex_;
  PortState port_;  // guarded by mutex_
};

}  // namespace mooncake::rdma
