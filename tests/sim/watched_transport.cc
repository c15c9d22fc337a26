#include "watched_transport.h"

namespace mooncake {
namespace {

class WatchedPath final : public Path {
 public:
  WatchedPath(std::shared_ptr<Path> path, InstanceId peer, std::shared_ptr<TransferWatch> watch)
      : path_(std::move(path)), peer_(peer), watch_(std::move(watch)) {}

  std::optional<Duration> Estimate(const Transfer& transfer) const override {
    return path_->Estimate(transfer);
  }
  bool IsPrepared(const Transfer& transfer) const override { return path_->IsPrepared(transfer); }
  Task<Status> Prepare(TransferNeeds needs, Instant deadline) override {
    return path_->Prepare(std::move(needs), deadline);
  }
  bool is_synchronous() const noexcept override { return path_->is_synchronous(); }
  bool MayRun(const Transfer& transfer) const noexcept override { return path_->MayRun(transfer); }
  Status Run(const Transfer& transfer) override {
    const std::uint64_t number = watch_->on_begin(peer_, transfer);
    Status status = path_->Run(transfer);
    watch_->on_end(number);
    return status;
  }
  void Start(const Transfer& transfer, std::function<void(Status)> done) override {
    const std::uint64_t number = watch_->on_begin(peer_, transfer);
    path_->Start(transfer, [watch = watch_, number, done = std::move(done)](Status status) {
      watch->on_end(number);
      done(std::move(status));
    });
  }
  void Forget(RegionId region) override { path_->Forget(region); }
  void Close() noexcept override { path_->Close(); }

 private:
  std::shared_ptr<Path> path_;
  InstanceId peer_;
  std::shared_ptr<TransferWatch> watch_;  // shared with transfers that outlive the path
};

class WatchedTransport final : public Transport {
 public:
  WatchedTransport(std::unique_ptr<Transport> transport, TransferWatch watch)
      : transport_(std::move(transport)),
        watch_(std::make_shared<TransferWatch>(std::move(watch))) {}

  std::string_view name() const noexcept override { return transport_->name(); }
  std::string Advertise() const override { return transport_->Advertise(); }
  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer,
                                           Instant deadline) override {
    const InstanceId id = peer->id;
    const auto watch = watch_;
    auto open = transport_->Open(std::move(peer), deadline);
    Result<std::shared_ptr<Path>> path = co_await std::move(open);
    if (!path) co_return Fail(path.error());
    co_return std::make_shared<WatchedPath>(std::move(*path), id, watch);
  }
  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) override {
    transport_->Serve(std::move(stream), std::move(peer));
  }
  bool lands_late() const noexcept override { return transport_->lands_late(); }
  void EndTransfersOf(const InstanceId& peer) override { transport_->EndTransfersOf(peer); }
  void Close() noexcept override { transport_->Close(); }

 private:
  std::unique_ptr<Transport> transport_;
  std::shared_ptr<TransferWatch> watch_;
};

}  // namespace

std::unique_ptr<Transport> Watch(std::unique_ptr<Transport> transport, TransferWatch watch) {
  return std::make_unique<WatchedTransport>(std::move(transport), std::move(watch));
}

}  // namespace mooncake
