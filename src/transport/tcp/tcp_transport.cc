#include "transport/tcp/tcp_transport.h"

#include "transport/tcp/tcp_path.h"
#include "transport/tcp/tcp_server.h"

namespace mooncake {
namespace {

class TcpTransport final : public Transport {
 public:
  TcpTransport(World& world, Metrics& metrics, std::shared_ptr<const RegionTable> regions,
               const CopyEngine& copy, std::function<Introduction()> introduce, TcpOptions options)
      : world_(world),
        copy_(copy),
        introduce_(std::move(introduce)),
        options_(options),
        sent_bytes_(metrics.AddCounter("mooncake_tcp_sent_bytes_total",
                                       "Bytes of transfers sent over TCP.")),
        received_bytes_(metrics.AddCounter("mooncake_tcp_received_bytes_total",
                                           "Bytes of transfers received over TCP.")),
        server_(std::make_shared<const TcpServerContext>(
            TcpServerContext{std::move(regions), copy, received_bytes_, sent_bytes_,
                             metrics.AddCounter("mooncake_tcp_corrupt_frames_total",
                                                "Data frames whose CRC32C did not fit.")})) {}

  std::string_view name() const noexcept override { return "tcp"; }
  std::string Advertise() const override { return "1"; }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer,
                                           Instant deadline) override {
    if (peer->advertisement.empty())
      co_return Fail(ErrorId::kPathUnusable, "the peer does not offer tcp");
    const auto path =
        std::make_shared<TcpPath>(world_, peer, copy_, options_, sent_bytes_, received_bytes_);
    std::vector<std::unique_ptr<TcpCallerLane>> caller_lanes;
    for (std::size_t i = 0; i < options_.lanes + options_.caller_lanes; ++i) {
      auto dial = Dial(world_, world_.control, peer->endpoint, introduce_(), std::string(name()),
                       peer->id, deadline);
      Result<Handshake> handshake = co_await std::move(dial);
      if (!handshake || closed_) {
        path->Close();
        co_return handshake ? Fail(ErrorId::kClosed, "the transport stops")
                            : Fail(handshake.error());
      }
      std::shared_ptr<Stream> stream = handshake->reader->shared_stream();
      if (i >= options_.lanes) {
        std::unique_ptr<ThreadStream> taken = stream->TakeForThreads();
        if (!taken) break;
        caller_lanes.push_back(std::make_unique<TcpCallerLane>(
            world_, copy_, options_.frame_bytes_max, std::move(taken)));
        continue;
      }
      const Status moved = stream->MoveTo(world_.data);
      if (!moved) {
        path->Close();
        co_return Fail(moved.error());
      }
      Post(world_.data, [path, stream] {
        path->AddLane(std::make_unique<BufferedReader>(stream, kDataAheadBytes));
      });
    }
    path->SetCallerLanes(std::move(caller_lanes));
    std::erase_if(paths_, [](const std::weak_ptr<TcpPath>& p) { return p.expired(); });
    paths_.push_back(path);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) override {
    if (closed_) return stream->Close();
    std::erase_if(served_, [](const std::weak_ptr<ServedLane>& l) { return l.expired(); });
    stream->ExpectMore();
    auto lane = std::make_shared<ServedLane>(ServedLane{std::move(stream), peer->id});
    served_.push_back(lane);
    Spawn(world_.data, ServeTcpData(std::move(lane), server_));
  }

  bool lands_late() const noexcept override { return true; }
  void EndTransfersOf(const InstanceId& peer) override {
    for (const auto& weak : served_) {
      const auto lane = weak.lock();
      if (lane && lane->peer == peer) lane->End();
    }
  }

  void Close() noexcept override {
    // `served_` belongs to the data loop, `paths_` to the control loop; each end closes where it
    // lives.
    closed_ = true;
    for (const auto& weak : paths_) {
      if (const auto path = weak.lock()) path->Close();
    }
    Post(world_.data, [lanes = served_] {
      for (const auto& weak : lanes) {
        if (const auto lane = weak.lock()) lane->End();
      }
    });
  }

 private:
  World& world_;
  CopyEngine copy_;
  std::function<Introduction()> introduce_;
  TcpOptions options_;
  Counter& sent_bytes_;
  Counter& received_bytes_;
  std::shared_ptr<const TcpServerContext> server_;
  std::atomic<bool> closed_ = false;
  std::vector<std::weak_ptr<TcpPath>> paths_;
  std::vector<std::weak_ptr<ServedLane>> served_;
};

}  // namespace

std::unique_ptr<Transport> MakeTcpTransport(World& world, Metrics& metrics,
                                            std::shared_ptr<const RegionTable> regions,
                                            const CopyEngine& copy,
                                            std::function<Introduction()> introduce,
                                            TcpOptions options) {
  return std::make_unique<TcpTransport>(world, metrics, std::move(regions), copy,
                                        std::move(introduce), options);
}

}  // namespace mooncake
