#include "transport/tcp/tcp_transport.h"

#include "transport/tcp/tcp_path.h"
#include "transport/tcp/tcp_server.h"

namespace mooncake {
namespace {

constexpr Duration kRedialDelayMin = std::chrono::milliseconds(20);
constexpr Duration kRedialDelayMax = std::chrono::seconds(2);
constexpr Duration kRedialTimeout = std::chrono::seconds(3);

// Makes the connections of paths; shared with whoever waits for one, who may outlast the transport.
// On the control loop.
class TcpDialer : public std::enable_shared_from_this<TcpDialer> {
 public:
  TcpDialer(World& world, std::function<Introduction()> introduce)
      : world_(world), introduce_(std::move(introduce)) {}

  /// kClosed after Close(), also when that comes while it waits.
  Task<Result<std::shared_ptr<Stream>>> DialLane(std::shared_ptr<const PeerInfo> peer,
                                                 Instant deadline) {
    const auto self = shared_from_this();
    if (closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    auto dial =
        Dial(world_, world_.control, peer->endpoint, introduce_(), "tcp", peer->id, deadline);
    Result<Handshake> handshake = co_await std::move(dial);
    if (!handshake) co_return Fail(handshake.error());
    if (closed_) co_return Fail(ErrorId::kClosed, "the transport stops");
    co_return handshake->reader->shared_stream();
  }

  /// Hands a connection to the data loop.
  Status AddTo(const std::shared_ptr<TcpPath>& path, const std::shared_ptr<Stream>& stream) {
    MC_TRY_STATUS(stream->MoveTo(world_.data));
    Post(world_.data, [path, stream] {
      path->AddLane(std::make_unique<BufferedReader>(stream, kDataAheadBytes));
    });
    return {};
  }

  /// A path that has lost a connection gets another one, as long as it is open.
  Task<void> Replace(std::weak_ptr<TcpPath> weak, std::shared_ptr<const PeerInfo> peer,
                     TcpCallerLane* lane) {
    const auto self = shared_from_this();
    for (Duration delay = kRedialDelayMin;; delay = std::min(2 * delay, kRedialDelayMax)) {
      const auto woken = std::make_shared<OneShot<bool>>();
      pausing_.push_back(woken);
      auto pause = WaitUntil(world_.clock, world_.control, woken, After(world_.clock.Now(), delay));
      static_cast<void>(co_await std::move(pause));
      std::erase(pausing_, woken);
      if (const auto path = weak.lock(); closed_ || !path || path->is_closed()) co_return;
      auto dial = DialLane(peer, After(world_.clock.Now(), kRedialTimeout));
      const Result<std::shared_ptr<Stream>> stream = co_await std::move(dial);
      const auto path = weak.lock();
      if (closed_ || !path || path->is_closed()) co_return;
      if (!stream) continue;
      if (lane == nullptr && AddTo(path, *stream)) co_return;
      if (lane == nullptr) continue;
      if (std::unique_ptr<ThreadStream> taken = (*stream)->TakeForThreads())
        path->Revive(*lane, std::move(taken));
      co_return;
    }
  }

  /// Whoever pauses is woken: a loop that stops frees nobody who waits for its clock.
  void Close() noexcept {
    closed_ = true;
    Post(world_.control, [self = shared_from_this()] {
      for (const auto& woken : self->pausing_) woken->Set(true);
    });
  }

 private:
  World& world_;
  std::function<Introduction()> introduce_;
  std::vector<std::shared_ptr<OneShot<bool>>> pausing_;
  std::atomic<bool> closed_ = false;
};

class TcpTransport final : public Transport {
 public:
  TcpTransport(World& world, Metrics& metrics, std::shared_ptr<const RegionTable> regions,
               const CopyEngine& copy, std::function<Introduction()> introduce, TcpOptions options)
      : world_(world),
        copy_(copy),
        options_(options),
        dialer_(std::make_shared<TcpDialer>(world, std::move(introduce))),
        sent_bytes_(metrics.AddCounter("mooncake_tcp_sent_bytes_total",
                                       "Bytes of transfers sent over TCP.")),
        received_bytes_(metrics.AddCounter("mooncake_tcp_received_bytes_total",
                                           "Bytes of transfers received over TCP.")),
        server_(std::make_shared<const TcpServerContext>(
            TcpServerContext{std::move(regions), copy, received_bytes_, sent_bytes_,
                             metrics.AddCounter("mooncake_tcp_corrupt_frames_total",
                                                "Data frames whose CRC32C did not fit.")})),
        served_(std::make_shared<ServedLanes>(world, options.frame_timeout)) {}

