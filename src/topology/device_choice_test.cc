#include "topology/device_choice.h"

#include <gmock/gmock.h>

#include "base/test_support.h"

namespace mooncake {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

RdmaPort Port(std::string state, std::string link_layer = "InfiniBand", int number = 1) {
  RdmaPort port{number, std::move(state), std::move(link_layer), 100, {}};
  port.gids.push_back({0, "fe80:0000:0000:0000:0000:0000:0000:0001", "", ""});
  return port;
}

RdmaDevice Device(std::string name, std::string state = "ACTIVE") {
  RdmaDevice device{.name = std::move(name), .node_type = "CA"};
  device.ports.push_back(Port(std::move(state)));
  return device;
}

RdmaDevice OfType(std::string node_type) {
  RdmaDevice device = Device("a");
  device.node_type = std::move(node_type);
  return device;
}

RdmaDevice WithPorts(std::vector<RdmaPort> ports) {
  RdmaDevice device = Device("a");
  device.netdev = "roce0";
  device.ports = std::move(ports);
  return device;
}

const std::vector<RdmaDevice> kHost = {Device("mlx5_0"), Device("mlx5_1", "DOWN"), Device("mlx5_2"),
                                       Device("mlx5_bond_0")};

std::optional<std::string> WhyUnusable(const RdmaDevice& device) {
  return ReasonsAgainst({&device, 1}, "").at(0);
}

std::string Context(const Result<DeviceChoice>& choice) { return choice.error().context; }

TEST(ReasonsAgainst, SaysWhatIsWrongWithTheDevice) {
  RdmaPort bare = Port("ACTIVE", "Ethernet");
  bare.gids.clear();
  EXPECT_EQ(WhyUnusable(Device("a")), std::nullopt);
  EXPECT_EQ(WhyUnusable(Device("a", "DOWN")), "port 1 is DOWN");
  EXPECT_THAT(WhyUnusable(Device("a", "INIT")).value_or(""), HasSubstr("subnet manager"));
  EXPECT_EQ(WhyUnusable(Device("a", "")), "the state of port 1 cannot be read");
  EXPECT_EQ(WhyUnusable(OfType("RNIC")), "its node type is RNIC, not CA (channel adapter)");
  EXPECT_EQ(WhyUnusable(OfType("")), "its node type cannot be read");
  EXPECT_EQ(WhyUnusable(WithPorts({})), "it has no port");
  EXPECT_EQ(WhyUnusable(WithPorts({bare})), "no address on its network interface roce0");
  EXPECT_EQ(WhyUnusable(WithPorts({Port("ACTIVE", "Ethernet")})), std::nullopt);
}

TEST(ReasonsAgainst, OnePortIsEnough) {
  EXPECT_EQ(WhyUnusable(WithPorts({Port("DOWN"), Port("ACTIVE", "InfiniBand", 2)})), std::nullopt);
  EXPECT_EQ(WhyUnusable(WithPorts({Port("DOWN"), Port("ARMED", "InfiniBand", 2)})),
            "port 1 is DOWN, port 2 is ARMED");
}

TEST(ChooseDevices, WithoutAFilterAllThatCanBeUsed) {
  for (const char* filter : {"", ",", "  , "}) {
    const Result<DeviceChoice> choice = ChooseDevices(kHost, filter);
    ASSERT_TRUE(Succeeds(choice)) << filter;
    EXPECT_THAT(choice->used, ElementsAre("mlx5_0", "mlx5_2", "mlx5_bond_0"));
    EXPECT_THAT(choice->unused, ElementsAre(Pair("mlx5_1", "port 1 is DOWN")));
  }
}

TEST(ChooseDevices, NamesAndPatterns) {
  const auto used = [](std::string_view filter) {
    const Result<DeviceChoice> choice = ChooseDevices(kHost, filter);
    return choice ? choice->used : std::vector<std::string>{choice.error().Text()};
  };
  EXPECT_THAT(used("mlx5_2, mlx5_0"), ElementsAre("mlx5_0", "mlx5_2"));
  EXPECT_THAT(used("mlx5_?"), ElementsAre("mlx5_0", "mlx5_2"));
  EXPECT_THAT(used("*_0"), ElementsAre("mlx5_0", "mlx5_bond_0"));
  EXPECT_THAT(used("m*5*b*d*0*"), ElementsAre("mlx5_bond_0"));
  EXPECT_THAT(used("*"), ElementsAre("mlx5_0", "mlx5_2", "mlx5_bond_0"));
  EXPECT_THAT(used("^mlx5_bond_0"), ElementsAre("mlx5_0", "mlx5_2"));
  EXPECT_THAT(used("mlx5_*, ! *bond*"), ElementsAre("mlx5_0", "mlx5_2"));
  EXPECT_THAT(used("^none_such"), ElementsAre("mlx5_0", "mlx5_2", "mlx5_bond_0"));
}

TEST(ChooseDevices, EachUnusedDeviceHasItsReason) {
  const Result<DeviceChoice> choice = ChooseDevices(kHost, "mlx5_?,^mlx5_0");
  ASSERT_TRUE(Succeeds(choice));
  EXPECT_THAT(choice->used, ElementsAre("mlx5_2"));
  EXPECT_THAT(choice->unused, ElementsAre(Pair("mlx5_0", "excluded by device_name"),
                                          Pair("mlx5_1", "port 1 is DOWN"),
                                          Pair("mlx5_bond_0", "not named in device_name")));
}

TEST(ChooseDevices, ANamedDeviceIsNeverReplaced) {
  const Result<DeviceChoice> down = ChooseDevices(kHost, "mlx5_0,mlx5_1");
  ASSERT_TRUE(FailsWith(down, ErrorId::kRdmaDevice));
  EXPECT_EQ(Context(down),
            "device_name \"mlx5_1\": port 1 is DOWN; mlx5_0, mlx5_2, mlx5_bond_0 can be used");
  const Result<DeviceChoice> missing = ChooseDevices(kHost, "mlx5_9");
  ASSERT_TRUE(FailsWith(missing, ErrorId::kRdmaDevice));
  EXPECT_THAT(Context(missing), HasSubstr("\"mlx5_9\": there is no such RDMA device; mlx5_0,"));
  const Result<DeviceChoice> both = ChooseDevices(kHost, "mlx5_0,mlx5_2,^mlx5_0");
  ASSERT_TRUE(FailsWith(both, ErrorId::kRdmaDevice));
  EXPECT_THAT(Context(both), HasSubstr("\"mlx5_0\": excluded by device_name"));
  EXPECT_TRUE(FailsWith(ChooseDevices(kHost, "mlx5_"), ErrorId::kRdmaDevice));
}

TEST(ChooseDevices, APatternFindsSomethingUsableOrFails) {
  const Result<DeviceChoice> none = ChooseDevices(kHost, "mlx5_0,bnxt_*");
  ASSERT_TRUE(FailsWith(none, ErrorId::kRdmaDevice));
  EXPECT_THAT(Context(none), HasSubstr("\"bnxt_*\": no RDMA device has such a name"));
  const Result<DeviceChoice> down = ChooseDevices(kHost, "*_1");
  ASSERT_TRUE(FailsWith(down, ErrorId::kRdmaDevice));
  EXPECT_THAT(Context(down), HasSubstr("mlx5_1: port 1 is DOWN; mlx5_0,"));
}

TEST(ChooseDevices, NothingUsableLeavesItToOtherTransports) {
  const std::vector<RdmaDevice> broken = {Device("a", "DOWN"), OfType("RNIC")};
  EXPECT_EQ(Context(ChooseDevices(broken, "")),
            "a: port 1 is DOWN; a: its node type is RNIC, not CA (channel adapter)");
  EXPECT_TRUE(FailsWith(ChooseDevices(broken, ""), ErrorId::kNoRdma));
  EXPECT_TRUE(FailsWith(ChooseDevices(kHost, "^*"), ErrorId::kNoRdma));
  const Result<DeviceChoice> named = ChooseDevices(broken, "a");
  ASSERT_TRUE(FailsWith(named, ErrorId::kRdmaDevice));
  EXPECT_THAT(Context(named), HasSubstr("no RDMA device of this host can be used"));
}

TEST(ChooseDevices, AHostWithoutDevicesHasNoRdmaWhateverIsNamed) {
  for (const char* filter : {"", "mlx5_0", "mlx5_*", "^mlx5_0"}) {
    const Result<DeviceChoice> choice = ChooseDevices({}, filter);
    ASSERT_TRUE(FailsWith(choice, ErrorId::kNoRdma)) << filter;
    EXPECT_EQ(Context(choice), "no RDMA device on this host (/sys/class/infiniband is empty)");
  }
}

}  // namespace
}  // namespace mooncake
