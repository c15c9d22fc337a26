// CRC32C (Castagnoli; RFC 3720 appendix B.4) of short byte strings. memory/copy.h has the one that
// rides in a copy.
#pragma once

#include <cstdint>

#include "base/world.h"

namespace mooncake {

[[nodiscard]] std::uint32_t Crc32c(Bytes bytes) noexcept;

}  // namespace mooncake
