// The target's side of connections of purpose "cuda": frames whose bytes go to or come from a GPU
// by way of buffers, and handles of that memory for processes of this host.
#pragma once

#include <memory>
#include <mutex>

#include "base/metrics.h"
#include "gpu/device_memory.h"
#include "memory/region_table.h"
#include "transport/cuda/stager.h"
#include "transport/served_lanes.h"
#include "wire/frame.h"

namespace mooncake::cuda {

/// What this process tells others of its GPU memory. On the stager's thread.
class Exporter {
 public:
  Exporter(World& world, std::shared_ptr<DeviceMemory> gpus,
           std::shared_ptr<const RegionTable> regions)
      : world_(world), gpus_(std::move(gpus)), regions_(std::move(regions)) {}
  /// Answers a CudaExportRequest, a peer's bytes, with a CudaExportReply. Errors: kBadFrame,
  /// kRegionUnknown, kBadRegionKey, kMemoryKind (a region of the host), kGpuCall.
  [[nodiscard]] Result<std::string> Answer(const std::string& request);

 private:
  [[nodiscard]] Status MakeProof();

  World& world_;
  const std::shared_ptr<DeviceMemory> gpus_;
  const std::shared_ptr<const RegionTable> regions_;
  // Memory of a GPU that holds the nonce: whoever reads it has opened memory of this process.
  std::string nonce_;
  std::unique_ptr<OwnedBytes> proof_;
  std::vector<ExportedPiece> exported_proof_;
  bool told_of_staging_ = false;  // the line has been written
};

struct CudaServerContext {
  World& world;
  std::shared_ptr<const RegionTable> regions;
  std::shared_ptr<Stager> stager;
  std::shared_ptr<Exporter> exporter;
  Counter& received_bytes;
  Counter& sent_bytes;
};

/// A connection that is served, of which nothing lands once it has ended.
struct ServedCudaLane final : ServedLane {
  using ServedLane::ServedLane;
  void End() override;
  std::shared_ptr<Landing> landing = std::make_shared<Landing>();
};

/// Serves until the stream ends or says something that belongs nowhere. On the data loop.
[[nodiscard]] Task<void> ServeCuda(std::shared_ptr<ServedCudaLane> lane,
                                   std::shared_ptr<const CudaServerContext> context);

}  // namespace mooncake::cuda
