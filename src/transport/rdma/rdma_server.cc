#include "transport/rdma/rdma_server.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace mooncake::rdma {
namespace {

constexpr std::size_t kRailsPerPeerMax = 256;
constexpr Duration kAnnounceTimeout = std::chrono::seconds(3);
constexpr Duration kParkTimeout = std::chrono::milliseconds(500);
constexpr std::size_t kAskedForRoomMax = 8;

}  // namespace

Task<void> RunOn(std::shared_ptr<Worker> worker, Executor executor, std::function<void()> work) {
  const auto end = std::make_shared<OneShot<bool>>();
  worker->Add([executor, end, work = std::move(work)] {
    work();
    Post(executor, [end] { end->Set(true); });
  });
  co_await end->Get();
}

RdmaServer::RdmaServer(World& world, std::vector<DeviceInUse> devices,
                       std::shared_ptr<RdmaMemory> memory,
                       std::shared_ptr<const RegionTable> regions)
    : world_(world),
      devices_(std::move(devices)),
      memory_(std::move(memory)),
      regions_(std::move(regions)) {}

void RdmaServer::Start(std::function<bool(const RdmaDevice&)> make_room) {
  make_room_ = std::move(make_room);
  const auto serve = [weak = weak_from_this()](auto handler) {
    return [weak, handler](RpcCall& call, Frame request) -> Task<Result<Reply>> {
      const auto self = weak.lock();
      const ServedPtr served = self ? self->FindServed(call) : nullptr;
      if (!served) co_return Fail(ErrorId::kClosed, "the transport stops");
      auto answer = handler(*self, served, std::move(request), call.deadline());
      co_return co_await std::move(answer);
    };
  };
  router_.Add(Method::kRdmaConnect,
              serve([](RdmaServer& me, ServedPtr served, Frame request, Instant) {
                return me.Connect(std::move(served), std::move(request));
              }));
  router_.Add(Method::kRdmaDisconnect,
              serve([](RdmaServer& me, ServedPtr served, Frame request, Instant) {
                return me.Disconnect(std::move(served), std::move(request));
              }));
  router_.Add(Method::kRdmaDevice, serve([](RdmaServer& me, ServedPtr, Frame request, Instant) {
                return me.Look(std::move(request));
              }));
  router_.Add(Method::kRdmaKeys, serve([](RdmaServer& me, ServedPtr, Frame request, Instant limit) {
                return me.Keys(std::move(request), limit);
              }));
}

void RdmaServer::Serve(const std::shared_ptr<Stream>& stream, const PeerInfo& peer) {
  if (closed_) return stream->Close();
  Handshake handshake;
  handshake.reader = std::make_unique<BufferedReader>(stream);
  handshake.peer.id = peer.id;
  handshake.peer.label = peer.label;
  handshake.peer.host = peer.host;
  const auto served = std::make_shared<Served>();
  served->peer = peer.id;
  served->connection = std::make_shared<RpcConnection>(world_, world_.control, std::move(handshake),
                                                       router_, RpcLimits{});
  {
    const std::lock_guard lock(mutex_);
    served->number = ++last_served_ & INT32_MAX;
    served_.push_back(served);
  }
  served->connection->OnClose([self = shared_from_this(), served](const Error&) {
    {
      const std::lock_guard lock(served->mutex);
      served->ended = true;
    }
    EndRails(*served);
    const std::lock_guard lock(self->mutex_);
    std::erase(self->served_, served);
  });
  served->connection->Start();
}

RdmaServer::ServedPtr RdmaServer::FindServed(const RpcCall& call) const {
  const std::lock_guard lock(mutex_);
  for (const ServedPtr& served : served_) {
    if (served->connection == call.connection()) return served;
  }
  return nullptr;
}

const DeviceInUse* RdmaServer::FindDevice(const std::string& name) const {
  for (const DeviceInUse& in_use : devices_) {
    if (in_use.device->name() == name) return &in_use;
  }
  return nullptr;
}

