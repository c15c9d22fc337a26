#include "transport/rdma/rdma_connector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace mooncake::rdma {
namespace {

constexpr Duration kProofTimeout = std::chrono::seconds(1);
constexpr Duration kProofLook = std::chrono::microseconds(200);
constexpr Duration kPatience = std::chrono::milliseconds(250);  // where there is a rail already
constexpr Duration kDisconnectTimeout = std::chrono::seconds(1);

// Asks the peer for its end; whoever waits may have given up meanwhile.
Task<void> Ask(std::shared_ptr<RdmaLink> link, std::uint64_t rail, std::string device,
               RailEnds here, AddressPair addresses, Instant deadline,
               std::shared_ptr<OneShot<Result<RdmaLink::Answer>>> answer) {
  auto connect = link->Connect(rail, std::move(device), here, addresses, deadline);
  answer->Set(co_await std::move(connect));
}

// Takes down what the peer has, or is still making, for a rail that came to nothing.
Task<void> Undo(std::shared_ptr<RdmaLink> link, std::uint64_t rail, Instant deadline) {
  auto disconnect = link->Disconnect(rail, deadline);
  static_cast<void>(co_await std::move(disconnect));
}

Error Overtaken() { return {ErrorId::kPathFailed, "a port has changed meanwhile"}; }

}  // namespace

// A device's search for a rail.
struct RdmaConnector::Attempt {
  const std::shared_ptr<RdmaPath> path;
  const DeviceInUse in_use;
  const std::uint64_t cookie;
  const Instant deadline;
  std::size_t order = 0;  // of the peer's device that is tried: its own rank comes first
  bool given_up = false;
  std::shared_ptr<OneShot<Result<RdmaLink::Answer>>> answer;  // what it waits for

  // How many of the peer's devices are tried before this one.
  std::size_t OrderOf(std::size_t one) const noexcept {
    const std::size_t count = path->link()->devices().size();
    return (one + count - in_use.device->rank() % count) % count;
  }
};

// A rail in the making.
struct RdmaConnector::Proof {
  RailPage pages;  // what is written, and where it is read back to
  std::optional<RailPairs> pairs;
};

Task<std::vector<std::string>> RdmaConnector::ConnectRails(std::shared_ptr<RdmaPath> path,
                                                           std::uint64_t cookie, Instant deadline) {
  struct Searches {
    std::vector<std::string> why_not;
    std::size_t left = 0;
    OneShot<bool> some;  // a rail is there, or all have ended
    std::shared_ptr<OneShot<bool>> all = std::make_shared<OneShot<bool>>();
  };
  const auto searches = std::make_shared<Searches>();
  searches->left = devices_.size();
  for (const DeviceInUse& in_use : devices_) {
    searches->why_not.push_back(fmt::format("{}: still on its way", in_use.device->name()));
    auto connect = ConnectDevice(path, in_use, cookie, deadline);
    Spawn(world_.control, [](auto me, std::size_t place, Task<std::string> search) -> Task<void> {
      me->why_not[place] = co_await std::move(search);
      me->left -= 1;
      if (me->left == 0 || me->why_not[place].empty()) me->some.Set(true);
      if (me->left == 0) me->all->Set(true);
    }(searches, searches->why_not.size() - 1, std::move(connect)));
  }
  co_await searches->some.Get();
  auto rest = WaitUntil(world_.clock, world_.control, searches->all,
                        std::min(deadline, After(world_.clock.Now(), kPatience)));
  static_cast<void>(co_await std::move(rest));
  std::vector<std::string> reasons;
  for (const std::string& why_not : searches->why_not) {
    if (!why_not.empty()) reasons.push_back(why_not);
  }
  co_return reasons;
}

Task<std::string> RdmaConnector::ConnectDevice(std::shared_ptr<RdmaPath> path, DeviceInUse in_use,
                                               std::uint64_t cookie, Instant deadline) {
  const auto self = shared_from_this();
  RdmaDevice& device = *in_use.device;
  while (path->connecting.contains(device.rank())) {
    const auto turn = std::make_shared<OneShot<bool>>();
    waiting_.push_back(turn);
    co_await turn->Get();
  }
  if (closed_ || path->is_closed() || path->HasRailFrom(device)) co_return std::string{};
  path->connecting.insert(device.rank());
  const auto attempt = std::make_shared<Attempt>(Attempt{path, in_use, cookie, deadline});
  attempts_.push_back(attempt);
  if (!device.usable()) {  // no event need have told that it is again
    auto look = RunOn(in_use.worker, world_.control, [&device] { device.Refresh(); });
    co_await std::move(look);
  }
  std::string why_not;
  if (device.usable()) {
    auto connect = ConnectSomewhere(attempt);
    const Status connected = co_await std::move(connect);
    if (!connected) why_not = connected.error().Brief();
  } else {
    why_not = fmt::format("{}: {}", device.name(), device.port().reason);
  }
  if (!why_not.empty()) path->SetMissing(device, why_not);
  std::erase(attempts_, attempt);
  path->connecting.erase(device.rank());
  for (const auto& turn : std::exchange(waiting_, {})) turn->Set(true);
  co_return why_not;
}

