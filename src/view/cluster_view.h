// A cluster as its instances describe it: what GET /cluster answers, read into values, and what has
// happened between two such answers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/world.h"

namespace mooncake {

/// A transport from one instance to a peer.
struct PathView {
  std::string peer;  ///< Its label.
  std::string peer_id;
  std::string transport;
  bool usable = false;
  std::string reason;  ///< Why it is not usable; empty where it has not been tried yet.
  std::string detail;  ///< What it consists of: the rails of RDMA, and why there are not more.
  std::uint64_t bytes = 0;
  std::uint64_t transfers = 0;
  std::uint64_t failures = 0;
  double gigabytes_per_second = 0;  ///< Measured while it moved; 0: nothing yet that would tell.
  bool suspected = false;           ///< The peer has been silent.
};

struct DirectoryView {
  std::string connection;
  bool reachable = true;
  double unreachable_seconds = 0;
  std::string cause;
};

struct InstanceView {
  std::string id;
  std::string label;
  std::string role;
  std::string endpoint;
  std::string model;
  double uptime_seconds = 0;
  bool draining = false;
  std::uint64_t queue_length = 0;  ///< Requests that it prefills or decodes, or that wait for it.
  std::uint64_t queue_max = 0;
  std::uint64_t pages = 0;
  std::uint64_t pages_free = 0;
  std::uint64_t page_hits = 0;  ///< Pages looked for in its prefix cache and found.
  std::uint64_t page_misses = 0;
  DirectoryView directory;
  std::vector<PathView> paths;
};

/// An instance that the directory lists and that does not answer, or a target that a person named.
struct MissingView {
  std::string label;
  std::string reason;
};

struct ClusterView {
  std::vector<InstanceView>
      instances;  ///< By role and label: two samples show them in the same order.
  std::vector<MissingView> missing;
};

/// `body` is another process's, so it is data: text without control characters, numbers in range or
/// 0. kNotAnInstance if it is no answer of /cluster; fields that an older version does not have are
/// empty.
[[nodiscard]] Result<ClusterView> ParseCluster(std::string_view body);

/// Several answers of /cluster as one: an instance that is in more than one appears once, and is
/// not missing if any answer has it. What cannot be parsed is left out.
[[nodiscard]] std::string MergeClusters(std::span<const std::string> bodies,
                                        std::span<const MissingView> missing);

/// What has happened since `before`: bytes, transfers and failures of each path of `now` less what
/// they were. Instances that `before` does not have count from zero.
[[nodiscard]] ClusterView Since(const ClusterView& before, const ClusterView& now);

/// A cluster at one moment of the reader's clock.
struct ClusterSample {
  ClusterView view;
  Instant at{};
};

}  // namespace mooncake
