#include "engine/connector.h"

#include <fmt/format.h>

#include "base/log.h"

namespace mooncake {

std::shared_ptr<PeerImpl> Connector::Find(const InstanceId& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(id);
  return found == peers_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<PeerImpl>> Connector::Peers() const {
  std::vector<std::shared_ptr<PeerImpl>> peers;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, peer] : peers_) peers.push_back(peer);
  return peers;
}

// A loopback address means the peer only if the peer is on this host.
std::vector<Endpoint> Connector::Candidates(const Record& record) const {
  const bool same_host = IsSameHost(record.identity.host, world_.network.host());
  std::vector<Endpoint> candidates;
  for (const Endpoint& endpoint : record.endpoints) {
    if (same_host || !endpoint.address.is_loopback()) candidates.push_back(endpoint);
  }
  return candidates;
}

Task<Result<std::shared_ptr<PeerImpl>>> Connector::Connect(std::string label, Instant deadline) {
  const auto self = shared_from_this();
  if (const auto known = by_name_.find(label); known != by_name_.end()) {
    if (const auto peer = Find(known->second); peer && peer->is_connected()) co_return peer;
  }
  Result<Record> record = co_await directory_.Find(label, deadline);
  if (!record) co_return Fail(record.error());
  auto connect = Connect(std::move(*record), deadline);
  co_return co_await std::move(connect);
}

Task<Result<std::shared_ptr<PeerImpl>>> Connector::Connect(Record record, Instant deadline) {
  const auto self = shared_from_this();
  const std::string key =
      record.identity.id.empty() ? record.identity.label : ToString(record.identity.id);
  for (;;) {
    if (closed_) co_return Fail(ErrorId::kClosed, "the engine stops");
    const auto peer = Find(record.identity.id);
    if (peer && peer->is_connected()) co_return peer;
    const auto busy = connecting_.find(key);
    if (busy == connecting_.end()) break;
    const auto wait = std::make_shared<OneShot<bool>>();
    busy->second.push_back(wait);
    auto made = WaitUntil(world_.clock, world_.control, wait, deadline);
    if (!co_await std::move(made))
      co_return Fail(ErrorId::kConnectTimeout,
                     Describe(record.identity) + " is being connected to");
  }
  connecting_[key] = {};
  auto once = ConnectOnce(std::move(record), deadline);
  Result<std::shared_ptr<PeerImpl>> peer = co_await std::move(once);
  const auto waiting = std::move(connecting_[key]);
  connecting_.erase(key);
  for (const auto& wait : waiting) wait->Set(true);
  co_return peer;
}

Task<Result<Handshake>> Connector::DialAny(Record record, Instant deadline) {
  const std::vector<Endpoint> candidates = Candidates(record);
  if (candidates.empty()) {
    co_return Fail(
        ErrorId::kConnectRefused,
        Describe(record.identity) + " has published no address that can be reached from here");
  }
  Error last{ErrorId::kNetwork, {}};
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    // Each address gets its share of the time, so that one in a black hole does not use up that of
    // the others.
    const Instant now = world_.clock.Now();
    const Duration left = std::min<Duration>(
        deadline == kNever ? options_.connect_timeout : deadline - now, options_.connect_timeout);
    const Instant limit = After(now, left / static_cast<std::int64_t>(candidates.size() - i));
    auto dial = Dial(world_, world_.control, candidates[i], introduce_(), std::string(kPurposeRpc),
                     record.identity.id, limit);
    Result<Handshake> handshake = co_await std::move(dial);
    if (handshake) co_return handshake;
    last = handshake.error();
  }
  co_return Fail(Within(Describe(record.identity), last));
}

Task<Result<std::shared_ptr<PeerImpl>>> Connector::ConnectOnce(Record record, Instant deadline) {
  auto dial = DialAny(record, deadline);
  Result<Handshake> handshake = co_await std::move(dial);
  if (closed_) co_return Fail(ErrorId::kClosed, "the engine stops");
  if (!handshake) co_return Fail(handshake.error());
  const Identity identity = handshake->peer;
  const auto connection = std::make_shared<RpcConnection>(
      world_, world_.control, std::move(*handshake), router_, options_.rpc);
  std::shared_ptr<PeerImpl> peer = Find(identity.id);
  if (!peer) {
    peer = std::make_shared<PeerImpl>(world_, identity, record, make_slots_());
    peer->reconnect = [weak = weak_from_this()](std::shared_ptr<PeerImpl> p,
                                                Instant limit) -> Task<Status> {
      const auto connector = weak.lock();
      if (!connector) co_return Fail(ErrorId::kClosed, "the engine stops");
      co_return co_await connector->Reconnect(p, limit);
    };
    const std::lock_guard lock(mutex_);
    DropForgotten();
    peers_[identity.id] = peer;
  }
  if (record.identity.id.empty()) by_name_[record.identity.label] = identity.id;
  connection->Start();
  auto attach = peer->Attach(connection, deadline);
  co_await std::move(attach);
  if (closed_) co_return Fail(ErrorId::kClosed, "the engine stops");
  co_return peer;
}

// Peers that are gone and that nobody holds any more: some of them stay, for the path table.
void Connector::DropForgotten() {
  constexpr std::size_t kKeptMax = 64;
  std::size_t kept = 0;
  std::erase_if(peers_, [&kept](const auto& entry) {
    const std::shared_ptr<PeerImpl>& peer = entry.second;
    return !peer->is_connected() && peer.use_count() == 1 && ++kept > kKeptMax;
  });
  std::erase_if(by_name_, [this](const auto& entry) { return !peers_.contains(entry.second); });
}

Task<Status> Connector::Reconnect(std::shared_ptr<PeerImpl> peer, Instant deadline) {
  const auto self = shared_from_this();
  if (peer->is_connected()) co_return Status{};
  Record record = peer->record();
  record.identity = peer->identity();  // this process and no successor: region numbers are its own
  auto connect = Connect(std::move(record), deadline);
  const Result<std::shared_ptr<PeerImpl>> again = co_await std::move(connect);
  if (again && *again == peer) co_return Status{};
  if (again)
    co_return Fail(ErrorId::kPeerGone,
                   Describe(peer->identity()) + " was given up before, and is connected anew");
  const Error& error = again.error();
  if (error.id != ErrorId::kConnectRefused && error.id != ErrorId::kWrongPeer)
    co_return Fail(error);
  // Nothing, or another process, listens where it was: it will not come back under this id.
  peer->Close(error);
  {
    const std::lock_guard lock(mutex_);
    peers_.erase(peer->identity().id);
  }
  co_return Fail(ErrorId::kPeerGone, error.context, error.os_error);
}

void Connector::Close(const Error& cause) {
  closed_ = true;
  for (const std::shared_ptr<PeerImpl>& peer : Peers()) peer->Close(cause);
  const std::lock_guard lock(mutex_);
  peers_.clear();
}

}  // namespace mooncake
