// What stands behind standard output: a terminal that can be drawn on, or a file, a pipe, a log.
#pragma once

#include <optional>

#include "view/live_block.h"

namespace mooncake {

/// The size of the terminal at standard output; nothing where it is none, or one without escape
/// codes (TERM=dumb).
[[nodiscard]] std::optional<TerminalSize> FindTerminal();
/// Whether a terminal should show colours: the user has not set NO_COLOR.
[[nodiscard]] bool WantsColor();

}  // namespace mooncake
