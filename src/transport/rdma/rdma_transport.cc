#include "transport/rdma/rdma_transport.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/descriptor_watch.h"
#include "base/log.h"
#include "transport/rdma/rdma_connector.h"

namespace mooncake::rdma {
namespace {

constexpr Duration kRepairDelayMin = std::chrono::milliseconds(50);
constexpr Duration kRepairDelayMax = std::chrono::seconds(5);
constexpr Duration kRepairTimeout = std::chrono::seconds(3);

// The paths that completions belong to, by the cookie of their queues. Any thread.
class PathTable {
 public:
  std::uint64_t Add() {
    const std::lock_guard lock(mutex_);
    return ++last_;
  }
  void Set(std::uint64_t cookie, const std::shared_ptr<RdmaPath>& path) {
    const std::lock_guard lock(mutex_);
    std::erase_if(paths_, [](const auto& entry) { return entry.second.expired(); });
    paths_[cookie] = path;
  }
  [[nodiscard]] std::shared_ptr<RdmaPath> Find(std::uint64_t cookie) const {
    const std::lock_guard lock(mutex_);
    const auto found = paths_.find(cookie);
    return found == paths_.end() ? nullptr : found->second.lock();
  }
  [[nodiscard]] std::vector<std::shared_ptr<RdmaPath>> All() const {
    std::vector<std::shared_ptr<RdmaPath>> all;
    const std::lock_guard lock(mutex_);
    for (const auto& [cookie, weak] : paths_) {
      if (auto path = weak.lock(); path && !path->is_closed()) all.push_back(std::move(path));
    }
    return all;
  }

 private:
  mutable std::mutex mutex_;
  std::uint64_t last_ = 0;                                  // guarded by mutex_
  std::map<std::uint64_t, std::weak_ptr<RdmaPath>> paths_;  // guarded by mutex_
};

// What outlives the transport while a coroutine still uses it.
class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(World& world, Metrics& metrics, std::shared_ptr<Verbs> verbs,
       std::vector<std::shared_ptr<RdmaDevice>> devices, std::shared_ptr<const RegionTable> regions,
       std::shared_ptr<DeviceMemory> gpus, std::function<Introduction()> introduce,
       const RdmaOptions& options)
      : world_(world),
        verbs_(std::move(verbs)),
        options_(options),
        introduce_(std::move(introduce)),
        counters_{metrics.AddCounter("mooncake_rdma_sent_bytes_total",
                                     "Bytes of transfers written over RDMA."),
                  metrics.AddCounter("mooncake_rdma_received_bytes_total",
                                     "Bytes of transfers read over RDMA."),
                  metrics.AddCounter("mooncake_rdma_resent_pieces_total",
                                     "Requests that went over another rail after theirs broke."),
                  metrics.AddCounter("mooncake_rdma_broken_rails_total",
                                     "Queue pairs to peers that were taken out of use."),
                  metrics.AddCounter("mooncake_rdma_sent_messages_total",
                                     "Notifications written to peers over RDMA.")},
        memory_(std::make_shared<RdmaMemory>(world, metrics, devices, std::move(gpus), options)) {
    const auto make_worker = [&world] { return std::shared_ptr(world.threads.MakeWorker()); };
    for (auto& device : devices)
      devices_.push_back({std::move(device), make_worker(), make_worker()});
    connector_ = std::make_shared<RdmaConnector>(world, devices_);
    server_ = std::make_shared<RdmaServer>(world, devices_, memory_, std::move(regions));
  }

