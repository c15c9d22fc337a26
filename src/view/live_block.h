// A block of lines at the bottom of a terminal that is drawn again in place. Pure: text in, text
// with escape codes out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mooncake {

struct TerminalSize {
  std::size_t columns = 80;
  std::size_t rows = 24;
};

/// `line` cut to `columns`; escape codes take none and stay whole, and colours end where the line
/// does.
[[nodiscard]] std::string CutLine(std::string_view line, std::size_t columns);

class LiveBlock {
 public:
  /// What to write so that `text` stands where the text before it stood. Lines that do not fit are
  /// cut, and lines that the terminal has no room for are left out: a block must never scroll, or
  /// it could not be drawn over.
  [[nodiscard]] std::string Draw(std::string_view text, const TerminalSize& size);

 private:
  std::size_t drawn_lines_ = 0;
};

}  // namespace mooncake
