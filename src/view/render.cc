#include "view/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/units.h"

namespace mooncake {
namespace {

constexpr std::string_view kBold = "\x1b[1m";
constexpr std::string_view kDim = "\x1b[2m";
constexpr std::string_view kGood = "\x1b[32m";
constexpr std::string_view kBad = "\x1b[31m";
constexpr std::string_view kPlain = "\x1b[0m";

// One byte of each code point is no continuation byte; what we print is one column per code point.
std::size_t ColumnsOf(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string_view FirstColumns(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  while (end < text.size()) {
    if ((text[end] & 0xC0) != 0x80 && columns-- == 0) break;
    ++end;
  }
  return text.substr(0, end);
}

std::vector<std::string> Wrap(std::string_view text, std::size_t columns) {
  std::vector<std::string> lines(1);
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    std::string& line = lines.back();
    if (line.empty()) {
      line = Fit(word, std::min(columns, ColumnsOf(word)));
    } else if (ColumnsOf(line) + 1 + ColumnsOf(word) <= columns) {
      line += ' ';
      line += word;
    } else {
      lines.push_back(Fit(word, std::min(columns, ColumnsOf(word))));
    }
    if (space == std::string_view::npos) break;
    text.remove_prefix(space + 1);
  }
  return lines;
}

class Painter {
 public:
  explicit Painter(bool color) : color_(color) {}
  [[nodiscard]] std::string In(std::string_view code, std::string text) const {
    return color_ && !code.empty() ? fmt::format("{}{}{}", code, text, kPlain) : std::move(text);
  }

