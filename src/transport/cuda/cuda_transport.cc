#include "transport/cuda/cuda_transport.h"

#include "transport/cuda/cuda_path.h"
#include "transport/cuda/cuda_server.h"

namespace mooncake {
namespace {

using cuda::CudaPath;
using cuda::CudaPathContext;
using cuda::CudaServerContext;

constexpr Duration kFrameTimeout = std::chrono::seconds(60);

class CudaTransport final : public Transport {
 public:
  CudaTransport(World& world, Metrics& metrics, std::shared_ptr<const RegionTable> regions,
                std::shared_ptr<DeviceMemory> gpus, const CopyEngine& copy,
                std::function<Introduction()> introduce)
      : world_(world),
        regions_(regions),
        stager_(std::make_shared<cuda::Stager>(world, gpus, copy)),
        served_(std::make_shared<ServedLanes>(world, kFrameTimeout)) {
    Counter& sent = metrics.AddCounter("mooncake_cuda_sent_bytes_total",
                                       "Bytes of transfers sent from or to memory of GPUs.");
    Counter& received =
        metrics.AddCounter("mooncake_cuda_received_bytes_total",
                           "Bytes of transfers received from or into memory of GPUs.");
    const auto dial = [closed = closed_, &world, introduce](std::shared_ptr<const PeerInfo> peer,
                                                            Instant deadline) {
      return DialCuda(world, closed, introduce, std::move(peer), deadline);
    };
    paths_context_ = std::make_shared<const CudaPathContext>(
        CudaPathContext{world, memory_, gpus, stager_, dial, sent, received});
    server_ = std::make_shared<const CudaServerContext>(
        CudaServerContext{world, regions, stager_,
                          std::make_shared<cuda::Exporter>(world, gpus, regions), received, sent});
  }
  ~CudaTransport() override { CudaTransport::Close(); }

  std::string_view name() const noexcept override { return "cuda"; }
  std::string Advertise() const override { return "1"; }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer, Instant) override {
    if (*closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    if (peer->advertisement.empty())
      co_return Fail(ErrorId::kPathUnusable, "the peer does not offer cuda");
    if (!regions_->has_gpu_regions() && !peer->regions->has_gpu_regions())
      co_return Fail(ErrorId::kPathUnusable, "neither side has registered memory of a GPU");
    auto path = std::make_shared<CudaPath>(paths_context_, std::move(peer));
    std::erase_if(paths_, [](const auto& p) { return p.expired(); });
    paths_.push_back(path);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) override {
    if (*closed_) return stream->Close();
    const auto lane = std::make_shared<cuda::ServedCudaLane>(std::move(stream), peer->id);
    served_->Add(lane);
    Spawn(world_.data, cuda::ServeCuda(lane, server_));
  }

  bool lands_late() const noexcept override { return true; }
  void EndTransfersOf(const InstanceId& peer) override { served_->EndOf(peer); }

  void Offer(const RegionInfo& region) override { memory_->Add(region); }
  Task<void> Withdraw(RegionId region) override {
    memory_->Remove(region);
    co_return;
  }

  void Close() noexcept override {
    if (closed_->exchange(true)) return;
    for (const auto& weak : std::exchange(paths_, {})) {
      if (const auto path = weak.lock()) path->Close();
    }
    Post(world_.data, [served = served_] { served->Close(); });
    stager_->Close();
  }

 private:
  // Whoever waits for a connection may outlast the transport.
  static Task<Result<std::shared_ptr<BufferedReader>>> DialCuda(
      World& world, std::shared_ptr<const std::atomic<bool>> closed,
      std::function<Introduction()> introduce, std::shared_ptr<const PeerInfo> peer,
      Instant deadline) {
    if (*closed) co_return Fail(ErrorId::kClosed, "the transport stops");
    auto dial = Dial(world, world.control, peer->endpoint, introduce(), "cuda", peer->id, deadline);
    Result<Handshake> handshake = co_await std::move(dial);
    if (!handshake) co_return Fail(handshake.error());
    if (*closed) co_return Fail(ErrorId::kClosed, "the transport stops");
    co_return std::shared_ptr<BufferedReader>(std::move(handshake->reader));
  }

  World& world_;
  const std::shared_ptr<std::atomic<bool>> closed_ = std::make_shared<std::atomic<bool>>(false);
  const std::shared_ptr<const RegionTable> regions_;
  const std::shared_ptr<cuda::LocalMemory> memory_ = std::make_shared<cuda::LocalMemory>();
  const std::shared_ptr<cuda::Stager> stager_;
  std::shared_ptr<const CudaPathContext> paths_context_;
  std::shared_ptr<const CudaServerContext> server_;
  std::vector<std::weak_ptr<Path>> paths_;  // control loop
  const std::shared_ptr<ServedLanes> served_;
};

}  // namespace

std::unique_ptr<Transport> MakeCudaTransport(World& world, Metrics& metrics,
                                             std::shared_ptr<const RegionTable> regions,
                                             std::shared_ptr<DeviceMemory> gpus,
                                             const CopyEngine& copy,
                                             std::function<Introduction()> introduce) {
  return std::make_unique<CudaTransport>(world, metrics, std::move(regions), std::move(gpus), copy,
                                         std::move(introduce));
}

}  // namespace mooncake