Task<Result<Reply>> RdmaServer::Connect(ServedPtr served, Frame request) {
  const auto self = shared_from_this();
  pb::RdmaConnectRequest body;
  if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "RdmaConnectRequest");
  const DeviceInUse* const in_use = FindDevice(body.device());
  if (in_use == nullptr)
    co_return Fail(ErrorId::kPathUnusable,
                   fmt::format("there is no device {} here", body.device()));
  const Result<RailEnds> there = FromProto(body.caller());
  const Result<GidRow> theirs = FromProto(body.caller_address());
  const Result<GidRow> ours = FromProto(body.callee_address());
  if (!there) co_return Fail(there.error());
  if (!theirs) co_return Fail(theirs.error());
  if (!ours) co_return Fail(ours.error());
  const PortState port = in_use->device->port();
  if (!port.usable) co_return Fail(ErrorId::kPathFailed, port.reason);
  AddressPair addresses{*ours, *theirs, !port.addresses.infiniband || there->front().lid == 0};
  const auto row = std::find_if(
      port.addresses.rows.begin(), port.addresses.rows.end(),
      [&ours](const GidRow& one) { return one.gid == ours->gid && one.kind == ours->kind; });
  if (row == port.addresses.rows.end() && addresses.routed)
    co_return Fail(ErrorId::kPathUnusable,
                   fmt::format("{} is no address of {} any more", ToString(*ours), body.device()));
  if (row != port.addresses.rows.end()) addresses.local = *row;
  Result<pb::RdmaConnectReply> reply = Fail(ErrorId::kInternal, {});
  {
    const std::lock_guard lock(served->mutex);
    if (served->rails.contains(body.rail()) || !served->wanted.insert(body.rail()).second)
      co_return Fail(ErrorId::kPeerBusy, "one rail twice");
  }
  for (const bool again : {true, false}) {
    auto connect = RunOn(in_use->connecting, world_.control, [&] {
      reply = ConnectNow(*in_use, *served, body.rail(), *there, addresses);
    });
    co_await std::move(connect);
    const bool full = !reply && reply.error().id == ErrorId::kQueuePairBudget;
    if (!full || !again) break;
    auto make_room = MakeRoom(*in_use->device, served);
    if (!co_await std::move(make_room)) break;
  }
  {
    const std::lock_guard lock(served->mutex);
    served->wanted.erase(body.rail());
  }
  if (!reply) co_return Fail(reply.error());
  co_return MakeReply(*reply);
}

// What this process has connected and does not use; else, what its callers have, those that came
// first before the others.
Task<bool> RdmaServer::MakeRoom(const RdmaDevice& device, ServedPtr for_whom) {
  const auto self = shared_from_this();
  if (make_room_(device)) co_return true;
  std::vector<ServedPtr> others;
  {
    const std::lock_guard lock(mutex_);
    others = served_;
  }
  std::size_t asked = 0;
  for (const ServedPtr& other : others) {
    {
      const std::lock_guard lock(other->mutex);
      if (other == for_whom || other->rails.empty()) continue;
    }
    if (asked++ == kAskedForRoomMax) break;
    auto ask =
        other->connection->Call(Method::kRdmaPark, {}, After(world_.clock.Now(), kParkTimeout));
    if (!co_await std::move(ask)) continue;
    EndRails(*other);
    co_return true;
  }
  co_return false;
}

Result<pb::RdmaConnectReply> RdmaServer::ConnectNow(const DeviceInUse& in_use, Served& served,
                                                    std::uint64_t rail, const RailEnds& there,
                                                    const AddressPair& addresses) {
  std::uint64_t cookie = kCookieBit | std::uint64_t{served.number} << kServedShift;
  {
    const std::lock_guard lock(served.mutex);
    cookie |= ++served.last_cookie;
  }
  MC_TRY(ServedRail made, ServedRail::Make(in_use.device, cookie));
  const RailEnds here = made.pairs().Describe(world_.random);
  MC_TRY_STATUS(made.Connect(here, there, addresses));
  pb::RdmaConnectReply reply;
  AddTo(*reply.mutable_callee(), here);
  reply.set_page_address(reinterpret_cast<std::uint64_t>(made.page().bytes.get()));
  reply.set_page_key(made.page().region->rkey);
  const std::lock_guard lock(served.mutex);
  if (served.ended) return Fail(ErrorId::kClosed, "the connection has ended");
  if (!served.wanted.contains(rail))
    return Fail(ErrorId::kCancelled, "the peer has given this rail up");
  if (served.rails.size() >= kRailsPerPeerMax)
    return Fail(ErrorId::kPeerBusy, "too many rails of one peer");
  served.rails.emplace(rail, std::move(made));
  return reply;
}

void RdmaServer::OnCompletion(std::uint64_t cookie) {
  ServedPtr served;
  {
    const std::lock_guard lock(mutex_);
    for (const ServedPtr& one : served_) {
      if (one->number == (cookie & ~kCookieBit) >> kServedShift) served = one;
    }
  }
  if (!served) return;
  std::vector<ServedRail::Message> messages;
  std::unique_lock lock(served->mutex);
  auto rail = std::find_if(served->rails.begin(), served->rails.end(),
                           [cookie](const auto& one) { return one.second.cookie() == cookie; });
  if (rail == served->rails.end()) return;
  const std::uint64_t number = rail->first;
  bool is_whole = rail->second.Receive(messages);
  for (const ServedRail::Message& message : messages) {
    lock.unlock();
    const bool taken = on_message_ && on_message_(served->peer, message.bytes);
    lock.lock();
    rail = served->rails.find(number);
    if (rail == served->rails.end()) return;
    is_whole = rail->second.Answer({message.slot, taken}) && is_whole;
  }
  if (is_whole) return;
  // Its caller finds out by what it sends next, or because no answer comes.
  devices_[rail->second.device()->rank()].worker->Add([served, number] {
    const std::lock_guard held(served->mutex);
    served->rails.erase(number);
  });
}

