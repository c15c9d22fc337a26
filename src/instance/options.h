// Every option of an instance, in one table: file, environment, flags, --help and
// docs/configuration.md read it.
#pragma once

#include <span>

#include "base/options.h"

namespace mooncake {

[[nodiscard]] std::span<const OptionSpec> InstanceOptions() noexcept;

}  // namespace mooncake
