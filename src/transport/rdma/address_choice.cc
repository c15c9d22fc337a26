#include "transport/rdma/address_choice.h"

#include <fmt/format.h>

#include <algorithm>
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
  const IpAddress address = ToAddress(row.gid);
  return (address.is_link_local() ? 4 : 0) + (row.kind == GidKind::kRoceV2 ? 0 : 2) +
         (address.is_v4() ? 0 : 1);
}

// The row that packets to `there` start from on the interface of `candidate`, if it is that one.
bool StartsFrom(const GidRow& candidate, const GidRow& there, const SourceOf& source_of) {
  const IpAddress to = ToAddress(there.gid);
  const IpAddress own = ToAddress(candidate.gid);
  if (candidate.kind != there.kind || own.is_v4() != to.is_v4()) return false;
  // Every interface has such a network, and no route tells them apart: only the proof will.
  if (to.is_link_local() || own.is_link_local()) return to.is_link_local() && own.is_link_local();
  Result<IpAddress> source = source_of(to, candidate.netdev);
  if (source) source->scope = 0;
  return source && *source == own;
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
  for (const GidRow& there : theirs) {
    for (const GidRow& here : local.rows) {
      if (pairs.size() < kPairsMax && StartsFrom(here, there, source_of))
        pairs.push_back({here, there, true});
    }
  }
  if (pairs.empty())
    why = fmt::format("no route between {} here and {} there", Describe(local), Describe(remote));
  return pairs;
}

}  // namespace mooncake::rdma