void RdmaConnector::PortChanged(const RdmaDevice& device) {
  for (const AttemptPtr& attempt : attempts_) {
    if (attempt->in_use.device.get() == &device) GiveUp(*attempt);
  }
}

void RdmaConnector::PeerPortChanged(const RdmaLink& link, std::size_t peer_device) {
  for (const AttemptPtr& attempt : attempts_) {
    if (attempt->path->link().get() == &link && attempt->OrderOf(peer_device) <= attempt->order)
      GiveUp(*attempt);
  }
}

void RdmaConnector::GiveUp(Attempt& attempt) {
  attempt.given_up = true;
  if (attempt.answer) attempt.answer->Set(Fail(Overtaken()));
}

Task<Status> RdmaConnector::ConnectSomewhere(AttemptPtr attempt) {
  const auto self = shared_from_this();
  const std::shared_ptr<RdmaPath> path = attempt->path;
  const std::shared_ptr<RdmaLink> link = path->link();
  const std::shared_ptr<RdmaDevice> device = attempt->in_use.device;
  const SourceOf source_of = [this](const IpAddress& to, const std::string& interface) {
    return world_.network.SourceAddressTo(to, interface);
  };
  Error last{ErrorId::kPathUnusable, "the peer has no usable device"};
  const std::size_t count = link->devices().size();
  for (std::size_t i = 0; i < count && !attempt->given_up; ++i) {
    const std::size_t peer_device = (device->rank() + i) % count;
    attempt->order = i;
    if (!link->devices()[peer_device].usable) {  // as far as we were told
      auto look = link->Look(peer_device, attempt->deadline);
      const Status looked = co_await std::move(look);
      if (!looked) co_return Fail(looked.error());
    }
    const PeerDevice there = link->devices()[peer_device];
    if (!there.usable) {
      last = {ErrorId::kPathFailed,
              fmt::format("{} of {}: {}", there.name, path->peer()->label, there.reason)};
      continue;
    }
    std::string why;
    const std::vector<AddressPair> pairs =
        RankAddressPairs(device->port().addresses, there.addresses, source_of, why);
    if (pairs.empty()) last = {ErrorId::kPathUnusable, why};
    for (const AddressPair& addresses : pairs) {
      if (closed_ || path->is_closed()) co_return Fail(ErrorId::kClosed, "the path ends");
      auto connect = ConnectOver(attempt, peer_device, addresses);
      const Status connected = co_await std::move(connect);
      if (connected) co_return connected;
      last = Within(fmt::format("{} to {} of {}", device->name(), there.name, path->peer()->label),
                    connected.error());
      MC_LOG(info, "{}", last.Text());
      if (attempt->given_up || world_.clock.Now() >= attempt->deadline) co_return Fail(last);
    }
  }
  if (attempt->given_up) co_return Fail(Overtaken());
  co_return Fail(last);
}

