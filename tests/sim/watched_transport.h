// A transport that behaves as another one does, and tells when each transfer begins and ends.
#pragma once

#include <functional>
#include <memory>

#include "transport/transport.h"

namespace mooncake {

struct TransferWatch {
  /// Returns the transfer's number.
  std::function<std::uint64_t(const InstanceId& peer, const Transfer& transfer)> on_begin;
  std::function<void(std::uint64_t number)> on_end;
};

[[nodiscard]] std::unique_ptr<Transport> Watch(std::unique_ptr<Transport> transport,
                                               TransferWatch watch);

}  // namespace mooncake
