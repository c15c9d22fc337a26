#include "engine/notifications.h"

#include <utility>

#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kRepeatDelay = std::chrono::milliseconds(20);
constexpr std::size_t kWaitingMax = 65536;
// A sender that leaves gaps for ever: the oldest gap is given up.
constexpr std::size_t kGapsMax = 4096;

}  // namespace

Task<Status> NotificationSender::Send(std::shared_ptr<PeerImpl> peer, std::string name,
                                      std::string message, Instant deadline) {
  pb::NotifyRequest request;
  request.set_sequence(++sequences_[peer->identity().id]);
  request.set_name(std::move(name));
  request.set_message(std::move(message));
  const std::string body = request.SerializeAsString();
  auto send = SendOverPath(peer, body, deadline);
  if (co_await std::move(send)) co_return Status{};
  for (;;) {  // the receiver knows the sequence number, so it may be said again
    auto call = peer->Call(Method::kNotify, body, deadline, {});
    const Result<Reply> reply = co_await std::move(call);
    if (reply) co_return Status{};
    const Error& error = reply.error();
    const bool may_pass = error.code() == Errc::kPeerGone && error.id != ErrorId::kPeerGone;
    if (!may_pass) co_return Fail(error);
    if (closed_) co_return Fail(ErrorId::kClosed, "the engine stops");
    const Instant now = world_.clock.Now();
    if (now >= deadline) co_return Fail(ErrorId::kDeadline, error.context);
    co_await world_.clock.SleepUntil(world_.control, std::min(deadline, After(now, kRepeatDelay)));
  }
}

// Whether the peer has taken it.
Task<bool> NotificationSender::SendOverPath(std::shared_ptr<PeerImpl> peer, std::string body,
                                            Instant deadline) {
  for (const PathSlotPtr& slot : peer->slots()) {
    const std::shared_ptr<Path> path = slot->Get();
    const auto end = std::make_shared<OneShot<bool>>();
    const auto answered = [loop = world_.control, end](bool taken) {
      Post(loop, [end, taken] { end->Set(taken); });
    };
    if (!path || !path->Send(body, answered)) continue;
    auto wait = WaitUntil(world_.clock, world_.control, end, deadline);
    co_return co_await std::move(wait);
  }
  co_return false;
}

Status NotificationBox::Put(const InstanceId& sender, const std::string& request) {
  pb::NotifyRequest body;
  if (!Parse(request, body)) return Fail(ErrorId::kBadFrame, "NotifyRequest");
  const std::uint64_t sequence = body.sequence();
  const std::lock_guard lock(mutex_);
  Seen& seen = seen_[sender];
  if (sequence <= seen.all_up_to || seen.beyond.contains(sequence)) return {};
  if (waiting_.size() >= kWaitingMax)
    return Fail(ErrorId::kPeerBusy, "65536 notifications wait to be taken");
  seen.beyond.insert(sequence);
  while (!seen.beyond.empty() && *seen.beyond.begin() == seen.all_up_to + 1) {
    seen.all_up_to += 1;
    seen.beyond.erase(seen.beyond.begin());
  }
  if (seen.beyond.size() > kGapsMax) {
    seen.all_up_to = *seen.beyond.begin();
    seen.beyond.erase(seen.beyond.begin());
  }
  waiting_.push_back({sender, body.name(), body.message()});
  return {};
}

std::vector<Notification> NotificationBox::Take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(waiting_, {});
}

}  // namespace mooncake
