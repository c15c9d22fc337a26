#include "transport/shm/shm_service.h"

#include "base/log.h"
#include "transport/transfer_check.h"

namespace mooncake::shm {
namespace {

constexpr Duration kHelloTimeout = std::chrono::seconds(5);
constexpr Duration kSendTimeout = std::chrono::seconds(5);
constexpr std::size_t kConnectionsMax = 4096;
constexpr std::size_t kRingsPerPeerMax = 8;

std::uint16_t Number(ErrorId id) { return static_cast<std::uint16_t>(id); }

}  // namespace

Result<std::shared_ptr<ShmService>> ShmService::Open(World& world, InstanceId self,
                                                     std::shared_ptr<const RegionTable> regions,
                                                     const CopyEngine& copy) {
  Advertisement advertisement{fmt::format("mooncake-{}", ToString(world.random.DrawInstanceId())),
                              world.random.Next()};
  MC_TRY(std::shared_ptr<LocalListener> listener,
         LocalListener::Listen(world.control, advertisement.name));
  std::shared_ptr<ShmService> service(new ShmService(
      world, self, std::move(regions), copy, std::move(advertisement), std::move(listener)));
  Spawn(world.control, AcceptLoop(service));
  return service;
}

ShmService::ShmService(World& world, InstanceId self, std::shared_ptr<const RegionTable> regions,
                       const CopyEngine& copy, Advertisement advertisement,
                       std::shared_ptr<LocalListener> listener)
    : world_(world),
      self_(self),
      regions_(std::move(regions)),
      copy_(copy),
      advertisement_(std::move(advertisement)),
      listener_(std::move(listener)) {}

Task<void> ShmService::AcceptLoop(std::shared_ptr<ShmService> self) {
  for (;;) {
    Result<std::shared_ptr<LocalSocket>> socket = co_await self->listener_->Accept();
    if (!socket) {
      if (socket.error().id == ErrorId::kClosed) co_return;
      constexpr Duration kPause =
          std::chrono::milliseconds(100);  // out of descriptors: some come back
      co_await self->world_.clock.SleepFor(self->world_.control, kPause);
      continue;
    }
    if (self->sockets_.size() >= kConnectionsMax) continue;
    self->sockets_.insert(*socket);
    Spawn(self->world_.control, Serve(self, *socket));
  }
}

Task<void> ShmService::Serve(std::shared_ptr<ShmService> self,
                             std::shared_ptr<LocalSocket> socket) {
  InstanceId introduced;  // as whom; empty until then
  std::vector<std::shared_ptr<RingServer>> rings;
  for (;;) {
    const Instant deadline =
        !introduced.empty() ? kNever : After(self->world_.clock.Now(), kHelloTimeout);
    Result<LocalMessage> message = co_await socket->Receive(deadline);
    if (!message) break;
    const std::optional<MessageHeader> header = DecodeHeader(message->bytes);
    if (!header) break;
    Answer answer;
    if (socket->peer().MayBeServed()) {
      answer = self->Handle(*message, introduced, rings);
    } else {
      answer.error = Number(ErrorId::kBadRegionKey);
    }
    const auto bytes = Encode(header->request, Reply{answer.length_bytes}, answer.error);
    const int fd = answer.descriptor.get();
    const std::span<const int> descriptors(&fd, answer.descriptor ? 1 : 0);
    const Status sent =
        co_await socket->Send(bytes, descriptors, After(self->world_.clock.Now(), kSendTimeout));
    if (!sent || introduced.empty()) break;
  }
  for (const std::shared_ptr<RingServer>& ring : rings) ring->Close();
  socket->Close();
  self->sockets_.erase(socket);
}

ShmService::Answer ShmService::Handle(LocalMessage& message, InstanceId& introduced,
                                      std::vector<std::shared_ptr<RingServer>>& rings) {
  Answer answer;
  if (const auto hello = DecodeBody<Hello>(message.bytes); hello && introduced.empty()) {
    if (hello->peer == self_ && hello->nonce == advertisement_.nonce) introduced = hello->self;
    if (introduced.empty()) answer.error = Number(ErrorId::kWrongPeer);
    return answer;
  }
  if (const auto map = DecodeBody<Map>(message.bytes); map && !introduced.empty()) {
    const auto access = static_cast<Access>(map->access & 3U);
    Result<std::pair<UniqueFd, std::uint64_t>> found =
        regions_->ResolveSegment(RegionId{map->region}, RegionKey{map->key}, access);
    if (!found) {
      answer.error = Number(found.error().id);
    } else {
      answer.descriptor = std::move(found->first);
      answer.length_bytes = found->second;
    }
    return answer;
  }
  if (const auto ring = DecodeBody<Ring>(message.bytes);
      ring && !introduced.empty() && message.descriptors.size() == 2) {
    std::erase_if(rings, [](const auto& r) { return r->ended(); });
    if (rings.size() >= kRingsPerPeerMax || ring->ring_bytes != kRingBytes) {
      answer.error = Number(ErrorId::kPeerBusy);
      return answer;
    }
    Result<std::shared_ptr<RingServer>> server =
        RingServer::Attach(world_, regions_, copy_, std::move(message.descriptors[0]),
                           std::move(message.descriptors[1]));
    if (!server) {
      answer.error = Number(server.error().id);
      return answer;
    }
    const std::lock_guard lock(rings_mutex_);
    if (closed_) {
      answer.error = Number(ErrorId::kClosed);
      return answer;
    }
    std::erase_if(rings_, [](const auto& entry) { return entry.second.expired(); });
    rings_.emplace_back(introduced, *server);
    rings.push_back(*server);
    Spawn(world_.data, RingServer::Serve(*server));
    return answer;
  }
  answer.error = Number(ErrorId::kBadFrame);
  return answer;
}

void ShmService::EndRingsOf(const InstanceId& peer) noexcept {
  std::vector<std::shared_ptr<RingServer>> rings;
  {
    const std::lock_guard lock(rings_mutex_);
    for (const auto& [owner, weak] : rings_) {
      if (auto ring = weak.lock(); ring && owner == peer) rings.push_back(std::move(ring));
    }
  }
  for (const auto& ring : rings) ring->CloseIfAbandoned();
}

void ShmService::Close() noexcept {
  std::vector<std::pair<InstanceId, std::weak_ptr<RingServer>>> rings;
  {
    const std::lock_guard lock(rings_mutex_);
    closed_ = true;
    rings = std::exchange(rings_, {});
  }
  for (const auto& [owner, weak] : rings) {
    if (const auto ring = weak.lock()) ring->Close();
  }
  Post(world_.control, [self = shared_from_this()] {
    self->listener_->Close();
    for (const auto& socket : self->sockets_) socket->Close();
  });
}

}  // namespace mooncake::shm
