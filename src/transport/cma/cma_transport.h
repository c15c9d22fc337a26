// "cma", cross-memory attach: the kernel copies between two processes of one host
// (process_vm_readv, process_vm_writev). Single copies without the peer's help, where the kernel
// allows it.
#pragma once

#include <memory>

#include "transport/transport.h"

namespace mooncake {

[[nodiscard]] std::unique_ptr<Transport> MakeCmaTransport(World& world, InstanceId self);

}  // namespace mooncake
