#include "transport/shm/shm_transport.h"

#include "transport/shm/ring_path.h"
#include "transport/shm/shm_path.h"
#include "transport/shm/shm_service.h"

namespace mooncake {
namespace {

using shm::ServiceLink;
using shm::ShmService;

// Ends the service with the last of the two transports that use it.
class ServiceUse {
 public:
  explicit ServiceUse(std::shared_ptr<ShmService> service) : service_(std::move(service)) {}
  ~ServiceUse() { service_->Close(); }
  ServiceUse(const ServiceUse&) = delete;
  ServiceUse& operator=(const ServiceUse&) = delete;

 private:
  const std::shared_ptr<ShmService> service_;
};

// What differs between the two is the path that they build on a link.
using MakePath = std::function<std::shared_ptr<Path>(std::shared_ptr<const PeerInfo>,
                                                     std::shared_ptr<ServiceLink>)>;

class LocalTransport final : public Transport {
 public:
  LocalTransport(World& world, std::string_view name, bool lands_late,
                 std::shared_ptr<ShmService> service, std::shared_ptr<ServiceUse> use,
                 MakePath make)
      : world_(world),
        name_(name),
        lands_late_(lands_late),
        service_(std::move(service)),
        use_(std::move(use)),
        make_(std::move(make)) {}

  std::string_view name() const noexcept override { return name_; }
  std::string Advertise() const override { return shm::Encode(service_->advertisement()); }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer,
                                           Instant deadline) override {
    auto open = ServiceLink::Open(world_, service_->self(), peer, deadline);
    Result<std::shared_ptr<ServiceLink>> link = co_await std::move(open);
    if (!link) co_return Fail(link.error());
    std::erase_if(paths_, [](const auto& p) { return p.expired(); });
    std::shared_ptr<Path> path = make_(peer, *link);
    paths_.push_back(path);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo>) override {
    stream->Close();
  }
  bool lands_late() const noexcept override { return lands_late_; }
  void EndTransfersOf(const InstanceId& peer) override {
    if (lands_late_) service_->EndRingsOf(peer);
  }

  void Close() noexcept override {
    for (const auto& weak : std::exchange(paths_, {})) {
      if (const auto path = weak.lock()) path->Close();
    }
    use_ = nullptr;
  }

 private:
  World& world_;
  std::string_view name_;
  bool lands_late_;
  const std::shared_ptr<ShmService> service_;  // shared by both transports
  std::shared_ptr<ServiceUse> use_;
  MakePath make_;
  std::vector<std::weak_ptr<Path>> paths_;
};

}  // namespace

Result<std::vector<std::unique_ptr<Transport>>> MakeShmTransports(
    World& world, InstanceId self, std::shared_ptr<const RegionTable> regions,
    const CopyEngine& copy) {
  MC_TRY(const std::shared_ptr<ShmService> service,
         ShmService::Open(world, self, std::move(regions), copy));
  const auto use = std::make_shared<ServiceUse>(service);
  std::vector<std::unique_ptr<Transport>> transports;
  transports.push_back(std::make_unique<LocalTransport>(
      world, "shm", false, service, use,
      [&world, copy](std::shared_ptr<const PeerInfo> peer,
                     std::shared_ptr<ServiceLink> link) -> std::shared_ptr<Path> {
        return std::make_shared<shm::ShmPath>(world, copy, std::move(peer), std::move(link));
      }));
  transports.push_back(std::make_unique<LocalTransport>(
      world, "ring", true, service, use,
      [&world, copy](std::shared_ptr<const PeerInfo> peer,
                     std::shared_ptr<ServiceLink> link) -> std::shared_ptr<Path> {
        return std::make_shared<shm::RingPath>(world, copy, std::move(peer), std::move(link));
      }));
  return transports;
}

}  // namespace mooncake