  Status Start() {
    const auto make_room = [weak = weak_from_this()](const RdmaDevice& device,
                                                     const RdmaPath* except) {
      const auto core = weak.lock();
      return core && core->MakeRoom(device, except);
    };
    connector_->OnFull(make_room);
    server_->Start([make_room](const RdmaDevice& device) { return make_room(device, nullptr); });
    for (const DeviceInUse& in_use : devices_) {
      MC_TRY(const auto completions,
             DescriptorWatch::Open(world_.data, in_use.device->completion_descriptor()));
      MC_TRY(const auto events,
             DescriptorWatch::Open(world_.control, in_use.device->event_descriptor()));
      completion_watches_.push_back(completions);
      event_watches_.push_back(events);
    }
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      Spawn(world_.data,
            HearCompletions(shared_from_this(), completion_watches_[i], devices_[i].device));
      Spawn(world_.control, HearEvents(shared_from_this(), event_watches_[i], devices_[i]));
    }
    return {};
  }

  std::string Advertise() const {
    pb::RdmaDevices devices;
    for (const DeviceInUse& in_use : devices_) *devices.add_devices() = ToProto(*in_use.device);
    return devices.SerializeAsString();
  }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer, Instant deadline) {
    const auto self = shared_from_this();
    if (closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    auto find = FindLink(peer, deadline);
    const Result<std::shared_ptr<RdmaLink>> link = co_await std::move(find);
    if (closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    if (!link) co_return Fail(link.error());
    const auto path =
        std::make_shared<RdmaPath>(world_, peer, *link, memory_, counters_, NanosecondsPerByte());
    const std::uint64_t cookie = paths_.Add();
    paths_.Set(cookie, path);
    path->OnRailLost(
        [weak = weak_from_this(), loop = world_.control, lost = std::weak_ptr(path), cookie] {
          mooncake::Post(loop, [weak, lost, cookie] {
            if (const auto core = weak.lock()) core->Repair(lost, cookie);
          });
        });
    path->OnUnpark([weak = weak_from_this(), raw = std::weak_ptr(path),
                    cookie](Instant limit) -> Task<Status> {
      const auto core = weak.lock();
      const auto parked = raw.lock();
      if (!core || !parked) co_return Fail(ErrorId::kClosed, "the transport stops");
      auto again = core->connector_->ConnectRails(parked, cookie, limit);
      const std::vector<std::string> why_not = co_await std::move(again);
      if (!why_not.empty()) core->Repair(raw, cookie);
      if (parked->has_rails()) co_return Status{};
      co_return Fail(ErrorId::kPathFailed, fmt::format("{}", fmt::join(why_not, "; ")));
    });
    auto connect = connector_->ConnectRails(path, cookie, deadline);
    const std::vector<std::string> reasons = co_await std::move(connect);
    if (closed_) path->Close();
    if (closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    if (!path->has_rails()) {
      path->Close();
      // Ports and routes come and go, so it is worth another try.
      co_return Fail(ErrorId::kPathFailed, fmt::format("{}", fmt::join(reasons, "; ")));
    }
    for (const std::string& reason : reasons) MC_LOG(info, "RDMA to {}: {}", peer->label, reason);
    if (!reasons.empty()) Repair(path, cookie);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) {
    if (closed_ || !stream->MoveTo(world_.control)) return stream->Close();
    mooncake::Post(world_.control,
                   [server = server_, stream, peer] { server->Serve(stream, *peer); });
  }

  void OnChance(std::function<void(std::optional<InstanceId>)> call) { chance_ = std::move(call); }
  RdmaMemory& memory() { return *memory_; }
  RdmaServer& server() { return *server_; }

  void Close() noexcept {
    if (closed_.exchange(true)) return;
    chance_ = nullptr;
    connector_->Close();
    for (const auto& path : paths_.All()) path->Close();
    for (const auto& [peer, link] : std::exchange(links_, {})) link->Close();
    for (const auto& pause : pausing_) pause->Set(true);
    server_->Close();
    for (const DeviceInUse& in_use : devices_) {
      in_use.worker->Stop();
      in_use.connecting->Stop();
    }
    memory_->Close();
    mooncake::Post(world_.control, [self = shared_from_this()] {
      for (const auto& watch : self->event_watches_) watch->Close();
    });
    mooncake::Post(world_.data, [self = shared_from_this()] {
      for (const auto& watch : self->completion_watches_) watch->Close();
    });
  }

 private:
  double NanosecondsPerByte() const {
    double gigabits_per_second = 0;
    for (const DeviceInUse& in_use : devices_)
      gigabits_per_second += in_use.device->port().gigabits_per_second;
    return gigabits_per_second > 0 ? 8 / gigabits_per_second : 1;
  }

  // One connection for each peer, which outlives its paths: over it we hear that a port is back.
  Task<Result<std::shared_ptr<RdmaLink>>> FindLink(std::shared_ptr<const PeerInfo> peer,
                                                   Instant deadline) {
    const auto self = shared_from_this();
    if (const auto found = links_.find(peer->id); found != links_.end() && found->second->is_open())
      co_return found->second;
    auto open = RdmaLink::Open(world_, introduce_(), peer, deadline);
    const Result<std::shared_ptr<RdmaLink>> link = co_await std::move(open);
    if (!link) co_return Fail(link.error());
    if (closed_) {
      (*link)->Close();
      co_return Fail(ErrorId::kClosed, "the transport stops");
    }
    if ((*link)->devices().empty()) {
      (*link)->Close();
      co_return Fail(ErrorId::kPathUnusable, "the peer does not offer rdma");
    }
    links_[peer->id] = *link;
    (*link)->OnDevice([weak = weak_from_this(), id = peer->id](std::size_t device, bool changed) {
      if (const auto core = weak.lock()) core->HeardOfPeer(id, device, changed);
    });
    (*link)->OnPark([weak = weak_from_this(), raw = link->get()] {
      const auto core = weak.lock();
      bool parked = false;
      for (const auto& path :
           core ? core->paths_.All() : std::vector<std::shared_ptr<RdmaPath>>{}) {
        if (path->link().get() == raw) parked = path->Park() || parked;
      }
      return parked;
    });
    (*link)->OnClose([weak = weak_from_this(), id = peer->id, raw = link->get()](const Error&) {
      if (const auto core = weak.lock()) core->LinkClosed(id, raw);
    });
    co_return *link;
  }

  void LinkClosed(InstanceId peer, const RdmaLink* link) {
    if (const auto found = links_.find(peer); found != links_.end() && found->second.get() == link)
      links_.erase(found);
    for (const auto& path : paths_.All()) {
      if (path->link().get() == link) path->Close();
    }
  }

  void HeardOfPeer(InstanceId peer, std::size_t device, bool changed) {
    const auto found = links_.find(peer);
    if (found == links_.end()) return;
    const PeerDevice& told = found->second->devices()[device];
    if (changed) connector_->PeerPortChanged(*found->second, device);
    for (const auto& path : paths_.All()) {
      if (path->link() == found->second && !told.usable)
        path->BreakRailsTo(device, fmt::format("the port of {} there is down", told.name));
    }
    if (told.usable) Chance(peer);
  }

  // The path that has been without a transfer for longest gives its queue pairs back.
  bool MakeRoom(const RdmaDevice& device, const RdmaPath* except) {
    std::vector<std::shared_ptr<RdmaPath>> idle;
    for (auto& path : paths_.All()) {
      if (path.get() != except && path->HasRailFrom(device)) idle.push_back(std::move(path));
    }
    std::sort(idle.begin(), idle.end(),
              [](const auto& a, const auto& b) { return a->last_used() < b->last_used(); });
    return std::any_of(idle.begin(), idle.end(), [](const auto& path) { return path->Park(); });
  }

  // What could not be connected may be possible now.
  void Chance(std::optional<InstanceId> peer) {
    last_chance_ = world_.clock.Now();  // also for who is trying just now, and hears no pause end
    for (const auto& pause : std::exchange(pausing_, {})) pause->Set(true);
    if (chance_) chance_(peer);
  }

  // Connects again what a path has lost: each device for itself, later each time.
  void Repair(const std::weak_ptr<RdmaPath>& weak, std::uint64_t cookie) {
    const auto path = weak.lock();
    if (closed_ || !path || path->is_closed()) return;
    for (const DeviceInUse& in_use : devices_) {
      if (path->HasRailFrom(*in_use.device)) continue;
      if (path->in_repair.insert(in_use.device->rank()).second)
        Spawn(world_.control, RepairLoop(shared_from_this(), weak, cookie, in_use));
    }
  }

  static Task<void> RepairLoop(std::shared_ptr<Core> self, std::weak_ptr<RdmaPath> weak,
                               std::uint64_t cookie, DeviceInUse in_use) {
    // Both ends hear of what has changed, one of them first: soon again for a while, then later.
    const Instant lost = self->world_.clock.Now();
    for (;;) {
      if (self->closed_) co_return;  // a loop that stops frees nobody who waits for its clock
      const Instant now = self->world_.clock.Now();
      const Duration delay = std::clamp<Duration>((now - std::max(lost, self->last_chance_)) / 4,
                                                  kRepairDelayMin, kRepairDelayMax);
      const auto pause = std::make_shared<OneShot<bool>>();
      self->pausing_.push_back(pause);
      auto wait = WaitUntil(self->world_.clock, self->world_.control, pause, After(now, delay));
      co_await std::move(wait);
      std::erase(self->pausing_, pause);
      const auto path = weak.lock();
      if (self->closed_ || !path || path->is_closed()) co_return;
      auto connect = self->connector_->ConnectDevice(
          path, in_use, cookie, After(self->world_.clock.Now(), kRepairTimeout));
      const std::string why_not = co_await std::move(connect);
      if (!why_not.empty()) continue;
      path->in_repair.erase(in_use.device->rank());
      co_return;
    }
  }

  static Task<void> HearCompletions(std::shared_ptr<Core> self,
                                    std::shared_ptr<DescriptorWatch> watch,
                                    std::shared_ptr<RdmaDevice> device) {
    while (co_await watch->Readable()) {
      while (const auto cookie = device->NextCompletionEvent()) {
        if (RdmaServer::IsCookie(*cookie)) {
          self->server_->OnCompletion(*cookie);
        } else if (const auto path = self->paths_.Find(*cookie)) {
          path->OnCompletion();
        }
      }
    }
  }

  static Task<void> HearEvents(std::shared_ptr<Core> self, std::shared_ptr<DescriptorWatch> watch,
                               DeviceInUse in_use) {
    while (co_await watch->Readable()) {
      bool changed = false;
      while (const auto event = in_use.device->NextEvent())
        changed = self->IsOfPort(*in_use.device, *event) || changed;
      if (!changed) continue;
      const PortState before = in_use.device->port();
      auto look = RunOn(in_use.worker, self->world_.control, [&] { in_use.device->Refresh(); });
      co_await std::move(look);
      if (self->closed_) co_return;
      if (in_use.device->port() != before) self->connector_->PortChanged(*in_use.device);
      self->DeviceChanged(*in_use.device);
    }
  }

  // Whether the port must be looked at again.
  bool IsOfPort(RdmaDevice& device, ibv_event_type event) {
    switch (event) {
      case IBV_EVENT_DEVICE_FATAL:
        MC_LOG(warn, "RDMA device {} has failed", device.name());
        device.SetUnusable("the device has failed");
        connector_->PortChanged(device);
        DeviceChanged(device);
        return false;
      case IBV_EVENT_PORT_ACTIVE:
      case IBV_EVENT_PORT_ERR:
      case IBV_EVENT_LID_CHANGE:
      case IBV_EVENT_PKEY_CHANGE:
      case IBV_EVENT_SM_CHANGE:
      case IBV_EVENT_CLIENT_REREGISTER:
      case IBV_EVENT_GID_CHANGE:
        return true;
      default:
        return false;
    }
  }

  void DeviceChanged(RdmaDevice& device) {
    const PortState port = device.port();
    MC_LOG(info, "RDMA device {}: {}", device.name(),
           port.usable ? "its port is up" : "out of use, " + port.reason);
    server_->Announce(device);
    if (port.usable) return Chance(std::nullopt);
    for (const auto& path : paths_.All()) path->BreakRailsOf(device, port.reason);
  }

  World& world_;
  const std::shared_ptr<Verbs> verbs_;  // outlives all that was made with it
  const RdmaOptions options_;
  const std::function<Introduction()> introduce_;
  const RdmaCounters counters_;
  std::vector<DeviceInUse> devices_;
  std::shared_ptr<RdmaMemory> memory_;
  std::shared_ptr<RdmaConnector> connector_;
  std::shared_ptr<RdmaServer> server_;
  std::vector<std::shared_ptr<DescriptorWatch>> completion_watches_;
  std::vector<std::shared_ptr<DescriptorWatch>> event_watches_;
  std::atomic<bool> closed_ = false;
  PathTable paths_;
  // Control loop.
  std::map<InstanceId, std::shared_ptr<RdmaLink>> links_;
  std::vector<std::shared_ptr<OneShot<bool>>> pausing_;
  Instant last_chance_{};
  std::function<void(std::optional<InstanceId>)> chance_;
};

class RdmaTransport final : public Transport {
 public:
  explicit RdmaTransport(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  ~RdmaTransport() override { core_->Close(); }

  std::string_view name() const noexcept override { return "rdma"; }
  std::string Advertise() const override { return core_->Advertise(); }
  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer,
                                           Instant deadline) override {
    const auto core = core_;
    auto open = core->Open(std::move(peer), deadline);
    co_return co_await std::move(open);
  }
  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) override {
    core_->Serve(std::move(stream), std::move(peer));
  }
  bool lands_late() const noexcept override { return true; }
  void EndTransfersOf(const InstanceId& peer) override { core_->server().EndTransfersOf(peer); }
  void Offer(const RegionInfo& region) override { core_->memory().Offer(region); }
  Task<void> Withdraw(RegionId region) override {
    const auto core = core_;
    auto withdraw = core->memory().Withdraw(region);
    co_await std::move(withdraw);
  }
  void OnChance(std::function<void(std::optional<InstanceId>)> call) override {
    core_->OnChance(std::move(call));
  }
  void OnMessage(std::function<bool(const InstanceId&, const std::string&)> call) override {
    core_->server().OnMessage(std::move(call));
  }
  void Close() noexcept override { core_->Close(); }

 private:
  const std::shared_ptr<Core> core_;
};

}  // namespace
}  // namespace mooncake::rdma