  std::string_view name() const noexcept override { return "tcp"; }
  std::string Advertise() const override { return "1"; }

  Task<Result<std::shared_ptr<Path>>> Open(std::shared_ptr<const PeerInfo> peer,
                                           Instant deadline) override {
    if (peer->advertisement.empty())
      co_return Fail(ErrorId::kPathUnusable, "the peer does not offer tcp");
    const auto path =
        std::make_shared<TcpPath>(world_, peer, copy_, options_, sent_bytes_, received_bytes_);
    path->OnLaneLost([loop = world_.control, dialer = dialer_, weak = std::weak_ptr(path),
                      peer](auto* lane) {
      Post(loop,
           [loop, dialer, weak, peer, lane] { Spawn(loop, dialer->Replace(weak, peer, lane)); });
    });
    std::vector<std::unique_ptr<TcpCallerLane>> caller_lanes;
    for (std::size_t i = 0; i < options_.lanes + options_.caller_lanes; ++i) {
      auto dial = dialer_->DialLane(peer, deadline);
      const Result<std::shared_ptr<Stream>> stream = co_await std::move(dial);
      if (!stream) {
        path->Close();
        co_return Fail(stream.error());
      }
      if (i >= options_.lanes) {
        std::unique_ptr<ThreadStream> taken = (*stream)->TakeForThreads();
        if (!taken) break;
        caller_lanes.push_back(std::make_unique<TcpCallerLane>(
            world_, copy_, options_.frame_bytes_max, std::move(taken)));
        continue;
      }
      if (const Status added = dialer_->AddTo(path, *stream); !added) {
        path->Close();
        co_return Fail(added.error());
      }
    }
    path->SetCallerLanes(std::move(caller_lanes));
    std::erase_if(paths_, [](const std::weak_ptr<TcpPath>& p) { return p.expired(); });
    paths_.push_back(path);
    co_return path;
  }

  void Serve(std::shared_ptr<Stream> stream, std::shared_ptr<const PeerInfo> peer) override {
    if (closed_) return stream->Close();
    stream->ExpectMore();
    auto lane = std::make_shared<ServedLane>(std::move(stream), peer->id);
    served_->Add(lane);
    Spawn(world_.data, ServeTcpData(world_, std::move(lane), server_));
  }

  bool lands_late() const noexcept override { return true; }
  void EndTransfersOf(const InstanceId& peer) override { served_->EndOf(peer); }

  void Close() noexcept override {
    // What is served belongs to the data loop, `paths_` to the control loop; each end closes where
    // it lives.
    closed_ = true;
    dialer_->Close();
    for (const auto& weak : paths_) {
      if (const auto path = weak.lock()) path->Close();
    }
    Post(world_.data, [served = served_] { served->Close(); });
  }

 private:
  World& world_;
  CopyEngine copy_;
  TcpOptions options_;
  const std::shared_ptr<TcpDialer> dialer_;
  Counter& sent_bytes_;
  Counter& received_bytes_;
  std::shared_ptr<const TcpServerContext> server_;
  std::atomic<bool> closed_ = false;
  std::vector<std::weak_ptr<TcpPath>> paths_;
  const std::shared_ptr<ServedLanes> served_;
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
