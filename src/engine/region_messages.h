// Regions as they travel.
#pragma once

#include "memory/region_table.h"
#include "wire/messages.pb.h"

namespace mooncake {

[[nodiscard]] inline pb::Region ToProto(const RegionInfo& region) {
  pb::Region proto;
  proto.set_id(static_cast<std::uint64_t>(region.id));
  proto.set_key(static_cast<std::uint64_t>(region.key));
  proto.set_base(region.base);
  proto.set_length_bytes(region.length_bytes);
  proto.set_location(region.location);
  proto.set_access(static_cast<std::uint32_t>(region.access));
  proto.set_mappable(region.mappable);
  return proto;
}

/// A peer's description: any values are possible.
[[nodiscard]] inline RegionInfo FromProto(const pb::Region& proto) {
  RegionInfo region;
  region.id = RegionId{proto.id()};
  region.key = RegionKey{proto.key()};
  region.base = proto.base();
  region.length_bytes = proto.length_bytes();
  region.location = proto.location();
  region.access = static_cast<Access>(proto.access() & 3U);
  region.mappable = proto.mappable();
  return region;
}

}  // namespace mooncake
