// libibverbs, opened at run time: the same binary runs where it is absent.
#pragma once

#include <memory>

#include "transport/rdma/verbs.h"

namespace mooncake::rdma {

/// kNoRdma: the library is not on this host, or lacks what is needed. What it returns is never
/// unloaded: drivers keep threads and handlers.
[[nodiscard]] Result<std::shared_ptr<Verbs>> OpenRealVerbs();

}  // namespace mooncake::rdma
