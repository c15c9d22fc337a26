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
constexpr Duration kDisconnectTimeout = std::chrono::seconds(1);

}  // namespace

// A rail in the making.
struct RdmaConnector::Proof {
  std::shared_ptr<RdmaDevice> device;
  CompletionQueue queue;
  RailPage pages;  // what is written, and where it is read back to
  RdmaDevice::Owned pair;
};

Task<std::vector<std::string>> RdmaConnector::ConnectRails(std::shared_ptr<RdmaPath> path,
                                                           std::uint64_t cookie, Instant deadline) {
  const auto self = shared_from_this();
  while (path->is_connecting) {
    const auto turn = std::make_shared<OneShot<bool>>();
    waiting_.push_back(turn);
    co_await turn->Get();
  }
  path->is_connecting = true;
  std::vector<std::string> reasons;
  for (const DeviceInUse& in_use : devices_) {
    const RdmaDevice& device = *in_use.device;
    if (closed_ || path->is_closed()) break;
    if (path->HasRailFrom(device)) continue;
    if (!device.usable()) {  // no event need have told that it is again
      auto look = RunOn(in_use.worker, world_.control, [&in_use] { in_use.device->Refresh(); });
      co_await std::move(look);
    }
    if (!device.usable()) {
      reasons.push_back(fmt::format("{}: {}", device.name(), device.port().reason));
      continue;
    }
    auto connect = ConnectDevice(path, in_use, cookie, deadline);
    const Status connected = co_await std::move(connect);
    if (!connected) reasons.push_back(connected.error().Brief());
  }
  path->is_connecting = false;
  path->SetMissing(reasons);
  for (const auto& turn : std::exchange(waiting_, {})) turn->Set(true);
  co_return reasons;
}

Task<Status> RdmaConnector::ConnectDevice(std::shared_ptr<RdmaPath> path, DeviceInUse in_use,
                                          std::uint64_t cookie, Instant deadline) {
  const auto self = shared_from_this();
  const std::shared_ptr<RdmaLink> link = path->link();
  Error last{ErrorId::kPathUnusable, "the peer has no usable device"};
  const SourceOf source_of = [this](const IpAddress& to, const std::string& interface) {
    return world_.network.SourceAddressTo(to, interface);
  };
  const std::size_t count = link->devices().size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t peer_device = (in_use.device->rank() + i) % count;  // the same rank first
    if (!link->devices()[peer_device].usable) {                           // as far as we were told
      auto look = link->Look(peer_device, deadline);
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
        RankAddressPairs(in_use.device->port().addresses, there.addresses, source_of, why);
    if (pairs.empty()) last = {ErrorId::kPathUnusable, why};
    for (const AddressPair& addresses : pairs) {
      if (closed_ || path->is_closed()) co_return Fail(ErrorId::kClosed, "the path ends");
      auto connect = ConnectRail(path, in_use, peer_device, addresses, cookie, deadline);
      const Status connected = co_await std::move(connect);
      if (connected) co_return connected;
      last = Within(
          fmt::format("{} to {} of {}", in_use.device->name(), there.name, path->peer()->label),
          connected.error());
      MC_LOG(info, "{}", last.Text());
      if (world_.clock.Now() >= deadline) co_return Fail(last);
    }
  }
  co_return Fail(last);
}

