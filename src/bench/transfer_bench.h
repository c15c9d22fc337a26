// `mooncake bench transfer`: moves bytes between this process and a peer's, row by row, each beside
// the limit of the machine in the same minute.
#pragma once

#include <functional>
#include <vector>

#include "bench/report.h"
#include "engine/engine.h"

namespace mooncake {

inline constexpr std::uint64_t kBenchAreaBytes = 256 << 20;  ///< Of registered memory on each side.
inline constexpr std::uint64_t kBenchAreaBytesTiny = 4 << 20;

struct TransferBenchOptions {
  std::string peer;  ///< host:port of a BenchPeer.
  std::vector<BenchRow> rows;
  std::vector<BenchTransport> transports;
  Duration duration = std::chrono::seconds(1);  ///< Of each entry, limits included.
  int rounds = 5;                               ///< Alternations between ours and the limit.
  std::uint64_t call_bytes_max = UINT64_MAX;    ///< Longer rows are made shorter.
  std::string verbs_device;  ///< Whose limit RDMA is compared with; empty: with none.
  Duration idle_duration = std::chrono::seconds(2);
  std::function<void(const BenchEntry&)> on_entry;  ///< As soon as it is measured.
  std::string why_no_rdma;  ///< Where the transports are made without it; may be empty.
  std::function<void(const std::string&)> on_skipped;  ///< Why a transport is not measured.
};

/// Not from a loop. Errors as Engine::Run and Engine::Connect. Wrong bytes are no error here:
/// BenchEntry::verified tells.
[[nodiscard]] Result<std::vector<BenchEntry>> RunTransferBench(
    World& world, const TransportFactory& add_transports, const CopyEngine& copy,
    const TransferBenchOptions& options);

}  // namespace mooncake