Task<Status> RdmaConnector::ConnectOver(AttemptPtr attempt, std::size_t peer_device,
                                        AddressPair addresses) {
  const auto self = shared_from_this();
  const std::shared_ptr<RdmaPath> path = attempt->path;
  const std::shared_ptr<RdmaLink> link = path->link();
  const std::uint64_t number = link->NextRail();
  const DeviceInUse& in_use = attempt->in_use;
  RdmaDevice& device = *in_use.device;
  Proof proof;
  RailEnds here;
  Status made;
  const auto make = [&]() -> Status {
    MC_TRY(proof.pages, RailPage::Make(device, 2 * RailPage::kBytes, false));
    MC_TRY(RailPairs pairs, RailPairs::Make(in_use.device, attempt->cookie));
    here = proof.pairs.emplace(std::move(pairs)).Describe(world_.random);
    return {};
  };
  auto making = RunOn(in_use.worker, world_.control, [&made, &make] { made = make(); });
  co_await std::move(making);
  if (!made && made.error().id == ErrorId::kQueuePairBudget && make_room_(device, path.get())) {
    auto again = RunOn(in_use.worker, world_.control, [&made, &make] { made = make(); });
    co_await std::move(again);
  }
  if (!made) co_return made;
  if (attempt->given_up) co_return Fail(Overtaken());
  attempt->answer = std::make_shared<OneShot<Result<RdmaLink::Answer>>>();
  Spawn(world_.control, Ask(link, number, link->devices()[peer_device].name, here, addresses,
                            attempt->deadline, attempt->answer));
  const Result<RdmaLink::Answer> answer = co_await attempt->answer->Get();
  Status connected;
  if (!answer) connected = Fail(answer.error());
  if (connected) {
    auto connecting = RunOn(in_use.connecting, world_.control, [&] {
      connected = proof.pairs->Connect(here, answer->there, addresses);
    });
    co_await std::move(connecting);
  }
  if (connected) {
    auto prove = Prove(*attempt, proof, *answer);
    connected = co_await std::move(prove);
  }
  if (connected) {
    path->AddRail(std::make_unique<Rail>(
        number, *std::move(proof.pairs),
        Outbox(std::move(proof.pages), answer->page_address, answer->page_key), peer_device));
    co_return Status{};
  }
  Spawn(world_.control, Undo(link, number, After(world_.clock.Now(), kDisconnectTimeout)));
  co_return connected;
}

// A page of bytes that nobody can have sent before goes there over the first queue pair and comes
// back in parts over the others.
Task<Status> RdmaConnector::Prove(const Attempt& attempt, Proof& proof,
                                  const RdmaLink::Answer& answer) {
  const auto self = shared_from_this();
  const Instant deadline = std::min(attempt.deadline, After(world_.clock.Now(), kProofTimeout));
  std::byte* const sent = proof.pages.bytes.get();
  std::byte* const received = sent + RailPage::kBytes;
  for (std::size_t at = 0; at < RailPage::kBytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t nonce = world_.random.Next();
    std::memcpy(sent + at, &nonce, sizeof nonce);
  }
  for (std::size_t pair = 0; pair < kPairsOfRail; ++pair) {
    const bool writes = pair == kShortPair;
    constexpr std::size_t kPart = RailPage::kBytes / kLongPairs.size();
    const std::size_t at = writes ? 0 : (pair - kLongPairs.front()) * kPart;
    ibv_sge entry{};
    entry.addr = reinterpret_cast<std::uint64_t>((writes ? sent : received) + at);
    entry.length = writes ? RailPage::kBytes : kPart;
    entry.lkey = proof.pages.region->lkey;
    ibv_send_wr request{};
    request.sg_list = &entry;
    request.num_sge = 1;
    request.opcode = writes ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
    request.send_flags = IBV_SEND_SIGNALED;
    request.wr.rdma.remote_addr = answer.page_address + at;
    request.wr.rdma.rkey = answer.page_key;
    auto carry = CarryProof(attempt, *proof.pairs, pair, request, deadline);
    const Status carried = co_await std::move(carry);
    if (!carried) co_return carried;
  }
  if (std::memcmp(sent, received, RailPage::kBytes) != 0)
    co_return Fail(ErrorId::kPathFailed, "a page came back changed");
  co_return Status{};
}

// Posts it, and waits for its end.
Task<Status> RdmaConnector::CarryProof(const Attempt& attempt, RailPairs& pairs, std::size_t pair,
                                       ibv_send_wr& request, Instant deadline) {
  const auto self = shared_from_this();
  RdmaDevice& device = *pairs.device();
  Verbs& verbs = device.verbs();
  ibv_send_wr* bad = nullptr;
  if (const int failure = verbs.PostSend(&pairs[pair], &request, &bad))
    co_return Fail(ErrorId::kRdmaCall, "ibv_post_send on " + device.name(), failure);
  for (;;) {
    ibv_wc completion{};
    const int count = verbs.PollCq(&pairs.queue(), 1, &completion);
    if (count < 0) co_return Fail(ErrorId::kRdmaCall, "ibv_poll_cq on " + device.name());
    if (count > 0 && completion.status != IBV_WC_SUCCESS)
      co_return Fail(ErrorId::kPathFailed,
                     fmt::format("no bytes go through: {}", verbs.StatusText(completion.status)));
    if (count > 0) co_return Status{};
    if (attempt.given_up) co_return Fail(Overtaken());
    if (world_.clock.Now() >= deadline)
      co_return Fail(ErrorId::kPathFailed, "no bytes went through in time");
    co_await world_.clock.SleepFor(world_.control, kProofLook);
  }
}

}  // namespace mooncake::rdma