Task<Status> RdmaConnector::ConnectRail(std::shared_ptr<RdmaPath> path, DeviceInUse in_use,
                                        std::size_t peer_device, AddressPair addresses,
                                        std::uint64_t cookie, Instant deadline) {
  const auto self = shared_from_this();
  const std::shared_ptr<RdmaLink> link = path->link();
  const std::uint64_t number = link->NextRail();
  RdmaDevice& device = *in_use.device;
  Proof proof{in_use.device, {}, {}, {}};
  QueuePairEnd here;
  Status made;
  const auto make = [&]() -> Status {
    MC_TRY(proof.queue, device.MakeCompletionQueue(cookie));
    MC_TRY(proof.pages, RailPage::Make(device, 2 * RailPage::kBytes, false));
    MC_TRY(proof.pair, RdmaDevice::MakeQueuePair(in_use.device, proof.queue.get()));
    here = device.Describe(*proof.pair.pair,
                           static_cast<std::uint32_t>(world_.random.Next() & 0xFFFFFF));
    return {};
  };
  auto making = RunOn(in_use.worker, world_.control, [&made, &make] { made = make(); });
  co_await std::move(making);
  if (!made && made.error().id == ErrorId::kQueuePairBudget && make_room_(device, path.get())) {
    auto again = RunOn(in_use.worker, world_.control, [&made, &make] { made = make(); });
    co_await std::move(again);
  }
  if (!made) co_return made;
  auto ask = link->Connect(number, link->devices()[peer_device].name, here, addresses, deadline);
  const Result<RdmaLink::Answer> answer = co_await std::move(ask);
  if (!answer) co_return Fail(answer.error());
  Status connected;
  auto connecting = RunOn(in_use.worker, world_.control, [&] {
    connected = device.Connect(*proof.pair.pair, here, answer->there, addresses);
    if (connected) connected = device.PostReceives(*proof.pair.pair, kMessagesMax);
  });
  co_await std::move(connecting);
  if (connected) {
    auto prove =
        Prove(proof, *answer, std::min(deadline, After(world_.clock.Now(), kProofTimeout)));
    connected = co_await std::move(prove);
  }
  if (connected) {
    path->AddRail(std::make_unique<Rail>(
        number, std::move(proof.pair), std::move(proof.queue),
        Outbox(std::move(proof.pages), answer->page_address, answer->page_key), peer_device));
    co_return Status{};
  }
  auto undo = link->Disconnect(number, After(world_.clock.Now(), kDisconnectTimeout));
  static_cast<void>(co_await std::move(undo));
  co_return connected;
}

// A page of bytes that nobody can have sent before goes there and comes back.
Task<Status> RdmaConnector::Prove(Proof& proof, const RdmaLink::Answer& answer, Instant deadline) {
  const auto self = shared_from_this();
  Verbs& verbs = proof.device->verbs();
  std::byte* const sent = proof.pages.bytes.get();
  std::byte* const received = sent + RailPage::kBytes;
  for (std::size_t at = 0; at < RailPage::kBytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t nonce = world_.random.Next();
    std::memcpy(sent + at, &nonce, sizeof nonce);
  }
  std::array<ibv_sge, 2> entries{};
  std::array<ibv_send_wr, 2> requests{};
  for (std::size_t i = 0; i < requests.size(); ++i) {
    entries[i] = {reinterpret_cast<std::uint64_t>(i == 0 ? sent : received), RailPage::kBytes,
                  proof.pages.region->lkey};
    requests[i].sg_list = &entries[i];
    requests[i].num_sge = 1;
    requests[i].opcode = i == 0 ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
    requests[i].send_flags = IBV_SEND_SIGNALED;
    requests[i].wr.rdma.remote_addr = answer.page_address;
    requests[i].wr.rdma.rkey = answer.page_key;
  }
  requests[0].next = &requests[1];
  ibv_send_wr* bad = nullptr;
  if (const int failure = verbs.PostSend(proof.pair.pair.get(), requests.data(), &bad))
    co_return Fail(ErrorId::kRdmaCall, "ibv_post_send on " + proof.device->name(), failure);
  std::size_t ended = 0;
  while (ended < requests.size()) {
    ibv_wc completion{};
    const int count = verbs.PollCq(proof.queue.get(), 1, &completion);
    if (count < 0) co_return Fail(ErrorId::kRdmaCall, "ibv_poll_cq on " + proof.device->name());
    if (count > 0 && completion.status != IBV_WC_SUCCESS)
      co_return Fail(ErrorId::kPathFailed,
                     fmt::format("no bytes go through: {}", verbs.StatusText(completion.status)));
    ended += static_cast<std::size_t>(count);
    if (count > 0) continue;
    if (world_.clock.Now() >= deadline)
      co_return Fail(ErrorId::kPathFailed, "no bytes went through in time");
    co_await world_.clock.SleepFor(world_.control, kProofLook);
  }
  if (std::memcmp(sent, received, RailPage::kBytes) != 0)
    co_return Fail(ErrorId::kPathFailed, "a page came back changed");
  co_return Status{};
}

}  // namespace mooncake::rdma
