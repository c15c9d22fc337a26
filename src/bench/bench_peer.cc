#include "bench/bench_peer.h"

#include "base/real_world.h"
#include "bench/limits.h"
#include "wire/messages.pb.h"

namespace mooncake {

// One plain connection after the other, each command of it on this thread: what a bare program
// would do.
class BenchPeer::LimitServer {
 public:
  [[nodiscard]] static Result<std::unique_ptr<LimitServer>> Start(World& world, const IpAddress& at,
                                                                  MutableBytes area) {
    MC_TRY(PlainListener listener, PlainListener::Listen(at));
    return std::unique_ptr<LimitServer>(new LimitServer(world, std::move(listener), area));
  }
  ~LimitServer() {
    listener_.Shutdown();
    worker_->Stop();
  }
  LimitServer(const LimitServer&) = delete;
  LimitServer& operator=(const LimitServer&) = delete;
  [[nodiscard]] std::uint16_t port() const noexcept { return listener_.port(); }

 private:
  LimitServer(World& world, PlainListener listener, MutableBytes area)
      : listener_(std::move(listener)), worker_(world.threads.MakeWorker()) {
    worker_->Add([this, area] {
      for (Result<PlainSocket> socket = listener_.Accept(); socket; socket = listener_.Accept()) {
        while (ServeLimitCommand(*socket, area)) {
        }
      }
    });
  }
  PlainListener listener_;
  std::unique_ptr<Worker> worker_;
};

Result<std::unique_ptr<BenchPeer>> BenchPeer::Open(World& world,
                                                   const TransportFactory& add_transports,
                                                   const CopyEngine& copy, const Endpoint& at,
                                                   std::uint64_t area_bytes) {
  std::unique_ptr<BenchPeer> peer(new BenchPeer(world, add_transports, copy, area_bytes));
  MC_TRY_STATUS(peer->Start(at));
  return peer;
}

BenchPeer::BenchPeer(World& world, const TransportFactory& add_transports, const CopyEngine& copy,
                     std::uint64_t area_bytes)
    : world_(world),
      user_(area_bytes),
      limit_(area_bytes),
      worker_(world.threads.MakeWorker()),
      node_(world, "bench-peer", {}, add_transports, copy) {}

BenchPeer::~BenchPeer() = default;

Status BenchPeer::Start(const Endpoint& at) {
  MC_TRY(user_region_, node_.engine().Register(user_.bytes().data(), user_.bytes().size()));
  MC_TRY(mapped_region_, node_.engine().Allocate(kBenchMemfdName, user_.bytes().size()));
  std::memset(Area(BenchAreaKind::kMapped).data(), 0, user_.bytes().size());
  MC_TRY(limit_server_, LimitServer::Start(world_, at.address, limit_.bytes()));
  node_.router().Add(Method::kBench, [this](RpcCall&, Frame request) -> Task<Result<Reply>> {
    auto answer = Answer(std::move(request));
    co_return co_await std::move(answer);
  });
  MC_TRY(endpoint_, node_.Listen(at));
  return {};
}

MutableBytes BenchPeer::Area(BenchAreaKind kind) const noexcept {
  if (kind == BenchAreaKind::kUser) return user_.bytes();
  return {reinterpret_cast<std::byte*>(mapped_region_.base), user_.bytes().size()};
}

Task<Result<Reply>> BenchPeer::Answer(Frame request) {
  pb::BenchRequest body;
  if (!Parse(request.body, body) || body.area() > 1 || body.action() > 3)
    co_return Fail(ErrorId::kBadFrame, "BenchRequest");
  const auto action = static_cast<BenchAction>(body.action());
  const MutableBytes area = Area(static_cast<BenchAreaKind>(body.area()));
  pb::BenchReply reply;
  if (action != BenchAction::kTell) {
    const auto done = std::make_shared<OneShot<std::uint64_t>>();
    worker_->Add([this, action, area, done] {
      std::uint64_t digest = 0;
      if (action == BenchAction::kFill) FillWithPattern(area);
      if (action == BenchAction::kClear) std::memset(area.data(), 0, area.size());
      if (action == BenchAction::kDigest) digest = Digest(area);
      Post(world_.control, [done, digest] { done->Set(digest); });
    });
    reply.set_digest(co_await done->Get());
  }
  reply.set_cpu_ns(static_cast<std::uint64_t>(ProcessCpuTime().count()));
  reply.set_limit_port(limit_server_->port());
  reply.set_user_region(static_cast<std::uint64_t>(user_region_.id));
  reply.set_mapped_region(static_cast<std::uint64_t>(mapped_region_.id));
  reply.set_user_base(user_region_.base);
  reply.set_area_bytes(user_.bytes().size());
  co_return MakeReply(reply);
}

}  // namespace mooncake
