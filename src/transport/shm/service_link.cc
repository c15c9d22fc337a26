#include "transport/shm/service_link.h"

namespace mooncake::shm {
namespace {

Error Unusable(std::string reason, int os_error = 0) {
  return Error{ErrorId::kPathUnusable, std::move(reason), os_error};
}

// Not inlined: GCC 12 loses track of the text's length otherwise, and warns.
[[gnu::noinline]] Result<LocalMessage> TooLate() {
  return Fail(ErrorId::kDeadline, "the peer's local service does not answer");
}

// What a reply says, its error included: a peer's number is an ErrorId only if the catalogue has
// it.
Result<LocalMessage> Judge(LocalMessage message) {
  const std::optional<MessageHeader> header = DecodeHeader(message.bytes);
  if (!header || header->type != MessageType::kReply)
    return Fail(ErrorId::kBadFrame, "a reply of the peer's local service");
  if (header->error == 0) return message;
  const ErrorId id{header->error};
  return Fail(FindError(id).id == id ? id : ErrorId::kPathFailed, "says the peer's local service");
}

}  // namespace

Task<Result<std::shared_ptr<ServiceLink>>> ServiceLink::Open(World& world, InstanceId self,
                                                             std::shared_ptr<const PeerInfo> peer,
                                                             Instant deadline) {
  const HostIdentity& ours = world.network.host();
  if (!IsSameHost(ours, peer->host)) {
    co_return Fail(Unusable(fmt::format("another host: {} here, {} there (boot ids differ)",
                                        ours.host_name, peer->host.host_name)));
  }
  const std::optional<Advertisement> there = ParseAdvertisement(peer->advertisement);
  if (!there) co_return Fail(Unusable("the peer offers no local service"));
  Result<std::shared_ptr<LocalSocket>> socket = LocalSocket::Connect(world.control, there->name);
  if (!socket) {
    const bool refused = socket.error().id == ErrorId::kConnectRefused;
    co_return Fail(Unusable(refused ? "the peer's local socket is not seen from here: another "
                                      "network namespace, or it has stopped"
                                    : socket.error().context,
                            socket.error().os_error));
  }
  std::shared_ptr<ServiceLink> link(new ServiceLink(world, *socket));
  Spawn(world.control, Listen(link));
  Result<LocalMessage> welcome =
      co_await link->Call(Hello{self, peer->id, there->nonce}, {}, deadline);
  if (!welcome) {
    link->Close();
    const bool wrong = welcome.error().id == ErrorId::kWrongPeer;
    const bool denied = welcome.error().id == ErrorId::kBadRegionKey;
    co_return Fail(Unusable(wrong ? "another process answers at the peer's local name"
                            : denied
                                ? "the peer runs as another user, and only root may be served too"
                                : "the peer's local service: " + welcome.error().Text()));
  }
  co_return link;
}

Task<Result<LocalMessage>> ServiceLink::Exchange(std::uint64_t request,
                                                 std::vector<std::byte> bytes,
                                                 std::vector<int> descriptors, Instant deadline) {
  const std::shared_ptr<ServiceLink> self = shared_from_this();
  if (gone()) co_return Fail(ErrorId::kPeerGone, "the local connection has ended");
  OneShot<Result<LocalMessage>> reply;
  const std::unique_ptr<Timer> timer = world_.clock.MakeTimer(world_.control);
  if (deadline != kNever) {
    timer->At(deadline, [&reply] { reply.Set(TooLate()); });
  }
  waiting_[request] = &reply;
  const Status sent = co_await socket_->Send(bytes, descriptors, deadline);
  if (!sent)
    reply.Set(Fail(sent.error().id == ErrorId::kDeadline ? ErrorId::kDeadline : ErrorId::kPeerGone,
                   sent.error().context));
  Result<LocalMessage> answer = co_await reply.Get();
  waiting_.erase(request);
  if (!answer) co_return answer;
  co_return Judge(std::move(*answer));
}

Task<void> ServiceLink::Listen(std::shared_ptr<ServiceLink> self) {
  while (true) {
    Result<LocalMessage> message = co_await self->socket_->Receive(kNever);
    if (!message) break;
    const std::optional<MessageHeader> header = DecodeHeader(message->bytes);
    if (!header) break;
    const auto waiting = self->waiting_.find(header->request);
    if (waiting != self->waiting_.end())
      waiting->second->Set(std::move(*message));  // else: too late, nobody waits
  }
  self->socket_->Close();
  self->gone_.store(true, std::memory_order_release);
  for (const auto& [request, reply] : self->waiting_)
    reply->Set(Fail(ErrorId::kPeerGone, "the local connection has ended"));
  if (self->on_gone_) std::exchange(self->on_gone_, nullptr)();
}

void ServiceLink::OnGone(std::function<void()> call) {
  if (gone()) {
    call();
  } else {
    on_gone_ = std::move(call);
  }
}

void ServiceLink::Close() noexcept {
  gone_.store(true, std::memory_order_release);
  Post(world_.control, [self = shared_from_this()] { self->socket_->Close(); });
}

}  // namespace mooncake::shm
