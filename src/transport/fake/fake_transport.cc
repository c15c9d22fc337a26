#include "transport/fake/fake_transport.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "transport/transfer_check.h"

namespace mooncake {

void FakeWire::Join(const InstanceId& id, std::shared_ptr<const RegionTable> regions) {
  const std::lock_guard lock(mutex_);
  joined_[id] = std::move(regions);
}

void FakeWire::Leave(const InstanceId& id) {
  const std::lock_guard lock(mutex_);
  joined_.erase(id);
}

std::shared_ptr<const RegionTable> FakeWire::Reach(const InstanceId& from,
                                                   const InstanceId& to) const {
  if (reaches_ && !(reaches_(from, to) && reaches_(to, from))) return nullptr;
  const std::lock_guard lock(mutex_);
  const auto found = joined_.find(to);
  return found == joined_.end() ? nullptr : found->second;
}

namespace {

bool Chance(Random& random, double share) {
  return share > 0 && static_cast<double>(random.Next() >> 11) * 0x1.0p-53 < share;
}

class FakePath final : public Path, public std::enable_shared_from_this<FakePath> {
 public:
  FakePath(World& world, FakeWire& wire, InstanceId self, std::shared_ptr<const PeerInfo> peer,
           const FakeOptions& options)
      : world_(world), wire_(wire), self_(self), peer_(std::move(peer)), options_(options) {}

  std::optional<Duration> Estimate(const Transfer& transfer) const override {
    if (transfer.on_gpu) return std::nullopt;
    return options_.fixed_cost;
  }
  bool IsPrepared(const Transfer&) const override { return true; }
  Task<Status> Prepare(TransferNeeds, Instant) override { co_return Status{}; }
  bool is_synchronous() const noexcept override { return options_.synchronous; }

  Status Run(const Transfer& transfer) override {
    const CallGate::Pass pass(gate_);
    MC_TRY_STATUS(CheckTransfer(transfer, *peer_->regions));
    for (const Slice& piece : Cut(transfer)) {
      if (gate_.closed()) return Fail(Closed());
      MC_TRY_STATUS(CheckPace(transfer, world_.clock));
      MC_TRY_STATUS(Land(transfer.direction, piece));
    }
    return {};
  }

  void Start(const Transfer& transfer, std::function<void(Status)> done) override {
    const auto operation = std::make_shared<Operation>();
    operation->transfer = &transfer;
    operation->done = std::move(done);
    if (gate_.closed()) return operation->End(Fail(Closed()));
    if (Status checked = CheckTransfer(transfer, *peer_->regions); !checked)
      return operation->End(std::move(checked));
    operation->pieces = Cut(transfer);
    operation->timer = world_.clock.MakeTimer(world_.data);
    std::erase_if(operations_, [](const auto& o) { return !o->done; });
    operations_.push_back(operation);
    Continue(operation);
  }

  void Forget(RegionId) override {}  // the owner's own table is asked for each piece

  void Close() noexcept override {
    gate_.Close();
    gate_.AwaitEmpty();
    Post(world_.data, [self = shared_from_this()] { self->EndAll(); });
  }

 private:
  struct Operation {
    const Transfer* transfer;
    std::function<void(Status)> done;
    std::vector<Slice> pieces;  // the next one last
    std::unique_ptr<Timer> timer;
    Instant due{};
    void End(Status status) {
      timer = nullptr;
      if (done) std::exchange(done, nullptr)(std::move(status));
    }
  };
  using OperationPtr = std::shared_ptr<Operation>;

  static Error Closed() { return {ErrorId::kPathFailed, "the path is closed"}; }

  std::vector<Slice> Cut(const Transfer& transfer) {
    std::vector<Slice> pieces;
    for (const Slice& slice : transfer.slices) {
      for (std::uint64_t offset = 0; offset < slice.length_bytes;) {
        const std::uint64_t length =
            std::min(slice.length_bytes - offset, options_.piece_bytes_max);
        pieces.push_back({slice.local + offset, slice.region, slice.offset + offset, length});
        offset += length;
      }
    }
    const std::size_t once = pieces.size();
    if (transfer.direction == Direction::kWrite) {
      for (std::size_t i = 0; i < once; ++i) {
        if (Chance(world_.random, options_.repeats)) pieces.push_back(Slice(pieces[i]));
      }
    }
    if (options_.reorder) {
      for (std::size_t i = pieces.size(); i > 1; --i)
        std::swap(pieces[i - 1], pieces[world_.random.Below(i)]);
    }
    return pieces;
  }

