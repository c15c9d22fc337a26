// An RDMA network within one process, for tests: devices that really move bytes between registered
// memory, ports that go and come, pairs of devices that nothing gets through between, and any call
// failing when it is told to.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/fault_book.h"
#include "transport/rdma/verbs.h"

namespace mooncake::rdma {

struct FakeFabric {
  std::size_t devices = 1;  ///< DeviceNames(devices); every one reaches every one.
  std::uint64_t registration_bytes_max = 1ULL << 40;
  int queue_pairs_max = 1000;
  std::uint32_t inline_bytes_max = 1024;       ///< Queue pairs that ask for more are refused,
  std::uint32_t entries_max = 4;               ///< though the device says 4.
  std::uint32_t message_bytes_max = 1U << 30;  ///< Longer requests are refused.
  bool relaxed_ordering = true;                ///< Whether it knows of it.
  LockLimit lock{.unlimited = true};
  /// Requests are carried out as they are posted, as far as they can be.
  bool immediate = false;
  /// What a request waits for an answer before its queue pair breaks.
  std::chrono::milliseconds retry_time{20};
  /// What connecting a queue pair waits where nothing gets through, before it fails, as a kernel
  /// does that looks for a neighbour. 0: it succeeds at once, as on InfiniBand.
  std::chrono::milliseconds resolve_time{0};
};

/// Any thread. Handles that are alive when it is destroyed are forgotten.
class FakeVerbs : public Verbs, public FaultBook {
 public:
  [[nodiscard]] static std::shared_ptr<FakeVerbs> Make(const FakeFabric& fabric = {});

  /// "fake0", "fake1", …
  [[nodiscard]] static std::vector<std::string> DeviceNames(std::size_t count);
  /// The names that FailCall() takes, "CreateQp" for one.
  [[nodiscard]] static std::vector<std::string> Calls();
  virtual void SetPort(std::size_t device, bool active) = 0;
  /// Its port is down, and whoever has it open is told that it has failed.
  virtual void FailDevice(std::size_t device) = 0;
  /// From now on nothing gets through between the two, and nobody is told.
  virtual void Cut(std::size_t a, std::size_t b, bool cut) = 0;
  /// From now on requests between the two neither end nor fail.
  virtual void Stall(std::size_t a, std::size_t b, bool stall) = 0;
  /// Requests that have been carried out between the two, either way.
  [[nodiscard]] virtual std::uint64_t Carried(std::size_t a, std::size_t b) const = 0;
  /// Requests that have been posted and not been carried out.
  [[nodiscard]] virtual std::size_t Waiting() const = 0;
  /// The queue pairs that they are on.
  [[nodiscard]] virtual std::size_t WaitingPairs() const = 0;
  /// Queue pairs whose connecting hangs: FakeFabric::resolve_time.
  [[nodiscard]] virtual std::size_t Resolving() const = 0;
  /// From now on requests of this length and longer wait until they are let go (nullopt), and what
  /// stands behind them on their queue pair.
  virtual void HoldFrom(std::optional<std::uint64_t> length_bytes) = 0;
  /// All requests.
  void Hold(bool hold) { HoldFrom(hold ? std::optional<std::uint64_t>(0) : std::nullopt); }
};

}  // namespace mooncake::rdma
