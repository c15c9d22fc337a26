// A cluster as text: who is there, and who sends to whom over what. Pure: values in, lines out, at
// most 100 columns.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "view/cluster_view.h"

namespace mooncake {

inline constexpr std::size_t kViewColumns = 100;

struct RenderOptions {
  bool color = false;  ///< With the escape codes of a terminal.
};

/// The instances, the paths between them and what is wrong. With `before`, an earlier sample, the
/// paths have a column with what they move right now.
[[nodiscard]] std::string RenderCluster(const ClusterSample& now, const ClusterSample* before,
                                        const RenderOptions& options);

/// The path table alone, of pairs that have moved something: for a view made by Since().
[[nodiscard]] std::string RenderMoved(const ClusterView& moved);

/// How a path stands beside the others of its pair: "in use", "ready: shm is faster", "not usable:
/// E204 …".
[[nodiscard]] std::string StandingOf(const PathView& path, const InstanceView& sender);

/// "5.31 GB/s", "120 MB/s", "-" for nothing.
[[nodiscard]] std::string FormatRate(double bytes_per_second);
/// "45 s", "12 min", "3 h", "9 d".
[[nodiscard]] std::string FormatAge(double seconds);
/// "16,384".
[[nodiscard]] std::string FormatCount(std::uint64_t count);
/// `text` filled up with spaces, or cut with "…", to `columns`; on the left or on the right.
[[nodiscard]] std::string Fit(std::string_view text, std::size_t columns, bool right = false);

}  // namespace mooncake
