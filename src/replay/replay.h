// Sends a trace to running instances, as their clients would, and compares the answers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "replay/report.h"
#include "trace/trace.h"
#include "view/cluster_view.h"
#include "wire/http.h"

namespace mooncake {

/// How far a replay is.
struct ReplayProgress {
  const ReplayReport& report;
  Duration elapsed{};
  std::size_t running = 0;  ///< Requests on their way.
  const ClusterSample* before =
      nullptr;  ///< The two latest samples of the cluster; null where there is none yet.
  const ClusterSample* now = nullptr;
};

struct ReplayOptions {
  std::vector<HttpUrl> targets;  ///< Requests go to them in turn.
  double speed = 1;              ///< Of the trace's own time; 0: as fast as `concurrency` allows.
  std::size_t concurrency = 64;  ///< Requests on their way at once.
  bool verify = false;
  Duration duration{};         ///< No request is sent after so long; 0: all are.
  Duration sample_interval{};  ///< How often the cluster is asked meanwhile; 0: at the start and at
                               ///< the end.
  Duration timeout = std::chrono::seconds(60);  ///< Of one request, repeats included.
  /// Called on the control loop, a few times a second.
  std::function<void(const ReplayProgress&)> progress;
};

struct ReplayResult {
  ReplayReport report;
  Duration took{};
  std::size_t sent = 0;  ///< Requests of the trace, from the first on.
  ClusterView moved;  ///< What each path moved meanwhile; empty if the cluster could not be asked.
};

/// Not from a loop. Errors: a target that cannot be reached or is no instance of ours (kNoInstance,
/// kNotAnInstance); failures of single requests are in the report.
[[nodiscard]] Result<ReplayResult> Replay(World& world, const Trace& trace,
                                          const ReplayOptions& options);

}  // namespace mooncake
