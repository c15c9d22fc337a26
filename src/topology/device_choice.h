// Which RDMA devices are used, and why each other one is not. Pure decisions over values.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "topology/topology.h"

namespace mooncake {

struct DeviceChoice {
  std::vector<std::string> used;  ///< Never empty; in the order of the devices.
  std::vector<std::pair<std::string, std::string>> unused;  ///< Name, reason in words; likewise.
};

/// `filter` as users write device_name: words separated by commas, each a name ("mlx5_0"), a
/// pattern ("mlx5_*"; `?` is one character), or either after `^` or `!`: not these. No word that
/// includes: all, without those that are excluded. Spaces around a word and empty words count for
/// nothing.
///
/// For each device what is against using it, in words: "port 1 is DOWN", "no address on its network
/// interface roce0", "not named in device_name"; nothing if it is used.
[[nodiscard]] std::vector<std::optional<std::string>> ReasonsAgainst(
    std::span<const RdmaDevice> devices, std::string_view filter);

/// What the user has named is used or refused, never replaced: kRdmaDevice if a name is not there,
/// cannot be used or is excluded as well, or if a pattern finds nothing that can be used; the
/// message says why and what could be used. kNoRdma, whatever the filter says, where there are no
/// devices at all, and where all are unusable or excluded: other transports can go on.
[[nodiscard]] Result<DeviceChoice> ChooseDevices(std::span<const RdmaDevice> devices,
                                                 std::string_view filter);

}  // namespace mooncake
