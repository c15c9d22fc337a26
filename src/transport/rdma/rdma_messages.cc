#include "transport/rdma/rdma_messages.h"

#include <fmt/format.h>

#include <algorithm>

namespace mooncake::rdma {
namespace {

constexpr std::uint32_t kNumberMax = (1U << 24) - 1;
constexpr std::uint32_t kMtuMin = 256;
constexpr std::uint32_t kMtuMax = 4096;
constexpr std::uint32_t kReadsMaxSaid = 255;
constexpr int kDevicesMax = 64;
constexpr int kAddressesMax = 256;

tl::unexpected<Error> Bad(std::string_view what) {
  return Fail(ErrorId::kBadFrame, fmt::format("RDMA: {}", what));
}

}  // namespace

pb::RdmaAddress ToProto(const GidRow& row) {
  pb::RdmaAddress proto;
  proto.set_gid(std::string(reinterpret_cast<const char*>(row.gid.data()), row.gid.size()));
  proto.set_kind(static_cast<std::uint32_t>(row.kind));
  return proto;
}

pb::RdmaDevice ToProto(const RdmaDevice& device) {
  const PortState port = device.port();
  pb::RdmaDevice proto;
  proto.set_name(device.name());
  proto.set_usable(port.usable);
  proto.set_reason(port.reason);
  proto.set_infiniband(port.addresses.infiniband);
  proto.set_lid(port.addresses.lid);
  for (const GidRow& row : port.addresses.rows) *proto.add_addresses() = ToProto(row);
  return proto;
}

pb::RdmaEnd ToProto(const QueuePairEnd& end) {
  pb::RdmaEnd proto;
  proto.set_queue_pair(end.number);
  proto.set_packet(end.packet);
  proto.set_mtu_bytes(end.mtu_bytes);
  proto.set_reads(end.reads);
  proto.set_lid(end.lid);
  return proto;
}

void AddTo(google::protobuf::RepeatedPtrField<pb::RdmaEnd>& proto, const RailEnds& ends) {
  for (const QueuePairEnd& end : ends) *proto.Add() = ToProto(end);
}

Result<GidRow> FromProto(const pb::RdmaAddress& proto) {
  GidRow row;
  if (proto.gid().size() != row.gid.size()) return Bad("a GID has 16 bytes");
  if (proto.kind() < 1 || proto.kind() > 3) return Bad("an unknown kind of address");
  std::copy(proto.gid().begin(), proto.gid().end(), row.gid.begin());
  row.kind = static_cast<GidKind>(proto.kind());
  return row;
}

Result<PeerDevice> FromProto(const pb::RdmaDevice& proto) {
  if (proto.lid() > UINT16_MAX) return Bad("a LID has 16 bits");
  if (proto.addresses_size() > kAddressesMax) return Bad("too many addresses");
  PeerDevice device{proto.name(),
                    proto.usable(),
                    proto.reason(),
                    {proto.infiniband(), static_cast<std::uint16_t>(proto.lid()), {}}};
  for (const pb::RdmaAddress& address : proto.addresses()) {
    MC_TRY(GidRow row, FromProto(address));
    device.addresses.rows.push_back(std::move(row));
  }
  return device;
}

Result<QueuePairEnd> FromProto(const pb::RdmaEnd& proto) {
  if (proto.queue_pair() > kNumberMax || proto.packet() > kNumberMax)
    return Bad("numbers of queue pairs and packets have 24 bits");
  if (proto.mtu_bytes() < kMtuMin || proto.mtu_bytes() > kMtuMax)
    return Bad("an MTU is 256 to 4096 bytes");
  if (proto.reads() > kReadsMaxSaid || proto.lid() > UINT16_MAX) return Bad("a limit out of range");
  return QueuePairEnd{proto.queue_pair(), proto.packet(), proto.mtu_bytes(), proto.reads(),
                      static_cast<std::uint16_t>(proto.lid())};
}

Result<RailEnds> FromProto(const google::protobuf::RepeatedPtrField<pb::RdmaEnd>& proto) {
  RailEnds ends;
  if (static_cast<std::size_t>(proto.size()) != ends.size())
    return Bad("a rail has three queue pairs");
  for (std::size_t i = 0; i < ends.size(); ++i) {
    MC_TRY(ends[i], FromProto(proto[static_cast<int>(i)]));
  }
  return ends;
}

Result<std::vector<PeerDevice>> DecodeDevices(const std::string& advertisement) {
  pb::RdmaDevices proto;
  if (!proto.ParseFromString(advertisement)) return Bad("a list of devices that cannot be read");
  if (proto.devices_size() > kDevicesMax) return Bad("too many devices");
  std::vector<PeerDevice> devices;
  for (const pb::RdmaDevice& device : proto.devices()) {
    MC_TRY(PeerDevice one, FromProto(device));
    devices.push_back(std::move(one));
  }
  return devices;
}

}  // namespace mooncake::rdma
