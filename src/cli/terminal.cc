#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/real_world.h"

namespace mooncake {

std::optional<TerminalSize> FindTerminal() {
  if (::isatty(STDOUT_FILENO) != 1 || ReadEnvironment("TERM") == "dumb") return std::nullopt;
  winsize window{};
  TerminalSize size;
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 && window.ws_row > 0) {
    size = {window.ws_col, window.ws_row};
  }
  return size;
}

bool WantsColor() { return ReadEnvironment("NO_COLOR").empty(); }

}  // namespace mooncake
