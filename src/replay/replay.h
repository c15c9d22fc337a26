// Sends a trace to running instances, as their clients would, and compares the answers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "replay/report.h"
#include "trace/trace.h"
#include "wire/http.h"

namespace mooncake {

struct ReplayOptions {
  std::vector<HttpUrl> targets;    ///< Requests go to them in turn.
  double speed = 1;                ///< Of the trace's own time; 0: as fast as `concurrency` allows.
  std::size_t concurrency = 64;    ///< Requests on their way at once.
  bool verify = false;
  Duration timeout = std::chrono::seconds(60);  ///< Of one request, repeats included.
  /// Called on the control loop, a few times a second.
  std::function<void(const ReplayReport&, Duration elapsed)> progress;
};

struct ReplayResult {
  ReplayReport report;
  Duration took{};
};

/// Not from a loop. Errors: a target that cannot be reached or is no instance of ours (kConnectRefused, kBadHttp, …);
/// failures of single requests are in the report.
[[nodiscard]] Result<ReplayResult> Replay(World& world, const Trace& trace, const ReplayOptions& options);

}  // namespace mooncake
