// The catalogue as a whole, for the documentation and for `mooncake explain`.
#pragma once

#include <span>

#include "base/result.h"

namespace mooncake {

/// All rows, in the order of their ids.
[[nodiscard]] std::span<const ErrorEntry> ErrorCatalogue() noexcept;

}  // namespace mooncake
