// The transports that every program of ours uses.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace mooncake {

/// What the user says of transports.
struct TransportChoice {
  std::string protocol;     ///< "rdma": say why where there is none. "tcp", "shm": without RDMA.
  std::string device_name;  ///< RDMA devices, as topology/device_choice.h reads it.
  std::vector<std::string> transports;  ///< Only these; all if empty.
  bool encrypted = false;  ///< What leaves the host is to be: RDMA, which cannot, must be listed.
  bool discover = true;    ///< Whether RDMA devices that are not named are used.
};

struct TransportPlan {
  std::vector<std::string> rdma_devices;
  std::map<std::string, std::vector<std::vector<std::string>>> rdma_nearest;  ///< RdmaOptions.
  std::string why_no_rdma;  ///< To be said once; empty: nobody asked.
};

/// Looks at the devices of this host, opens none. kRdmaDevice: one that the user names cannot be
/// used. Where there is no RDMA at all, the others serve.
[[nodiscard]] Result<TransportPlan> PlanTransports(const TransportChoice& choice);
/// All of them. To leave one out, leave its line out.
[[nodiscard]] TransportFactory MakeTransports(TransportPlan plan);

}  // namespace mooncake
