#include "view/live_block.h"

#include <fmt/format.h>

#include <algorithm>

namespace mooncake {

std::string CutLine(std::string_view line, std::size_t columns) {
  std::string cut;
  bool colored = false;
  for (std::size_t at = 0; at < line.size();) {
    if (line[at] == '\x1b') {  // "\x1b[32m": up to its letter
      const std::size_t end = line.find('m', at);
      if (end == std::string_view::npos) break;
      cut += line.substr(at, end + 1 - at);
      colored = true;
      at = end + 1;
      continue;
    }
    std::size_t end = at + 1;
    while (end < line.size() && (line[end] & 0xC0) == 0x80) ++end;
    if (columns == 0) break;
    columns -= 1;
    cut += line.substr(at, end - at);
    at = end;
  }
  return colored ? cut + "\x1b[0m" : cut;
}

std::string LiveBlock::Draw(std::string_view text, const TerminalSize& size) {
  std::string out;
  if (drawn_lines_ > 0) out += fmt::format("\x1b[{}A", drawn_lines_);
  out += '\r';
  const std::size_t lines_max = std::max<std::size_t>(2, size.rows) - 1;
  drawn_lines_ = 0;
  while (!text.empty() && drawn_lines_ < lines_max) {
    const std::size_t end = text.find('\n');
    out += CutLine(text.substr(0, end), size.columns) + "\x1b[K\n";
    drawn_lines_ += 1;
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return out + "\x1b[J";
}

}  // namespace mooncake
