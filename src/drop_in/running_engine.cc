#include "drop_in/running_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/await.h"
#include "base/log.h"
#include "transports/transports.h"

namespace mooncake::drop_in {
namespace {

constexpr std::string_view kP2p = "P2PHANDSHAKE";
constexpr Duration kPublishTimeout = std::chrono::seconds(10);
constexpr Duration kWithdrawTimeout = std::chrono::seconds(2);
constexpr Duration kProbeTimeout = std::chrono::seconds(3);

// The kernels differ between machines, not between engines: measured once.
const CopyEngine& MeasuredCopy(Clock& clock) {
  static const CopyEngine copy = CopyEngine::Measure(clock);
  return copy;
}

}  // namespace

RunningEngine::RunningEngine()
    : settings_(ReadSettings(ReadEnvironment)),
      real_(std::make_unique<RealWorld>()),
      copy_(MeasuredCopy(real_->world().clock)),
      managed_({[this](std::uint64_t length_bytes) {
                  return engine_->Allocate("managed", length_bytes);
                },
                [this](RegionId id) { return engine_->Unregister(id); }}) {}

Result<std::unique_ptr<RunningEngine>> RunningEngine::Open(std::string_view local_hostname,
                                                           std::string_view metadata_server,
                                                           std::string_view metadata_type,
                                                           std::string_view protocol,
                                                           std::string_view devices) {
  std::unique_ptr<RunningEngine> running(new RunningEngine);
  if (!running->settings_.log_level.empty()) SetLogLevel(running->settings_.log_level);
  MC_TRY_STATUS(running->Start(local_hostname, DirectoryAddress(metadata_server, metadata_type),
                               protocol, devices));
  return running;
}

Instant RunningEngine::ProbeDeadline() const { return After(world().clock.Now(), kProbeTimeout); }

// A literal address of this host is where peers will come, so nothing listens wider.
Result<Endpoint> RunningEngine::PlaceToListen(const HostPort& wanted, bool p2p) {
  Endpoint at{IpAddress::AnyV6(), 0};
  if (!p2p && settings_.legacy_port_binding) at.port = wanted.port;
  if (!settings_.bind_address.empty()) {
    MC_TRY(at.address, ParseIpAddress(settings_.bind_address));
    return at;
  }
  Result<IpAddress> literal = ParseIpAddress(wanted.host);
  if (wanted.host == "localhost") literal = IpAddress::LoopbackV4();
  if (!literal) return at;
  const std::vector<IpAddress> ours = world().network.LocalAddresses();
  if (literal->is_loopback() || std::find(ours.begin(), ours.end(), *literal) != ours.end())
    at.address = *literal;
  return at;
}

Status RunningEngine::Start(std::string_view local_hostname, const std::string& directory,
                            std::string_view protocol, std::string_view devices) {
  const bool p2p = directory == kP2p;
  HostPort wanted;
  if (!local_hostname.empty()) {
    Result<HostPort> parsed = ParseHostPort(local_hostname);
    if (!parsed && p2p) return Fail(Within("local_hostname", parsed.error()));
    if (parsed) wanted = *parsed;
  }
  DirectoryAccess access;
  access.redis_password = settings_.redis_password;
  MC_TRY(directory_, OpenDirectory(world(), directory, EngineOptions{}.cluster, access));
  MC_TRY(const Endpoint at, PlaceToListen(wanted, p2p));
  MC_TRY(std::shared_ptr<Listener> listener, world().network.Listen(world().control, at));
  bound_ = listener->bound();
  const std::vector<Endpoint> reachable = ReachableAt(world().network, bound_);
  address_ = wanted.host.empty() ? ToString(reachable.front())
                                 : ToString(HostPort{wanted.host, bound_.port});
  name_ = p2p || local_hostname.empty() ? address_ : std::string(local_hostname);

  Identity identity = DrawIdentity(world(), name_);
  EngineOptions options;
  if (settings_.force_tcp) options.transports = {"tcp"};
  port_ = std::make_shared<PortServer>(world(), metrics_, PortServerOptions{});
  engine_ = std::make_unique<Engine>(world(), metrics_, port_, *directory_, identity, options);
  TransportChoice choice{.protocol = std::string(protocol),
                         .device_name = std::string(devices),
                         .transports = options.transports,
                         .discover = settings_.discover_devices};
  if (settings_.force_hca && !settings_.force_tcp) choice.protocol = "rdma";
  if (choice.device_name.empty()) choice.device_name = settings_.device_filter;
  MC_TRY(TransportPlan plan, PlanTransports(choice));
  MakeTransports(std::move(plan))(world(), metrics_, *engine_, copy_);
  Record record{std::move(identity), options.cluster, reachable, {}, world().clock.WallNow()};
  const auto begin = [](RunningEngine& me, std::shared_ptr<Listener> open,
                        Record own) -> Task<Status> {
    me.engine_->Start();
    me.port_->Serve(std::move(open));
    me.published_ = true;
    auto publish =
        me.directory_->Publish(std::move(own), After(me.world().clock.Now(), kPublishTimeout));
    co_return co_await std::move(publish);
  };
  return Await(world().control, begin(*this, std::move(listener), std::move(record)));
}

RunningEngine::~RunningEngine() {
  if (engine_ && port_) {
    const auto end = [](RunningEngine& me) -> Task<void> {
      if (me.published_) {
        auto withdraw = me.directory_->Withdraw(After(me.world().clock.Now(), kWithdrawTimeout));
        co_await std::move(withdraw);
      }
      const Error cause{ErrorId::kClosed, "the engine ends"};
      me.port_->Close(cause);
      auto close = me.engine_->CloseAsync();
      co_await std::move(close);
    };
    Await(world().control, end(*this));
  }
  segments_.clear();
  engine_ = nullptr;
  real_->Stop();
}

std::optional<Segment> RunningEngine::Known(const std::string& name) {
  Segment segment;
  {
    const std::shared_lock lock(segments_mutex_);
    const auto found = segments_.find(name);
    if (found == segments_.end() || !found->second.peer->is_connected()) return std::nullopt;
    segment = found->second;
  }
  if (segment.version == segment.peer->regions_version()) return segment;
  return Remember(name, std::move(segment.peer));
}

Result<Segment> RunningEngine::Find(const std::string& name, Instant deadline) {
  if (std::optional<Segment> known = Known(name)) return *std::move(known);
  std::shared_ptr<std::mutex> meeting;
  {
    const std::lock_guard lock(segments_mutex_);
    std::shared_ptr<std::mutex>& entry = meetings_[name];
    if (!entry) entry = std::make_shared<std::mutex>();
    meeting = entry;
  }
  Result<Segment> met = [&] {
    const std::lock_guard turn(*meeting);
    return Meet(name, deadline);
  }();
  const std::lock_guard lock(segments_mutex_);
  if (meeting.use_count() == 2) meetings_.erase(name);  // ours and the map's: nobody else waits
  return met;
}

Result<Segment> RunningEngine::Meet(const std::string& name, Instant deadline) {
  if (std::optional<Segment> known = Known(name)) return *std::move(known);
  MC_TRY(PeerPtr peer, engine_->ConnectNow(name, deadline));
  if (const Status listed = Await(world().control, peer->Refresh(deadline)); !listed)
    return Fail(listed.error());
  return Remember(name, std::move(peer));
}

Result<Segment> RunningEngine::Refresh(const std::string& name, Instant deadline) {
  MC_TRY(Segment segment, Find(name, deadline));
  Status listed = Await(world().control, segment.peer->Refresh(deadline));
  if (!listed && listed.error().code() == Errc::kPeerGone) {
    Forget(name, segment.peer);
    return Find(name, deadline);  // a successor, which has been asked just now
  }
  if (!listed) return Fail(listed.error());
  return Remember(name, std::move(segment.peer));
}

Segment RunningEngine::Remember(const std::string& name, PeerPtr peer) {
  // The version first: what changes meanwhile is looked at again.
  const std::uint64_t version = peer->regions_version();
  Segment segment{peer, std::make_shared<const AddressIndex>(peer->ListedRegions()), version};
  const std::lock_guard lock(segments_mutex_);
  segments_[name] = segment;
  return segment;
}

void RunningEngine::Forget(const std::string& name, const PeerPtr& peer) {
  const std::lock_guard lock(segments_mutex_);
  const auto found = segments_.find(name);
  if (found != segments_.end() && found->second.peer == peer) segments_.erase(found);
}

Status RunningEngine::Notify(const PeerPtr& peer, const TransferNotify& notify, Instant deadline) {
  return Await(world().control, engine_->Notify(peer, notify.name, notify.message, deadline));
}

}  // namespace mooncake::drop_in
