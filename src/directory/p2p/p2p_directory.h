// P2PHANDSHAKE: no directory at all. A label is the address itself, and the hand-shake tells the
// rest.
#pragma once

#include <memory>

#include "directory/directory.h"

namespace mooncake {

[[nodiscard]] std::unique_ptr<Directory> MakeP2pDirectory(World& world);

}  // namespace mooncake
