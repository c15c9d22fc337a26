// The whole cluster as one instance sees it: its own status and that of every other live one. For
// the page and `mooncake status`.
#pragma once

#include "instance/partners.h"

namespace mooncake {

/// {"instances": [status, …], "unreachable": [{"label", "id", "reason"}, …]}; asks everybody at
/// once, a second at most.
[[nodiscard]] Task<std::string> CollectCluster(InstanceCore& core, Partners& partners,
                                               std::string own_status);

}  // namespace mooncake