Task<Result<Reply>> RdmaServer::Disconnect(ServedPtr served, Frame request) {
  const auto self = shared_from_this();
  pb::RdmaDisconnectRequest body;
  if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "RdmaDisconnectRequest");
  for (const std::uint64_t number : body.rails()) {
    std::optional<ServedRail> ended;
    {
      const std::lock_guard lock(served->mutex);
      served->wanted.erase(number);
      const auto found = served->rails.find(number);
      if (found == served->rails.end()) continue;
      ended.emplace(std::move(found->second));
      served->rails.erase(found);
    }
    const std::shared_ptr<RdmaDevice> device = ended->device();
    auto end = RunOn(devices_[device->rank()].worker, world_.control, [&ended] { ended.reset(); });
    co_await std::move(end);
  }
  co_return MakeReply(pb::Empty());
}

Task<Result<Reply>> RdmaServer::Look(Frame request) {
  const auto self = shared_from_this();
  pb::RdmaDevice body;
  if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "RdmaDevice");
  const DeviceInUse* const in_use = FindDevice(body.name());
  if (in_use == nullptr)
    co_return Fail(ErrorId::kPathUnusable, fmt::format("there is no device {} here", body.name()));
  auto look = RunOn(in_use->worker, world_.control, [in_use] { in_use->device->Refresh(); });
  co_await std::move(look);
  co_return MakeReply(ToProto(*in_use->device));
}

Task<Result<Reply>> RdmaServer::Keys(Frame request, Instant deadline) {
  const auto self = shared_from_this();
  pb::RdmaKeysRequest body;
  if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "RdmaKeysRequest");
  if (body.access() < 1 || body.access() > 3) co_return Fail(ErrorId::kBadFrame, "access");
  pb::RdmaKeysReply reply;
  for (const pb::RdmaKeysRequest::Region& asked : body.regions()) {
    const RegionId id{asked.id()};
    {
      const Result<PinnedRange> shown = regions_->Pin(
          id, RegionKey{asked.key()}, static_cast<Access>(body.access()), Reach::kAny);
      if (!shown) co_return Fail(shown.error());
    }
    pb::RdmaKeysReply::Region& answer = *reply.add_regions();
    answer.set_id(asked.id());
    answer.set_chunk_bytes(1);
    const RegisteredRegionPtr region = memory_->Find(id);
    if (!region) continue;
    auto settled = memory_->Settled(region, deadline);
    if (!co_await std::move(settled))
      co_return Fail(ErrorId::kDeadline, "the region is still being registered for RDMA");
    answer.set_base(region->info.base);
    answer.set_chunk_bytes(region->chunk_bytes);
    for (const DeviceInUse& in_use : devices_) {
      const std::size_t rank = in_use.device->rank();
      if (!region->IsReadyOn(rank)) continue;
      pb::RdmaKeysReply::Keys& keys = *answer.add_devices();
      keys.set_device(in_use.device->name());
      for (const auto& chunk : region->on[rank].chunks) keys.add_keys(chunk.remote_key);
    }
  }
  co_return MakeReply(reply);
}

// Under the mutex: whoever asks next finds nothing alive.
void RdmaServer::EndRails(Served& served) {
  const std::lock_guard lock(served.mutex);
  served.rails.clear();
}

void RdmaServer::EndTransfersOf(const InstanceId& peer) {
  const std::lock_guard lock(mutex_);
  for (const ServedPtr& served : served_) {
    if (served->peer == peer) EndRails(*served);
  }
}

void RdmaServer::Announce(const RdmaDevice& device) {
  const std::string body = ToProto(device).SerializeAsString();
  std::vector<std::shared_ptr<RpcConnection>> connections;
  {
    const std::lock_guard lock(mutex_);
    for (const ServedPtr& served : served_) connections.push_back(served->connection);
  }
  for (const auto& connection : connections) {
    Spawn(world_.control,
          [](std::shared_ptr<RpcConnection> to, std::string text, Instant limit) -> Task<void> {
            auto tell = to->Call(Method::kRdmaDevice, std::move(text), limit);
            static_cast<void>(co_await std::move(tell));
          }(connection, body, After(world_.clock.Now(), kAnnounceTimeout)));
  }
}

void RdmaServer::Close() {
  closed_ = true;
  std::vector<ServedPtr> all;
  {
    const std::lock_guard lock(mutex_);
    all = served_;
  }
  for (const ServedPtr& served : all)
    served->connection->Close(Error{ErrorId::kClosed, "the transport stops"});
}

}  // namespace mooncake::rdma