  // Lands what is due; the last piece ends the operation.
  void Continue(const OperationPtr& operation) {
    const Transfer& transfer = *operation->transfer;
    while (operation->done) {
      if (gate_.closed()) return operation->End(Fail(Closed()));
      if (Status pace = CheckPace(transfer, world_.clock); !pace)
        return operation->End(std::move(pace));
      if (operation->pieces.empty()) return operation->End({});
      if (operation->due == Instant{} && options_.delay_max > Duration(0)) {
        const auto delay = static_cast<std::int64_t>(
            world_.random.Below(static_cast<std::uint64_t>(options_.delay_max.count()) + 1));
        operation->due = After(world_.clock.Now(), Duration(delay));
      }
      if (operation->due > world_.clock.Now()) {
        operation->timer->At(std::min(operation->due, transfer.deadline),
                             [this, weak = std::weak_ptr<Operation>(operation)] {
                               if (const auto waiting = weak.lock()) Continue(waiting);
                             });
        return;
      }
      operation->due = Instant{};
      const Slice piece = operation->pieces.back();
      operation->pieces.pop_back();
      if (Status landed = Land(transfer.direction, piece); !landed) {
        const bool dead = landed.error().id == ErrorId::kPathFailed;
        operation->End(std::move(landed));
        if (dead) EndAll();
        return;
      }
    }
  }

  Status Land(Direction direction, const Slice& piece) {
    const std::shared_ptr<const RegionTable> there = wire_.Reach(self_, peer_->id);
    const RegionInfo* const region = peer_->regions->Find(piece.region);
    if (!there || region == nullptr || Chance(world_.random, options_.failures)) {
      gate_.Close();
      if (there && region != nullptr) {
        Slice torn = piece;
        torn.length_bytes = world_.random.Below(piece.length_bytes + 1);
        const Status ignored = CopyPiece(direction, torn, *there, region->key);
        static_cast<void>(ignored);
      }
      return Fail(ErrorId::kPathFailed, "the wire broke to " + peer_->label);
    }
    return CopyPiece(direction, piece, *there, region->key);
  }

  static Status CopyPiece(Direction direction, const Slice& piece, const RegionTable& there,
                          RegionKey key) {
    MC_TRY(const PinnedRange range, there.Resolve(piece.region, key, piece.offset,
                                                  piece.length_bytes, WantedAccess(direction)));
    if (direction == Direction::kWrite) {
      std::memcpy(range.bytes().data(), piece.local, piece.length_bytes);
    } else {
      std::memcpy(piece.local, range.bytes().data(), piece.length_bytes);
    }
    return {};
  }

  void EndAll() {
    for (const OperationPtr& operation : std::exchange(operations_, {}))
      operation->End(Fail(Closed()));
  }

  World& world_;
  FakeWire& wire_;
  const InstanceId self_;
  const std::shared_ptr<const PeerInfo> peer_;
  const FakeOptions options_;
  CallGate gate_;
  std::vector<OperationPtr> operations_;  // on the data loop
};

class FakeTransport final : public Transport {
 public:
  FakeTransport(World& world, FakeWire& wire, InstanceId self,
                std::shared_ptr<const RegionTable> regions, FakeOptions options)
      : world_(world), wire_(wire), self_(self), options_(options) {
    wire_.Join(self_, std::move(regions));
  }

  std::string_view name() const noexcept override { return "fake"; }
  std::string Advertise() const override { return "1"; }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer, Instant) override {
    if (options_.delay_max > Duration(0))
      co_await world_.clock.SleepFor(world_.control, options_.delay_max);
    if (closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    if (!wire_.Reach(self_, peer->id) || Chance(world_.random, options_.refusals)) {
      co_return Fail(ErrorId::kPathFailed, "the wire does not reach " + peer->label);
    }
    auto path = std::make_shared<FakePath>(world_, wire_, self_, peer, options_);
    std::erase_if(paths_, [](const auto& p) { return p.expired(); });
    paths_.push_back(path);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo>) override {
    stream->Close();
  }
  bool lands_late() const noexcept override { return false; }
  void EndTransfersOf(const InstanceId&) override {}  // nothing lands after a path has reported

  void Close() noexcept override {
    closed_ = true;
    wire_.Leave(self_);
    for (const auto& weak : std::exchange(paths_, {})) {
      if (const auto path = weak.lock()) path->Close();
    }
  }

 private:
  World& world_;
  FakeWire& wire_;
  const InstanceId self_;
  const FakeOptions options_;
  bool closed_ = false;
  std::vector<std::weak_ptr<Path>> paths_;
};

}  // namespace

std::unique_ptr<Transport> MakeFakeTransport(World& world, FakeWire& wire, InstanceId self,
                                             std::shared_ptr<const RegionTable> regions,
                                             FakeOptions options) {
  return std::make_unique<FakeTransport>(world, wire, self, std::move(regions), options);
}

}  // namespace mooncake
