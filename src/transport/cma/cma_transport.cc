#include "transport/cma/cma_transport.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstring>

#include "base/process_memory.h"
#include "transport/transfer_check.h"

namespace mooncake {
namespace {

constexpr Duration kFixedCost{700};
constexpr double kNanosecondsPerRange = 600;
constexpr double kNanosecondsPerByte = 0.14;

// What lies in the owner's memory and is read through the kernel before a batch, unless it has just
// been read: it tells that the process behind the number is still the one that was meant.
struct Proof {
  std::uint64_t nonce = 0;
  InstanceId id;
  bool operator==(const Proof&) const = default;
};

// "1 <address> <nonce>", hexadecimal.
struct Advertisement {
  std::uint64_t address = 0;
  std::uint64_t nonce = 0;
};

std::optional<Advertisement> ParseAdvertisement(std::string_view text) {
  Advertisement advertisement;
  constexpr std::string_view kPrefix = "1 ";
  if (!text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, advertisement.address, 16);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != ' ') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, advertisement.nonce, 16);
  if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
  return advertisement;
}

class CmaPath final : public Path {
 public:
  CmaPath(World& world, std::shared_ptr<const PeerInfo> peer, std::uint64_t proof_address,
          Proof proof)
      : world_(world),
        peer_(std::move(peer)),
        proof_address_(proof_address),
        proof_(proof),
        cost_(kFixedCost, kNanosecondsPerRange, kNanosecondsPerByte) {}

  std::optional<Duration> Estimate(const Transfer& transfer) const override {
    if (transfer.on_gpu) return std::nullopt;
    return cost_.Estimate(transfer);
  }
  bool IsPrepared(const Transfer&) const override { return true; }
  Task<Status> Prepare(TransferNeeds, Instant) override { co_return Status{}; }
  bool is_synchronous() const noexcept override { return true; }
  void Start(const Transfer& transfer, std::function<void(Status)> done) override {
    done(Run(transfer));
  }

  Status Run(const Transfer& transfer) override {
    const CallGate::Pass pass(gate_);
    MC_TRY_STATUS(CheckTransfer(transfer, *peer_->regions));
    const Instant begin = world_.clock.Now();
    MC_TRY_STATUS(ProveAt(begin));
    Status status = CopyAll(transfer);
    if (status && CostModel::IsWorthObserving(transfer))
      cost_.Observe(transfer, world_.clock.Now() - begin);
    return status;
  }

  // Nobody can take memory away from the kernel in the middle of a copy, so whoever unregisters
  // waits for the calls that began before.
  void Forget(RegionId) override {
    const std::uint64_t begun = gate_entered_.load(std::memory_order_seq_cst);
    while (gate_left_.load(std::memory_order_seq_cst) < begun) std::this_thread::yield();
  }

  void Close() noexcept override {
    gate_.Close();
    gate_.AwaitEmpty();
  }

  // Reading the proof costs as much as a small copy. It is good for a moment that is far too short
  // for a process to end, be taken leave of by its parent, and have its number come round again.
  Status ProveAt(Instant now) {
    constexpr Duration kProofGoodFor = std::chrono::microseconds(100);
    const Instant proven = proven_at_.load(std::memory_order_relaxed);
    if (now >= proven && now - proven < kProofGoodFor) return {};
    MC_TRY_STATUS(Prove());
    proven_at_.store(now, std::memory_order_relaxed);  // when it was begun to be read
    return {};
  }

  // Reads the proof through the kernel.
  Status Prove() const {
    Proof found;
    const iovec local{&found, sizeof found};
    const iovec remote{reinterpret_cast<void*>(proof_address_), sizeof found};
    MC_TRY(const std::size_t count,
           ReadProcessMemory(peer_->host.process, {&local, 1}, {&remote, 1}));
    if (count != sizeof found || found != proof_) {
      return Fail(ErrorId::kPeerGone,
                  fmt::format("process {} is not {} any more", peer_->host.process, peer_->label));
    }
    return {};
  }

 private:
  Status CopyAll(const Transfer& transfer) {
    gate_entered_.fetch_add(1, std::memory_order_seq_cst);
    Status status = CopyPieces(transfer);
    gate_left_.fetch_add(1, std::memory_order_seq_cst);
    return status;
  }