namespace mooncake {

Result<std::unique_ptr<Transport>> MakeRdmaTransport(World& world, Metrics& metrics,
                                                     std::shared_ptr<rdma::Verbs> verbs,
                                                     const std::vector<std::string>& names,
                                                     std::shared_ptr<const RegionTable> regions,
                                                     std::shared_ptr<DeviceMemory> gpus,
                                                     std::function<Introduction()> introduce,
                                                     const RdmaOptions& options) {
  std::vector<std::shared_ptr<rdma::RdmaDevice>> devices;
  std::vector<std::string> failures;
  for (const std::string& name : names) {
    Result<std::shared_ptr<rdma::RdmaDevice>> device =
        rdma::RdmaDevice::Open(*verbs, name, devices.size(), options);
    if (device) {
      devices.push_back(std::move(*device));
    } else {
      failures.push_back(device.error().Brief());
    }
  }
  if (devices.empty())
    return Fail(ErrorId::kRdmaCall, fmt::format("{}", fmt::join(failures, "; ")));
  for (const std::string& failure : failures)
    MC_LOG(warn, "an RDMA device is left out: {}", failure);
  const auto core = std::make_shared<rdma::Core>(world, metrics, std::move(verbs),
                                                 std::move(devices), std::move(regions),
                                                 std::move(gpus), std::move(introduce), options);
  if (const Status started = core->Start(); !started) {
    core->Close();
    return Fail(started.error());
  }
  return std::make_unique<rdma::RdmaTransport>(core);
}

}  // namespace mooncake
