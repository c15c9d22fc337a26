// What can be set about RDMA.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mooncake {

struct RdmaOptions {
  std::uint32_t queue_depth = 128;  ///< Requests posted and unfinished on one queue pair.
  /// On one device: three for each peer, and three more where it has connected as well.
  std::uint32_t queue_pairs_max = 3072;
  /// Longest request; at least 4 KiB. Slower links are given shorter ones, and devices no longer
  /// ones than they take.
  std::uint64_t piece_bytes_max = 8 << 20;
  /// Memory is registered in pieces of this size at most, and of what the device allows.
  std::uint64_t chunk_bytes_max = 1ULL << 30;
  /// Names of devices for memory at a location ("cpu:1", "cuda:3"), in groups from near to far, as
  /// TiersFor() (topology/topology.h) has them. A location that is not there: all are equally far.
  std::map<std::string, std::vector<std::vector<std::string>>> nearest;
  /// A queue pair counts as broken after about 4.096 us x 2^timeout x (retries + 1) without an
  /// acknowledgement: 0.4 s. `retries` is at most 6: soft-RoCE takes 7 for "for ever".
  std::uint8_t timeout = 14;
  std::uint8_t retries = 5;
};

}  // namespace mooncake
