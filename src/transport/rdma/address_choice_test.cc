#include "transport/rdma/address_choice.h"

#include <gtest/gtest.h>

#include "base/test_support.h"

namespace mooncake::rdma {
namespace {

GidRow Row(std::uint8_t index, const std::string& address, GidKind kind,
           const std::string& netdev = {}) {
  const Result<IpAddress> parsed = ParseIpAddress(address);
  EXPECT_TRUE(Succeeds(parsed)) << address;
  return {index, parsed->bytes, kind, netdev};
}

// Two networks on one interface, each with a route of its own.
Result<IpAddress> Routes(const IpAddress& to, const std::string& interface) {
  if (interface != "eth0") return Fail(ErrorId::kNetwork, "no route");
  const std::string text = mooncake::ToString(to);
  if (text.starts_with("10.")) return ParseIpAddress("10.0.0.1");
  if (text.starts_with("fd00:")) return ParseIpAddress("fd00::1");
  return Fail(ErrorId::kNetwork, "no route");
}

using enum GidKind;
const PortAddresses kLocal{
    false,
    0,
    {Row(0, "fe80::1", kRoceV2, "eth0"), Row(1, "fe80::1", kRoceV1, "eth0"),
     Row(2, "10.0.0.1", kRoceV1, "eth0"), Row(3, "10.0.0.1", kRoceV2, "eth0"),
     Row(4, "fd00::1", kRoceV2, "eth0"), Row(5, "10.0.0.1", kRoceV2, "eth1")}};

std::vector<std::uint8_t> Indices(const std::vector<AddressPair>& pairs) {
  std::vector<std::uint8_t> indices;
  for (const AddressPair& pair : pairs) indices.push_back(pair.local.index);
  return indices;
}

TEST(AddressChoice, FollowsTheRouteAndTakesTheNewestKindFirst) {
  std::string why;
  const PortAddresses remote{false,
                             0,
                             {Row(0, "fe80::2", kRoceV2), Row(1, "10.0.0.2", kRoceV1),
                              Row(2, "10.0.0.2", kRoceV2), Row(3, "fd00::2", kRoceV2)}};
  const std::vector<AddressPair> pairs = RankAddressPairs(kLocal, remote, Routes, why);
  // IPv4 over v2, IPv6 over v2, IPv4 over v1, and nothing link-local.
  EXPECT_EQ(Indices(pairs), (std::vector<std::uint8_t>{3, 4, 2}));
  EXPECT_TRUE(pairs[0].routed);
  EXPECT_EQ(ToString(pairs[0].remote), "10.0.0.2 (RoCE v2)");
}

TEST(AddressChoice, IPv6Alone) {
  std::string why;
  const PortAddresses remote{false, 0, {Row(7, "fd00::9", kRoceV2)}};
  EXPECT_EQ(Indices(RankAddressPairs(kLocal, remote, Routes, why)), std::vector<std::uint8_t>{4});
}

TEST(AddressChoice, LinkLocalOnlyWhereThereIsNothingElse) {
  std::string why;
  const PortAddresses remote{false, 0, {Row(0, "fe80::2", kRoceV2)}};
  EXPECT_EQ(Indices(RankAddressPairs(kLocal, remote, Routes, why)), std::vector<std::uint8_t>{0});
}

// As in a container that was given the device and not its network.
TEST(AddressChoice, LinkLocalWhereNoRouteCanBeAskedFor) {
  std::string why;
  const SourceOf none = [](const IpAddress&, const std::string&) -> Result<IpAddress> {
    return Fail(ErrorId::kNetwork, "no such interface", ENODEV);
  };
  const PortAddresses remote{false, 0, {Row(0, "fe80::2", kRoceV2), Row(1, "10.0.0.2", kRoceV2)}};
  EXPECT_EQ(Indices(RankAddressPairs(kLocal, remote, none, why)), std::vector<std::uint8_t>{0});
}

// Where the network is down, a try over link-local addresses would only take a second.
TEST(AddressChoice, NothingWhereThereIsNoRouteNow) {
  std::string why;
  const SourceOf down = [](const IpAddress&, const std::string&) -> Result<IpAddress> {
    return Fail(ErrorId::kNetwork, "the network is unreachable", ENETUNREACH);
  };
  const PortAddresses remote{false, 0, {Row(0, "fe80::2", kRoceV2), Row(1, "10.0.0.2", kRoceV2)}};
  EXPECT_TRUE(RankAddressPairs(kLocal, remote, down, why).empty());
  EXPECT_NE(why.find("no route"), std::string::npos) << why;
}

TEST(AddressChoice, WithoutARouteSaysWhatEachHas) {
  std::string why;
  const PortAddresses remote{false, 0, {Row(0, "192.168.7.1", kRoceV2)}};
  EXPECT_TRUE(RankAddressPairs(kLocal, remote, Routes, why).empty());
  EXPECT_NE(why.find("10.0.0.1 (RoCE v2)"), std::string::npos) << why;
  EXPECT_NE(why.find("192.168.7.1 (RoCE v2)"), std::string::npos) << why;
}

TEST(AddressChoice, InfiniBandHasIdentifiersAndARouteOnlyBetweenSubnets) {
  std::string why;
  const PortAddresses here{true, 3, {Row(0, "fe80::a", kInfiniBand)}};
  const PortAddresses neighbour{true, 4, {Row(0, "fe80::b", kInfiniBand)}};
  const PortAddresses far{true, 4, {Row(0, "fec0:0:0:1::b", kInfiniBand)}};
  EXPECT_FALSE(RankAddressPairs(here, neighbour, Routes, why).at(0).routed);
  EXPECT_TRUE(RankAddressPairs(here, far, Routes, why).at(0).routed);
  EXPECT_FALSE(RankAddressPairs({true, 1, {}}, {true, 2, {}}, Routes, why).at(0).routed);
  EXPECT_TRUE(RankAddressPairs(here, kLocal, Routes, why).empty());
  EXPECT_NE(why.find("InfiniBand"), std::string::npos);
}

}  // namespace
}  // namespace mooncake::rdma
