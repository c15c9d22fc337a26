#include "transport/rdma/rdma_link.h"

#include <fmt/format.h>

namespace mooncake::rdma {

Task<Result<std::shared_ptr<RdmaLink>>> RdmaLink::Open(World& world, Introduction introduction,
                                                       std::shared_ptr<const PeerInfo> peer,
                                                       Instant deadline) {
  auto dial = Dial(world, world.control, peer->endpoint, std::move(introduction), "rdma", peer->id,
                   deadline);
  Result<Handshake> handshake = co_await std::move(dial);
  if (!handshake) co_return Fail(handshake.error());
  Result<std::vector<PeerDevice>> devices = DecodeDevices(handshake->transports["rdma"]);
  if (!devices) co_return Fail(devices.error());
  const std::shared_ptr<RdmaLink> link(new RdmaLink(std::move(*devices)));
  link->router_.Add(
      Method::kRdmaDevice,
      [weak = link->weak_from_this()](RpcCall&, Frame request) -> Task<Result<Reply>> {
        const auto self = weak.lock();
        if (!self) co_return Fail(ErrorId::kClosed, "the path ends");
        const Result<Learnt> learnt = self->Learn(request.body);
        if (!learnt) co_return Fail(learnt.error());
        if (self->on_device_) self->on_device_(learnt->device, learnt->is_new);
        co_return MakeReply(pb::Empty());
      });
  link->router_.Add(Method::kRdmaPark,
                    [weak = link->weak_from_this()](RpcCall&, Frame) -> Task<Result<Reply>> {
                      const auto self = weak.lock();
                      if (!self || !self->on_park_ || !self->on_park_())
                        co_return Fail(ErrorId::kPeerBusy, "its rails are in use");
                      co_return MakeReply(pb::Empty());
                    });
  link->connection_ = std::make_shared<RpcConnection>(world, world.control, std::move(*handshake),
                                                      link->router_, RpcLimits{});
  // The connection looks into the router as long as it is open.
  link->connection_->OnClose([link](const Error&) {});
  link->connection_->Start();
  co_return link;
}

// Which device the peer speaks of.
Result<RdmaLink::Learnt> RdmaLink::Learn(const std::string& body) {
  pb::RdmaDevice proto;
  if (!Parse(body, proto)) return Fail(ErrorId::kBadFrame, "RdmaDevice");
  MC_TRY(PeerDevice device, FromProto(proto));
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i].name != device.name) continue;
    const bool is_new = devices_[i] != device;
    devices_[i] = std::move(device);
    return Learnt{i, is_new};
  }
  return Fail(ErrorId::kBadFrame, "RDMA: a device that was not there before");
}

Task<Status> RdmaLink::Look(std::size_t device, Instant deadline) {
  const auto self = shared_from_this();
  pb::RdmaDevice request;
  request.set_name(devices_[device].name);
  const std::shared_ptr<RpcConnection> connection = connection_;
  auto call = connection->Call(Method::kRdmaDevice, request.SerializeAsString(), deadline);
  const Result<Reply> reply = co_await std::move(call);
  if (!reply) co_return Fail(reply.error());
  const Result<Learnt> learnt = Learn(reply->body);
  if (!learnt) co_return Fail(learnt.error());
  co_return Status{};
}

Task<Result<RdmaLink::Answer>> RdmaLink::Connect(std::uint64_t rail, std::string device,
                                                 RailEnds here, AddressPair addresses,
                                                 Instant deadline) {
  pb::RdmaConnectRequest request;
  request.set_rail(rail);
  request.set_device(std::move(device));
  AddTo(*request.mutable_caller(), here);
  *request.mutable_caller_address() = ToProto(addresses.local);
  *request.mutable_callee_address() = ToProto(addresses.remote);
  const std::shared_ptr<RpcConnection> connection = connection_;
  auto call = connection->Call(Method::kRdmaConnect, request.SerializeAsString(), deadline);
  const Result<Reply> reply = co_await std::move(call);
  if (!reply) co_return Fail(reply.error());
  pb::RdmaConnectReply body;
  if (!Parse(reply->body, body)) co_return Fail(ErrorId::kBadFrame, "RdmaConnectReply");
  const Result<RailEnds> there = FromProto(body.callee());
  if (!there) co_return Fail(there.error());
  co_return Answer{*there, body.page_address(), body.page_key()};
}

Task<Status> RdmaLink::Disconnect(std::uint64_t rail, Instant deadline) {
  pb::RdmaDisconnectRequest request;
  request.add_rails(rail);
  const std::shared_ptr<RpcConnection> connection = connection_;
  auto call = connection->Call(Method::kRdmaDisconnect, request.SerializeAsString(), deadline);
  const Result<Reply> reply = co_await std::move(call);
  if (!reply) co_return Fail(reply.error());
  co_return Status{};
}

Task<Result<RemoteRegionPtr>> RdmaLink::FetchKeys(RegionInfo region, Instant deadline) {
  const auto self = shared_from_this();
  pb::RdmaKeysRequest request;
  pb::RdmaKeysRequest::Region* const asked = request.add_regions();
  asked->set_id(static_cast<std::uint64_t>(region.id));
  asked->set_key(static_cast<std::uint64_t>(region.key));
  request.set_access(static_cast<std::uint32_t>(region.access));
  const std::shared_ptr<RpcConnection> connection = connection_;
  auto call = connection->Call(Method::kRdmaKeys, request.SerializeAsString(), deadline);
  const Result<Reply> reply = co_await std::move(call);
  if (!reply) co_return Fail(reply.error());
  pb::RdmaKeysReply body;
  if (!Parse(reply->body, body) || body.regions_size() != 1)
    co_return Fail(ErrorId::kBadFrame, "RdmaKeysReply");
  const pb::RdmaKeysReply::Region& answered = body.regions(0);
  auto remote = std::make_shared<RemoteRegion>();
  remote->base = answered.base();
  remote->length_bytes = region.length_bytes;
  remote->chunk_bytes = answered.chunk_bytes();
  remote->keys.resize(devices_.size());
  if (remote->chunk_bytes == 0) co_return Fail(ErrorId::kBadFrame, "chunks of no bytes");
  const std::uint64_t chunks = (region.length_bytes - 1) / remote->chunk_bytes + 1;
  for (const pb::RdmaKeysReply::Keys& keys : answered.devices()) {
    if (static_cast<std::uint64_t>(keys.keys_size()) != chunks)
      co_return Fail(ErrorId::kBadFrame, "a number of keys that does not fit the region");
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      if (devices_[i].name == keys.device())
        remote->keys[i].assign(keys.keys().begin(), keys.keys().end());
    }
  }
  co_return remote;
}

void RdmaLink::Close() {
  on_device_ = nullptr;
  on_park_ = nullptr;
  if (connection_) connection_->Close(Error{ErrorId::kClosed, "the path ends"});
}

}  // namespace mooncake::rdma
