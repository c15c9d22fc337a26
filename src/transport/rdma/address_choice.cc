#include "transport/rdma/address_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mooncake::rdma {
namespace {

constexpr std::size_t kPairsMax = 4;
constexpr std::size_t kSubnetPrefixBytes = 8;

bool SameSubnet(const Gid& a, const Gid& b) noexcept {
  return std::memcmp(a.data(), b.data(), kSubnetPrefixBytes) == 0;
}

std::string Describe(const PortAddresses& port) {
  if (port.rows.empty()) return "no address";
  std::string text;
  for (const GidRow& row : port.rows) text += (text.empty() ? "" : ", ") + ToString(row);
  return text;
}

std::vector<AddressPair> InfiniBandPairs(const PortAddresses& local, const PortAddresses& remote) {
  const GidRow here = local.rows.empty() ? GidRow{} : local.rows.front();
  const GidRow there = remote.rows.empty() ? GidRow{} : remote.rows.front();
  const bool same = local.rows.empty() || remote.rows.empty() || SameSubnet(here.gid, there.gid);
  return {{here, there, !same || remote.lid == 0}};
}

// Lower is better.
int Rank(const GidRow& row) noexcept {
  return (row.kind == GidKind::kRoceV2 ? 0 : 2) + (ToAddress(row.gid).is_v4() ? 0 : 1);
}

bool IsLinkLocal(const GidRow& row) noexcept { return ToAddress(row.gid).is_link_local(); }

bool SameKind(const GidRow& a, const GidRow& b) noexcept {
  return a.kind == b.kind && IsLinkLocal(a) == IsLinkLocal(b) &&
         ToAddress(a.gid).is_v4() == ToAddress(b.gid).is_v4();
}

}  // namespace

IpAddress ToAddress(const Gid& gid) noexcept {
  IpAddress address;
  address.bytes = gid;
  return address;
}

std::string ToString(const GidRow& row) {
  const std::string_view kind = row.kind == GidKind::kRoceV2   ? "RoCE v2"
                                : row.kind == GidKind::kRoceV1 ? "RoCE v1"
                                                               : "InfiniBand";
  return fmt::format("{} ({})", mooncake::ToString(ToAddress(row.gid)), kind);
}

std::vector<AddressPair> RankAddressPairs(const PortAddresses& local, const PortAddresses& remote,
                                          const SourceOf& source_of, std::string& why) {
  if (local.infiniband != remote.infiniband) {
    why = fmt::format("one is {}, the other {}", local.infiniband ? "InfiniBand" : "Ethernet",
                      remote.infiniband ? "InfiniBand" : "Ethernet");
    return {};
  }
  if (local.infiniband) return InfiniBandPairs(local, remote);
  std::vector<GidRow> theirs = remote.rows;
  std::stable_sort(theirs.begin(), theirs.end(),
                   [](const GidRow& a, const GidRow& b) { return Rank(a) < Rank(b); });
  std::vector<AddressPair> pairs;
  std::vector<AddressPair> link_local;  // of every interface; only the proof tells them apart
  bool could_be_routed = false;
  for (const GidRow& there : theirs) {
    for (const GidRow& here : local.rows) {
      if (!SameKind(here, there)) continue;
      if (IsLinkLocal(here)) {
        link_local.push_back({here, there, true});
        continue;
      }
      Result<IpAddress> source = source_of(ToAddress(there.gid), here.netdev);
      could_be_routed = could_be_routed || source || source.error().os_error != ENODEV;
      if (source) source->scope = 0;
      if (source && *source == ToAddress(here.gid)) pairs.push_back({here, there, true});
    }
  }
  // Where others have no route just now, the network is not up: link-local ones fail there too, but
  // the kernel looks for the neighbour for a second first.
  if (!could_be_routed) pairs = std::move(link_local);
  if (pairs.size() > kPairsMax) pairs.resize(kPairsMax);
  if (pairs.empty())
    why = fmt::format("no route between {} here and {} there", Describe(local), Describe(remote));
  return pairs;
}

}  // namespace mooncake::rdma