 private:
  bool color_;
};

struct Column {
  std::string_view title;
  std::size_t columns;
  bool right;
};

constexpr std::array kInstanceColumns = {
    Column{"INSTANCE", 18, false}, Column{"ROLE", 7, false},       Column{"ENDPOINT", 21, false},
    Column{"UP", 6, true},         Column{"QUEUE", 7, true},       Column{"KV PAGES", 15, true},
    Column{"HITS", 5, true},       Column{"DIRECTORY", 11, false},
};
constexpr std::array kPathColumns = {
    Column{"PATHS", 9, false}, Column{"MOVED", 10, true}, Column{"NOW", 10, true},
    Column{"SPEED", 10, true}, Column{"FAILED", 7, true}, Column{"STATE", 46, false},
};

// Without the rate of the moment: for what has ended.
constexpr std::array kMovedColumns = {
    Column{"PATHS", 9, false}, Column{"MOVED", 10, true},  Column{"SPEED", 10, true},
    Column{"FAILED", 7, true}, Column{"STATE", 57, false},
};

template <std::size_t N>
std::string Row(const std::array<Column, N>& columns, const std::array<std::string, N>& cells) {
  std::string row;
  for (std::size_t i = 0; i < N; ++i) {
    if (i > 0) row += ' ';
    row += Fit(cells[i], columns[i].columns, columns[i].right);
  }
  row.erase(row.find_last_not_of(' ') + 1);
  return row;
}

template <std::size_t N>
std::string Titles(const std::array<Column, N>& columns) {
  std::array<std::string, N> cells;
  for (std::size_t i = 0; i < N; ++i) cells[i] = columns[i].title;
  return Row(columns, cells);
}

std::string HitsOf(const InstanceView& instance) {
  const std::uint64_t asked = instance.page_hits + instance.page_misses;
  return asked == 0 ? "-"
                    : fmt::format("{:.0f} %", 100.0 * static_cast<double>(instance.page_hits) /
                                                  static_cast<double>(asked));
}

std::string DirectoryOf(const InstanceView& instance) {
  if (instance.draining) return "draining";
  return instance.directory.reachable
             ? "reachable"
             : fmt::format("down {}", FormatAge(instance.directory.unreachable_seconds));
}

std::string InstanceRow(const InstanceView& instance) {
  const std::uint64_t used = instance.pages - std::min(instance.pages, instance.pages_free);
  return Row(kInstanceColumns,
             {instance.label, instance.role, instance.endpoint, FormatAge(instance.uptime_seconds),
              fmt::format("{}/{}", instance.queue_length, instance.queue_max),
              fmt::format("{}/{}", FormatCount(used), FormatCount(instance.pages)),
              HitsOf(instance), DirectoryOf(instance)});
}

// Lines after the first are indented.
void AppendWrapped(std::string& text, const Painter& paint, std::string_view code,
                   const std::string& line) {
  std::string_view indent;
  for (std::string& part : Wrap(line, kViewColumns - 2)) {
    text += fmt::format("{}{}\n", indent, paint.In(code, std::move(part)));
    indent = "  ";
  }
}

void AppendInstances(std::string& text, const ClusterView& view, const Painter& paint) {
  text += paint.In(kBold, Titles(kInstanceColumns)) + "\n";
  for (const InstanceView& instance : view.instances) text += InstanceRow(instance) + "\n";
  for (const MissingView& missing : view.missing) {
    AppendWrapped(text, paint, kBad,
                  fmt::format("{} does not answer: {}", missing.label, missing.reason));
  }
  for (const InstanceView& instance : view.instances) {
    const DirectoryView& directory = instance.directory;
    if (directory.reachable) continue;
    AppendWrapped(text, paint, kBad,
                  fmt::format("{}: the directory ({}) has not answered for {}: {}", instance.label,
                              directory.connection, FormatAge(directory.unreachable_seconds),
                              directory.cause));
  }
}

const PathView* FindPath(const ClusterView& view, const std::string& id, const PathView& like) {
  for (const InstanceView& instance : view.instances) {
    if (instance.id != id) continue;
    for (const PathView& path : instance.paths) {
      if (path.peer_id == like.peer_id && path.transport == like.transport) return &path;
    }
  }
  return nullptr;
}

// What the path moves now, in bytes a second, by two samples.
double RateOf(const InstanceView& sender, const PathView& path, const ClusterSample& now,
              const ClusterSample* before) {
  if (before == nullptr || now.at <= before->at) return 0;
  const PathView* const earlier = FindPath(before->view, sender.id, path);
  const std::uint64_t bytes = earlier == nullptr ? 0 : earlier->bytes;
  if (path.bytes <= bytes) return 0;
  return static_cast<double>(path.bytes - bytes) /
         std::chrono::duration<double>(now.at - before->at).count();
}

constexpr double kGiga = 1e9;

// The cells before the last one, and the standing, which may take several lines.
template <std::size_t N>
std::string PathRow(const std::array<Column, N>& columns, std::array<std::string, N> cells,
                    const PathView& path, const std::string& standing, const Painter& paint) {
  const std::vector<std::string> lines = Wrap(standing, columns.back().columns);
  cells.back() = lines[0];
  const bool bad = path.suspected || path.failures > 0;
  const std::string_view code = bad              ? kBad
                                : path.bytes > 0 ? kGood
                                : path.usable    ? std::string_view()
                                                 : kDim;
  std::string text = paint.In(code, Row(columns, cells)) + "\n";
  std::size_t indent = 0;
  for (std::size_t i = 0; i + 1 < N; ++i) indent += columns[i].columns + 1;
  for (std::size_t i = 1; i < lines.size(); ++i)
    text += std::string(indent, ' ') + paint.In(code, lines[i]) + "\n";
  return text;
}

std::string MovedOf(const PathView& path) {
  return path.bytes == 0 ? "-" : FormatBytes(path.bytes);
}
std::string SpeedOf(const PathView& path) { return FormatRate(path.gigabytes_per_second * kGiga); }
std::string FailedOf(const PathView& path) {
  return path.failures == 0 ? "-" : FormatCount(path.failures);
}

// The paths of one sender to one peer, in the sender's order.
using Pair = std::vector<const PathView*>;

std::vector<Pair> PairsOf(const InstanceView& sender) {
  std::vector<Pair> pairs;
  for (const PathView& path : sender.paths) {
    const auto same = [&path](const Pair& pair) { return pair.front()->peer_id == path.peer_id; };
    const auto found = std::find_if(pairs.begin(), pairs.end(), same);
    if (found == pairs.end()) {
      pairs.push_back({&path});
    } else {
      found->push_back(&path);
    }
  }
  return pairs;
}

bool HasNews(const Pair& pair) {
  return std::any_of(pair.begin(), pair.end(),
                     [](const PathView* path) { return path->bytes > 0 || path->failures > 0; });
}

// A pair that has moved nothing, in one line.
std::string QuietPair(const InstanceView& sender, const Pair& pair) {
  std::string ready;
  for (const PathView* path : pair) {
    if (path->usable) ready += (ready.empty() ? "" : ", ") + path->transport;
  }
  std::string text = fmt::format("{} -> {}: nothing moved; {}", sender.label, pair.front()->peer,
                                 ready.empty() ? std::string("no path is open") : ready + " ready");
  for (const PathView* path : pair) {
    if (!path->usable && !path->reason.empty())
      text += fmt::format("; {} not usable: {}", path->transport, path->reason);
  }
  if (pair.front()->suspected) text += "; the peer is silent";
  return text;
}

}  // namespace

std::string FormatRate(double bytes_per_second) {
  constexpr double kMega = 1e6;
  constexpr double kKilo = 1e3;
  if (!(bytes_per_second > 0)) return "-";
  if (bytes_per_second >= kGiga) return fmt::format("{:.2f} GB/s", bytes_per_second / kGiga);
  if (bytes_per_second >= kMega) return fmt::format("{:.0f} MB/s", bytes_per_second / kMega);
  return fmt::format("{:.0f} kB/s", bytes_per_second / kKilo);
}

std::string FormatAge(double seconds) {
  constexpr double kMinute = 60;
  constexpr double kHour = 3600;
  constexpr double kDay = 86400;
  if (!(seconds >= 0)) return "-";
  if (seconds < 2 * kMinute) return fmt::format("{:.0f} s", seconds);
  if (seconds < 2 * kHour) return fmt::format("{:.0f} min", seconds / kMinute);
  if (seconds < 2 * kDay) return fmt::format("{:.0f} h", seconds / kHour);
  return fmt::format("{:.0f} d", seconds / kDay);
}

std::string FormatCount(std::uint64_t count) {
  std::string digits = fmt::format("{}", count);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string Fit(std::string_view text, std::size_t columns, bool right) {
  const std::size_t have = ColumnsOf(text);
  if (have > columns) return columns == 0 ? "" : std::string(FirstColumns(text, columns - 1)) + "…";
  const std::string space(columns - have, ' ');
  return right ? space + std::string(text) : std::string(text) + space;
}

std::string StandingOf(const PathView& path, const InstanceView& sender) {
  std::string standing;
  if (path.usable) {
    const PathView* best = &path;  // of the same pair: the one that moved most
    for (const PathView& other : sender.paths) {
      if (other.peer_id == path.peer_id && other.bytes > best->bytes) best = &other;
    }
    if (path.bytes > 0 && best != &path) {
      std::uint64_t all = 0;
      for (const PathView& other : sender.paths)
        all += other.peer_id == path.peer_id ? other.bytes : 0;
      const double percent = 100 * static_cast<double>(path.bytes) / static_cast<double>(all);
      constexpr double kLittle = 0.1;
      standing = fmt::format("in use for {} % of the bytes",
                             percent < kLittle ? "< 0.1" : fmt::format("{:.1f}", percent));
    } else if (path.bytes > 0) {
      standing = "in use";
    } else if (best->bytes > 0) {
      standing = fmt::format("ready; {} was expected to be faster", best->transport);
    } else {
      standing = "ready";
    }
  } else {
    standing = path.reason.empty() ? "not tried yet" : "not usable: " + path.reason;
  }
  if (path.usable && !path.detail.empty()) standing += "; " + path.detail;
  return path.suspected ? standing + "; the peer is silent" : standing;
}

std::string RenderCluster(const ClusterSample& now, const ClusterSample* before,
                          const RenderOptions& options) {
  const Painter paint(options.color);
  std::string text;
  AppendInstances(text, now.view, paint);
  std::string quiet;
  std::string moving;
  for (const InstanceView& sender : now.view.instances) {
    for (const Pair& pair : PairsOf(sender)) {
      if (!HasNews(pair)) {
        AppendWrapped(quiet, paint, "", QuietPair(sender, pair));
        continue;
      }
      moving += fmt::format("{} -> {}\n", sender.label, pair.front()->peer);
      for (const PathView* path : pair) {
        const std::string rate = FormatRate(RateOf(sender, *path, now, before));
        moving += PathRow(
            kPathColumns,
            {"  " + path->transport, MovedOf(*path), rate, SpeedOf(*path), FailedOf(*path), {}},
            *path, StandingOf(*path, sender), paint);
      }
    }
  }
  if (!moving.empty()) text += "\n" + paint.In(kBold, Titles(kPathColumns)) + "\n" + moving;
  if (!quiet.empty())
    text += (moving.empty() ? "\n" + paint.In(kBold, "PATHS") + "\n" : std::string()) + quiet;
  return text;
}

std::string RenderMoved(const ClusterView& moved) {
  const Painter paint(false);
  std::string text;
  for (const InstanceView& sender : moved.instances) {
    for (const Pair& pair : PairsOf(sender)) {
      if (!HasNews(pair)) continue;
      text += fmt::format("{} -> {}\n", sender.label, pair.front()->peer);
      for (const PathView* path : pair) {
        text +=
            PathRow(kMovedColumns,
                    {"  " + path->transport, MovedOf(*path), SpeedOf(*path), FailedOf(*path), {}},
                    *path, StandingOf(*path, sender), paint);
      }
    }
  }
  return text.empty() ? text : Titles(kMovedColumns) + "\n" + text;
}

}  // namespace mooncake
