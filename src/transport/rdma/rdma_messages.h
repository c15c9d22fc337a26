// The messages of the RDMA transport as values. What comes from a peer is data: checked here, once.
#pragma once

#include <string>
#include <vector>

#include "transport/rdma/rail_pairs.h"
#include "wire/messages.pb.h"

namespace mooncake::rdma {

/// A device of the peer as it was last told.
struct PeerDevice {
  std::string name;
  bool usable = false;
  std::string reason;  ///< Why it is not usable, in the peer's words.
  PortAddresses addresses;

  bool operator==(const PeerDevice&) const = default;
};

[[nodiscard]] pb::RdmaDevice ToProto(const RdmaDevice& device);
[[nodiscard]] pb::RdmaAddress ToProto(const GidRow& row);
[[nodiscard]] pb::RdmaEnd ToProto(const QueuePairEnd& end);
void AddTo(google::protobuf::RepeatedPtrField<pb::RdmaEnd>& proto, const RailEnds& ends);
/// kBadFrame: a length or a number that cannot be. An address without a GID (InfiniBand within a
/// subnet) is all zeros.
[[nodiscard]] Result<GidRow> FromProto(const pb::RdmaAddress& proto);
[[nodiscard]] Result<PeerDevice> FromProto(const pb::RdmaDevice& proto);
[[nodiscard]] Result<QueuePairEnd> FromProto(const pb::RdmaEnd& proto);
[[nodiscard]] Result<RailEnds> FromProto(
    const google::protobuf::RepeatedPtrField<pb::RdmaEnd>& proto);
/// What a transport says of itself. kBadFrame also for more than 64 devices.
[[nodiscard]] Result<std::vector<PeerDevice>> DecodeDevices(const std::string& advertisement);

}  // namespace mooncake::rdma
