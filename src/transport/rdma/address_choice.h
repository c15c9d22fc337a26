// Which pair of addresses two RDMA ports speak over: decided by the kernel's routes, not by what an
// address looks like. Pure: routes are asked for through a function.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/address.h"
#include "transport/rdma/verbs.h"

namespace mooncake::rdma {

/// What of a port its peers must know to reach it.
struct PortAddresses {
  bool infiniband = false;
  std::uint16_t lid = 0;     ///< InfiniBand; 0 elsewhere.
  std::vector<GidRow> rows;  ///< `index` and `netdev` mean something on the port's own host only.

  bool operator==(const PortAddresses&) const = default;
};

struct AddressPair {
  GidRow local;
  GidRow remote;
  bool routed = false;  ///< Carries a global route header: always on Ethernet, on InfiniBand only
                        ///< between subnets.
};

/// The address that packets to `to` start from on `interface`; an error: no route.
using SourceOf =
    std::function<Result<IpAddress>(const IpAddress& to, const std::string& interface)>;

/// Pairs to try, best first: RoCE v2 before v1, IPv4 before IPv6. Link-local ones only where the
/// ports have no others of one kind, or their interfaces are not this process's. Empty: the ports
/// have nothing in common; `why` then says what each has.
[[nodiscard]] std::vector<AddressPair> RankAddressPairs(const PortAddresses& local,
                                                        const PortAddresses& remote,
                                                        const SourceOf& source_of,
                                                        std::string& why);

/// The same 16 bytes: IPv4 lies in the mapped range in both.
[[nodiscard]] IpAddress ToAddress(const Gid& gid) noexcept;
/// "10.77.0.1 (RoCE v2)".
[[nodiscard]] std::string ToString(const GidRow& row);

}  // namespace mooncake::rdma