  // A thousand ranges a call, and at most 2 MiB, so that the deadline and a cancellation are seen
  // in time.
  Status CopyPieces(const Transfer& transfer) {
    std::array<iovec, kProcessRangesMax> local;
    std::array<iovec, kProcessRangesMax> remote;
    const RegionInfo* region = nullptr;
    std::size_t slice = 0;
    std::uint64_t offset = 0;
    while (slice < transfer.slices.size()) {
      if (gate_.closed()) return Fail(ErrorId::kPathFailed, "the path is closed");
      MC_TRY_STATUS(CheckPace(transfer, world_.clock));
      std::size_t count = 0;
      std::uint64_t bytes = 0;
      while (slice < transfer.slices.size() && count < kProcessRangesMax &&
             bytes < kPieceBytesMax) {
        const Slice& s = transfer.slices[slice];
        if (region == nullptr || region->id != s.region) region = peer_->regions->Find(s.region);
        if (region == nullptr)
          return Fail(ErrorId::kRegionUnknown,
                      fmt::format("region {}", static_cast<std::uint64_t>(s.region)));
        const std::uint64_t take = std::min(s.length_bytes - offset, kPieceBytesMax - bytes);
        if (take > 0) {
          local[count] = {s.local + offset, take};
          remote[count] = {reinterpret_cast<void*>(region->base + s.offset + offset), take};
          count += 1;
          bytes += take;
          offset += take;
        }
        if (offset == s.length_bytes) {
          slice += 1;
          offset = 0;
        }
      }
      if (count == 0) continue;
      const std::span<const iovec> ours(local.data(), count);
      const std::span<const iovec> theirs(remote.data(), count);
      const Result<std::size_t> moved = transfer.direction == Direction::kWrite
                                            ? WriteProcessMemory(peer_->host.process, ours, theirs)
                                            : ReadProcessMemory(peer_->host.process, ours, theirs);
      if (!moved) return Fail(moved.error());
      if (*moved != bytes) {
        return Fail(ErrorId::kOutOfRegion,
                    fmt::format("{} of {} bytes: the peer has registered memory that is not there",
                                *moved, bytes));
      }
    }
    return {};
  }

  World& world_;
  const std::shared_ptr<const PeerInfo> peer_;
  const std::uint64_t proof_address_;
  const Proof proof_;
  CostModel cost_;
  std::atomic<Instant> proven_at_ = Instant{};
  CallGate gate_;
  std::atomic<std::uint64_t> gate_entered_ = 0;
  std::atomic<std::uint64_t> gate_left_ = 0;
};

class CmaTransport final : public Transport {
 public:
  CmaTransport(World& world, InstanceId self)
      : world_(world), proof_(std::make_unique<Proof>(Proof{world.random.Next(), self})) {}

  std::string_view name() const noexcept override { return "cma"; }
  std::string Advertise() const override {
    return fmt::format("1 {:x} {:x}", reinterpret_cast<std::uint64_t>(proof_.get()), proof_->nonce);
  }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer, Instant) override {
    const HostIdentity& ours = world_.network.host();
    if (!IsSameHost(ours, peer->host)) {
      co_return Fail(ErrorId::kPathUnusable,
                     fmt::format("another host: {} here, {} there (boot ids differ)",
                                 ours.host_name, peer->host.host_name));
    }
    if (ours.process_namespace != peer->host.process_namespace) {
      co_return Fail(ErrorId::kPathUnusable,
                     fmt::format("another pid namespace: {} here, {} there", ours.process_namespace,
                                 peer->host.process_namespace));
    }
    const std::optional<Advertisement> there = ParseAdvertisement(peer->advertisement);
    if (!there) co_return Fail(ErrorId::kPathUnusable, "the peer offers no cma");
    auto path =
        std::make_shared<CmaPath>(world_, peer, there->address, Proof{there->nonce, peer->id});
    const Status proven = path->Prove();
    if (!proven) {
      const Error& error = proven.error();
      const bool denied = error.id == ErrorId::kPathUnusable;
      co_return Fail(ErrorId::kPathUnusable,
                     denied ? "the kernel does not allow it: another user, or "
                              "/proc/sys/kernel/yama/ptrace_scope is not 0"
                            : error.context,
                     error.os_error);
    }
    std::erase_if(paths_, [](const auto& p) { return p.expired(); });
    paths_.push_back(path);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo>) override {
    stream->Close();
  }
  bool lands_late() const noexcept override { return false; }
  void EndTransfersOf(const InstanceId&) override {}  // a copy is over when Run() returns

  void Close() noexcept override {
    for (const auto& weak : std::exchange(paths_, {})) {
      if (const auto path = weak.lock()) path->Close();
    }
  }

 private:
  World& world_;
  std::unique_ptr<const Proof> proof_;  // read by peers, through the kernel
  std::vector<std::weak_ptr<Path>> paths_;
};

}  // namespace

std::unique_ptr<Transport> MakeCmaTransport(World& world, InstanceId self) {
  return std::make_unique<CmaTransport>(world, self);
}

}  // namespace mooncake
