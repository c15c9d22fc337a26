#include "engine/engine.h"

#include <fmt/format.h>

#include <condition_variable>
#include <map>

#include "base/await.h"
#include "base/log.h"
#include "engine/batch.h"
#include "engine/connector.h"
#include "engine/copy_workers.h"
#include "engine/local_pins.h"
#include "engine/notifications.h"
#include "engine/own_memory.h"
#include "transport/transfer_check.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kRetryDelay = std::chrono::milliseconds(20);
constexpr int kChecksumRetriesMax = 3;

// Whether another path, or a new connection, may carry what this one did not.
bool IsPathsFault(const Error& error) {
  return error.code() == Errc::kPeerGone || error.code() == Errc::kUnsupported;
}

// What the long way tries again: over another path, with newer knowledge of the peer's regions, or
// simply once more.
bool MayHeal(const Error& error) {
  return IsPathsFault(error) || error.id == ErrorId::kRegionUnknown ||
         error.id == ErrorId::kChecksum;
}

// A batch that goes over one path as it is. Until its outcome is there.
struct DirectBatch {
  explicit DirectBatch(const RegionTable& regions) : pins(regions) {}
  std::shared_ptr<BatchImpl> batch;
  std::optional<LocalPins> pins;
  Transfer transfer;
  PathChoice choice;
  Instant begin{};
};

}  // namespace

class Engine::Impl : public std::enable_shared_from_this<Engine::Impl> {
 public:
  Impl(World& w, Metrics& m, std::shared_ptr<PortServer> p, Directory& d, Identity i,
       EngineOptions o)
      : world(w),
        metrics(m),
        port(std::move(p)),
        directory(d),
        identity(std::move(i)),
        options(std::move(o)),
        memory(std::make_shared<OwnMemory>(w, options.unregister_timeout)),
        notifier(w),
        copiers(std::make_shared<CopyWorkers>(w)),
        worker(w.threads.MakeWorker()) {}

  // ---- set up ----
  void Start() {
    const auto self = shared_from_this();
    connector = std::make_shared<Connector>(
        world, directory, options,
        [weak = weak_from_this()] {
          const auto me = weak.lock();
          return me ? me->Introduce() : Introduction{};
        },
        port->router,
        [weak = weak_from_this()] {
          const auto me = weak.lock();
          return me ? me->MakeSlots() : std::vector<PathSlotPtr>();
        });
    for (const auto& transport : transports) {
      transport->OnMessage(
          [weak = weak_from_this()](const InstanceId& from, const std::string& body) {
            const auto me = weak.lock();
            return me && me->notifications.Put(from, body);
          });
      transport->OnChance(
          [weak = weak_from_this(), name = transport->name()](std::optional<InstanceId> to) {
            const auto me = weak.lock();
            if (!me || me->closed) return;
            for (const std::shared_ptr<PeerImpl>& peer : me->connector->Peers()) {
              if (!to || peer->identity().id == *to) peer->OpenNow(name);
            }
          });
    }
    port->introduce = [self] { return self->Introduce(); };
    port->on_data = [self](Handshake handshake) { self->ServeData(std::move(handshake)); };
    port->on_rpc = [self](const std::shared_ptr<RpcConnection>& connection) {
      self->memory->AddCaller(connection);
    };
    const auto add = [this](Method method, Result<Reply> (Impl::*handler)(RpcCall&, const Frame&)) {
      port->router.Add(method,
                       [self = shared_from_this(), handler](RpcCall& call,
                                                            Frame request) -> Task<Result<Reply>> {
                         co_return (self.get()->*handler)(call, request);
                       });
    };
    add(Method::kListRegions, &Impl::ListRegions);
    add(Method::kNotify, &Impl::ReceiveNotification);
    port->router.Add(Method::kForgetRegions,
                     [self](RpcCall& call, Frame request) -> Task<Result<Reply>> {
                       auto forget = self->ForgetRegions(call.peer().id, std::move(request));
                       co_return co_await std::move(forget);
                     });
    port->router.Add(Method::kEndTransfers,
                     [self](RpcCall& call, Frame request) -> Task<Result<Reply>> {
                       auto end = self->EndTransfers(call.peer().id, std::move(request));
                       co_return co_await std::move(end);
                     });
  }

  Introduction Introduce() const {
    Introduction introduction{identity, options.cluster, {}, options.credentials};
    for (const auto& transport : transports)
      introduction.transports[std::string(transport->name())] = transport->Advertise();
    return introduction;
  }

  std::vector<PathSlotPtr> MakeSlots() {
    std::vector<PathSlotPtr> slots;
    for (const auto& transport : transports) {
      const MetricLabels labels = {{"transport", std::string(transport->name())}};
      slots.push_back(std::make_shared<PathSlot>(
          transport,
          metrics.AddCounter("mooncake_engine_moved_bytes_total",
                             "Bytes of finished batches started here.", labels),
          metrics.AddCounter("mooncake_engine_transfers_total", "Finished transfers started here.",
                             labels),
          metrics.AddCounter("mooncake_engine_path_failures_total",
                             "Times a path was taken out of use.", labels)));
    }
    return slots;
  }

  void ServeData(Handshake handshake) {
    for (const auto& transport : transports) {
      if (transport->name() != handshake.purpose) continue;
      std::shared_ptr<Stream> stream = handshake.reader->shared_stream();
      auto info = std::make_shared<PeerInfo>();
      info->id = handshake.peer.id;
      info->label = Describe(handshake.peer);
      info->host = handshake.peer.host;
      info->endpoint = stream->remote();
      info->advertisement = handshake.transports[handshake.purpose];
      info->regions = std::make_shared<KnownRegions>();
      if (const Status moved = stream->MoveTo(world.data); !moved) return stream->Close();
      // Transports live as long as `this`; the closure holds it.
      Post(world.data, [self = shared_from_this(), t = transport.get(), stream, info] {
        t->Serve(stream, info);
      });
      return;
    }
    MC_LOG(info, "{} asked for the transport \"{}\", which is not in use here",
           Describe(handshake.peer), handshake.purpose);
    handshake.reader->stream().Close();
  }

  // ---- memory ----
  Result<RegionInfo> Offered(Result<RegionInfo> region) {
    for (const auto& transport : transports) {
      if (region) transport->Offer(*region);
    }
    return region;
  }

  Task<void> Withdraw(RegionId id) {
    const auto self = shared_from_this();
    for (const auto& transport : transports) {
      auto withdraw = transport->Withdraw(id);
      co_await std::move(withdraw);
    }
  }

  // ---- what peers ask ----
  Result<Reply> ListRegions(RpcCall&, const Frame& request) { return memory->List(request); }

  Result<Reply> ReceiveNotification(RpcCall& call, const Frame& request) {
    MC_TRY_STATUS(notifications.Put(call.peer().id, request.body));
    return MakeReply(pb::Empty());
  }

  Task<Result<Reply>> ForgetRegions(InstanceId owner, Frame request) {
    const auto self = shared_from_this();
    pb::ForgetRegionsRequest body;
    if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "ForgetRegionsRequest");
    const std::shared_ptr<PeerImpl> peer = connector->Find(owner);
    if (!peer) co_return MakeReply(pb::Empty());
    for (const std::uint64_t id : body.ids()) peer->regions()->Remove(RegionId{id});
    // A path waits there for the copies in progress, so not on a loop.
    const auto forgotten = std::make_shared<OneShot<bool>>();
    worker->Add([this, self, peer, body, forgotten] {
      for (const PathSlotPtr& slot : peer->slots()) {
        const std::shared_ptr<Path> path = slot->Get();
        for (const std::uint64_t id : body.ids()) {
          if (path) path->Forget(RegionId{id});
        }
      }
      Post(world.control, [forgotten] { forgotten->Set(true); });
    });
    co_await forgotten->Get();
    co_return MakeReply(pb::Empty());
  }

  Task<Result<Reply>> EndTransfers(InstanceId caller, Frame request) {
    const auto self = shared_from_this();
    pb::EndTransfersRequest body;
    if (!Parse(request.body, body)) co_return Fail(ErrorId::kBadFrame, "EndTransfersRequest");
    auto end = EndTransfersOf(caller, body.transport());
    co_await std::move(end);
    co_return MakeReply(pb::Empty());
  }

  // Over one transport, or over all whose bytes land late.
  Task<void> EndTransfersOf(InstanceId peer, std::optional<std::string> over) {
    const auto self = shared_from_this();
    const auto ended = std::make_shared<OneShot<bool>>();
    Post(world.data, [self, peer, over = std::move(over), ended] {
      for (const auto& transport : self->transports) {
        if (over ? transport->name() == *over : transport->lands_late())
          transport->EndTransfersOf(peer);
      }
      Post(self->world.control, [ended] { ended->Set(true); });
    });
    co_await ended->Get();
  }

  // ---- moving bytes ----
  Status Run(PeerImpl& peer, const PathChoice& choice, const Transfer& transfer) {
    const Instant begin = BeginOf(transfer);
    Status status = choice.path->Run(transfer);
    HasEnded(peer, choice, transfer, begin, status);
    return status;
  }

  // A look at the clock costs as much as a small copy.
  Instant BeginOf(const Transfer& transfer) {
    return CostModel::IsWorthObserving(transfer) ? world.clock.Now() : Instant{};
  }

  // After Run() or TryRun().
  [[gnu::always_inline]] void HasEnded(PeerImpl& peer, const PathChoice& choice,
                                       const Transfer& transfer, Instant begin, Status& status) {
    if (status && peer.is_connected()) return Record(choice, transfer, begin);
    // A mapping outlives its owner: bytes that were written into a dead process are nowhere.
    if (status) status = Fail(ErrorId::kPeerGone, Describe(peer.identity()));
    Account(peer, choice, transfer, begin, status);
  }

  void Record(const PathChoice& choice, const Transfer& transfer, Instant begin) {
    choice.slot->Record(transfer.total_bytes,
                        begin == Instant{} ? Duration::zero() : world.clock.Now() - begin);
  }

  // What a transfer says about its path. `begin` may be unknown.
  void Account(PeerImpl& peer, const PathChoice& choice, const Transfer& transfer, Instant begin,
               const Status& status) {
    if (status) {
      Record(choice, transfer, begin);
    } else if (IsPathsFault(status.error()) && choice.path->Estimate(transfer)) {
      peer.Failed(choice, status.error());
    }
  }

  // Apart, so that the way on which the caller's own thread does everything stays short.
  [[gnu::noinline]] Status RunAsBatch(const PeerPtr& peer, Direction direction,
                                      std::span<const Copy> copies, const BatchOptions& options) {
    return Submit(peer, direction, {copies.begin(), copies.end()}, options)->Wait();
  }

  std::shared_ptr<Batch> Submit(const PeerPtr& peer, Direction direction, std::vector<Copy> copies,
                                BatchOptions batch_options) {
    auto batch =
        std::make_shared<BatchImpl>(world, std::static_pointer_cast<PeerImpl>(peer), direction,
                                    std::move(copies), std::move(batch_options));
    active += 1;
    if (closed || !StartDirectly(batch)) StartDriving(batch, nullptr);
    return batch;
  }

  // Where a path is ready the control loop has nothing to do: two threads less are woken. False:
  // nothing was done.
  bool StartDirectly(const std::shared_ptr<BatchImpl>& batch) {
    PeerImpl& peer = *batch->peer();
    const KnownRegions& known = *peer.regions();
    std::vector<Copy>& copies = batch->copies();
    if (batch->options().notify || copies.empty()) return false;
    if (!peer.is_connected() || peer.has_loose_ends()) return false;
    auto direct = std::make_shared<DirectBatch>(*memory->regions());
    if (!direct->pins->Hold(copies)) return false;
    direct->batch = batch;
    Transfer& transfer = direct->transfer = batch->MakeTransfer(copies);
    if (!known.KnowsAll(copies) || (transfer.region_count > 1 && !AreAlike(known, copies)))
      return false;
    if (transfer.region_count == 1) transfer.region = known.Find(copies.front().region);
    transfer.on_gpu = direct->pins->on_gpu() || known.AnyOnGpu(copies);
    direct->choice = peer.Choose(transfer);
    const std::shared_ptr<Path>& path = direct->choice.path;
    if (!path || !path->IsPrepared(transfer)) return false;
    direct->begin = world.clock.Now();
    if (direct->begin >= transfer.deadline) return false;
    const auto self = shared_from_this();
    if (path->is_synchronous()) {
      copiers->Add([self, direct] {
        self->Conclude(direct, self->Run(*direct->batch->peer(), direct->choice, direct->transfer));
      });
      return true;
    }
    batch->OnCancel([loop = world.data, weak = std::weak_ptr<Path>(path)] {
      Post(loop, [weak] {
        if (const auto to = weak.lock()) to->EndCancelled();
      });
    });
    Post(world.data, [self, direct] {
      direct->choice.path->Start(direct->transfer, [self, direct](Status status) {
        self->Account(*direct->batch->peer(), direct->choice, direct->transfer, direct->begin,
                      status);
        self->Conclude(direct, std::move(status));
      });
    });
    return true;
  }

  // What may heal is tried again, by all means. Any thread.
  void Conclude(const std::shared_ptr<DirectBatch>& direct, Status status) {
    if (!status && MayHeal(status.error())) return StartDriving(direct->batch, direct);
    if (status) direct->batch->SetTransport(direct->choice.slot->transport->name());
    direct->batch->Finish(std::move(status));
    direct->pins.reset();  // whoever unregisters the memory then finds the batch at its end
    Leave();
  }

  // `before`, which may be null, holds its memory.
  void StartDriving(std::shared_ptr<BatchImpl> batch, std::shared_ptr<DirectBatch> before) {
    Post(world.control, [self = shared_from_this(), batch = std::move(batch),
                         before = std::move(before)]() mutable {
      Spawn(self->world.control,
            [](std::shared_ptr<Impl> me, std::shared_ptr<BatchImpl> b,
               std::shared_ptr<DirectBatch> held) -> Task<void> {
              Status outcome = co_await me->Drive(b);
              if (held) held->pins.reset();
              b->Finish(std::move(outcome));
              me->Leave();
            }(self, std::move(batch), std::move(before)));
    });
  }

  // A batch or a notification: Close() waits for the last one. Any thread.
  void Leave() {
    if (active.fetch_sub(1) > 1 || !closed) return;
    Post(world.control, [self = shared_from_this()] { self->idle.Notify(); });
  }

  static bool IsMappable(const KnownRegions& known, const Copy& copy) {
    const RegionInfo* const region = known.Find(copy.region);
    return region != nullptr && region->mappable;
  }
  // Regions that can be mapped take another path than the rest.
  static bool AreAlike(const KnownRegions& known, std::span<const Copy> copies) {
    const bool mappable = IsMappable(known, copies.front());
    return std::all_of(copies.begin(), copies.end(), [&known, mappable](const Copy& copy) {
      return IsMappable(known, copy) == mappable;
    });
  }

  Task<Status> Drive(std::shared_ptr<BatchImpl> batch) {
    LocalPins pins(*memory->regions());
    if (Status local = pins.Hold(batch->copies()); !local) co_return local;
    std::vector<Copy>& copies = batch->copies();
    const KnownRegions& known = *batch->peer()->regions();
    const auto split =
        std::stable_partition(copies.begin(), copies.end(),
                              [&known](const Copy& copy) { return IsMappable(known, copy); });
    const std::array<std::span<const Copy>, 2> groups = {
        std::span<const Copy>(copies.begin(), split), std::span<const Copy>(split, copies.end())};
    for (const std::span<const Copy> group : groups) {
      if (group.empty()) continue;
      Transfer transfer = batch->MakeTransfer(group);
      auto move = Move(batch, transfer, pins.on_gpu());
      Status moved = co_await std::move(move);
      if (!moved) co_return moved;
    }
    if (batch->options().notify) {
      const auto& [name, message] = *batch->options().notify;
      auto notify = notifier.Send(batch->peer(), name, message, batch->options().deadline);
      Status notified = co_await std::move(notify);
      if (!notified) co_return notified;
    }
    co_return Status{};
  }

  // What `task` returns, or nothing if the batch is cancelled before: the task goes on without it.
  template <class T>
  Task<std::optional<T>> UnlessCancelled(std::shared_ptr<BatchImpl> batch, Task<T> task) {
    const auto end = std::make_shared<OneShot<std::optional<T>>>();
    batch->OnCancel([end] { end->Set(std::nullopt); });
    Spawn(world.control,
          [](Task<T> body, std::shared_ptr<OneShot<std::optional<T>>> result) -> Task<void> {
            T value = co_await std::move(body);
            result->Set(std::move(value));
          }(std::move(task), end));
    std::optional<T> value = co_await end->Get();
    batch->OnCancel(nullptr);
    co_return value;
  }

  // Tries path after path, and connection after connection, until the bytes are there, the deadline
  // has passed, or nothing is left to try.
  Task<Status> Move(std::shared_ptr<BatchImpl> batch, Transfer& transfer, bool local_on_gpu) {
    const std::shared_ptr<PeerImpl>& peer = batch->peer();
    Error last{ErrorId::kNoPath, Describe(peer->identity())};
    bool refreshed = false;
    bool opened_for_gpus = false;
    int checksum_failures = 0;
    for (;;) {
      if (closed) co_return Fail(ErrorId::kClosed, "the engine stops");
      if (batch->is_cancelled()) co_return Fail(ErrorId::kCancelled, {});
      const Instant now = world.clock.Now();
      if (now >= transfer.deadline) co_return Fail(ErrorId::kDeadline, last.context);
      if (!peer->is_connected()) {
        auto reconnect = UnlessCancelled(batch, connector->Reconnect(peer, transfer.deadline));
        const std::optional<Status> connected = co_await std::move(reconnect);
        if (connected && !*connected) {
          last = connected->error();
          if (last.id == ErrorId::kPeerGone || last.id == ErrorId::kClosed) co_return Fail(last);
          const Instant next = std::min(transfer.deadline, After(now, kRetryDelay));
          co_await world.clock.SleepUntil(world.control, next);
        }
        continue;  // also when it is connected: it may not be any more
      }
      if (!peer->regions()->KnowsAll(transfer.slices)) {
        if (std::exchange(refreshed, true))
          co_return Fail(ErrorId::kRegionUnknown, "at " + Describe(peer->identity()));
        // It may be newer than what we know.
        auto refresh = UnlessCancelled(batch, peer->Refresh(transfer.deadline));
        const std::optional<Status> listed = co_await std::move(refresh);
        if (listed && !*listed) last = listed->error();
        continue;
      }
      if (peer->has_loose_ends()) {
        auto end = UnlessCancelled(batch, peer->EndLooseEnds(transfer.deadline));
        const std::optional<Status> ended = co_await std::move(end);
        if (ended && !*ended) {
          last = ended->error();
          co_await world.clock.SleepUntil(world.control,
                                          std::min(transfer.deadline, After(now, kRetryDelay)));
        }
        continue;
      }
      transfer.on_gpu = local_on_gpu || peer->regions()->AnyOnGpu(transfer.slices);
      const PathChoice choice = peer->Choose(transfer);
      if (!choice.path) {
        last = Error{ErrorId::kNoPath,
                     fmt::format("{}: {}", Describe(peer->identity()), peer->Reasons(transfer))};
        // What is for GPUs alone is not there until one side has memory of one.
        if (transfer.on_gpu && !std::exchange(opened_for_gpus, true)) {
          peer->OpenAll();
          continue;
        }
        if (!peer->is_opening()) co_return Fail(last);
        auto change = UnlessCancelled(batch, peer->WaitForChange(transfer.deadline));
        co_await std::move(change);
        continue;
      }
      auto attempt = Attempt(batch, choice, transfer);
      Status status = co_await std::move(attempt);
      if (status) {
        batch->SetTransport(choice.slot->transport->name());
        co_return status;
      }
      last = status.error();
      if (last.id == ErrorId::kChecksum && ++checksum_failures <= kChecksumRetriesMax) continue;
      if (!IsPathsFault(last)) co_return status;
    }
  }

  Task<Status> Attempt(std::shared_ptr<BatchImpl> batch, PathChoice choice,
                       const Transfer& transfer) {
    const std::shared_ptr<PeerImpl>& peer = batch->peer();
    if (!choice.path->IsPrepared(transfer)) {
      auto prepare = choice.path->Prepare(NeedsOf(transfer, *memory->regions()), transfer.deadline);
      auto wait = UnlessCancelled(batch, std::move(prepare));
      const std::optional<Status> prepared = co_await std::move(wait);
      if (!prepared) co_return Fail(ErrorId::kCancelled, {});
      if (!*prepared) {
        if (IsPathsFault(prepared->error()) && choice.path->Estimate(transfer))
          peer->Failed(choice, prepared->error());
        co_return *prepared;
      }
    }
    const auto end = std::make_shared<OneShot<Status>>();
    const auto answer = [this, end](Status status) {
      Post(world.control,
           [end, status = std::move(status)]() mutable { end->Set(std::move(status)); });
    };
    if (choice.path->is_synchronous()) {
      copiers->Add([this, self = shared_from_this(), peer, choice, &transfer, answer] {
        answer(Run(*peer, choice, transfer));
      });
      co_return co_await end->Get();
    }
    const Instant begin = world.clock.Now();
    Post(world.data, [path = choice.path, &transfer, answer] { path->Start(transfer, answer); });
    batch->OnCancel(
        [loop = world.data, path = choice.path] { Post(loop, [path] { path->EndCancelled(); }); });
    Status status = co_await end->Get();
    batch->OnCancel(nullptr);
    Account(*peer, choice, transfer, begin, status);
    co_return status;
  }

  // ---- end ----
  Task<void> Close() {
    const auto self = shared_from_this();
    if (closed) co_return;
    closed = true;
    notifier.Close();
    memory->StopPopulating();
    const Error cause{ErrorId::kClosed, "the engine stops"};
    if (connector) connector->Close(cause);
    for (const auto& transport : transports) transport->Close();
    while (active > 0) co_await idle.Wait();
    port->introduce = [identity = identity, options = options] {
      return Introduction{identity, options.cluster, {}, options.credentials};
    };
    port->on_data = nullptr;
    port->on_rpc = nullptr;
    auto copies = copiers->Close();
    co_await std::move(copies);
    co_await Finished(*worker, world.control);
    worker->Stop();
    auto taken_back = memory->Close();
    co_await std::move(taken_back);
    port = nullptr;  // whose handlers hold `this`
  }

  World& world;
  Metrics& metrics;
  std::shared_ptr<PortServer> port;
  Directory& directory;
  Identity identity;
  EngineOptions options;
  std::shared_ptr<OwnMemory> memory;
  std::vector<std::shared_ptr<Transport>> transports;
  std::shared_ptr<Connector> connector;
  NotificationSender notifier;
  NotificationBox notifications;
  std::atomic<bool> closed = false;
  std::atomic<std::size_t> active = 0;  // batches, and notifications
  Signal idle;
  std::shared_ptr<CopyWorkers> copiers;
  std::unique_ptr<Worker> worker;  // unmapping, which waits for copies in progress
};

Engine::Engine(World& world, Metrics& metrics, std::shared_ptr<PortServer> port,
               Directory& directory, Identity identity, EngineOptions options)
    : impl_(std::make_shared<Impl>(world, metrics, std::move(port), directory, std::move(identity),
                                   std::move(options))) {}

Engine::~Engine() { Close(); }

void Engine::UseGpus(std::shared_ptr<DeviceMemory> gpus) {
  impl_->memory->UseGpus(std::move(gpus));
}

void Engine::AddTransport(std::unique_ptr<Transport> transport) {
  const std::vector<std::string>& wanted = impl_->options.transports;
  if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), transport->name()) == wanted.end())
    return transport->Close();  // what it listens on may hold it
  impl_->transports.push_back(std::move(transport));
}

void Engine::Start() { impl_->Start(); }

void Engine::Close() {
  if (impl_->closed) return;
  Await(impl_->world.control, impl_->Close());
}

Task<void> Engine::CloseAsync() {
  const auto impl = impl_;
  co_await impl->Close();
}

const std::shared_ptr<RegionTable>& Engine::regions() const noexcept {
  return impl_->memory->regions();
}
const std::shared_ptr<DeviceMemory>& Engine::gpus() const noexcept { return impl_->memory->gpus(); }
Introduction Engine::Introduce() const { return impl_->Introduce(); }
const Identity& Engine::identity() const noexcept { return impl_->identity; }

Result<RegionInfo> Engine::Register(void* base, std::uint64_t length_bytes,
                                    const RegisterOptions& options) {
  return impl_->Offered(impl_->memory->Register(base, length_bytes, options));
}

Result<RegionInfo> Engine::Allocate(const std::string& name, std::uint64_t length_bytes,
                                    const RegisterOptions& options) {
  return impl_->Offered(impl_->memory->Allocate(name, length_bytes, options));
}

Status Engine::Unregister(RegionId id) { return Await(impl_->world.control, UnregisterAsync(id)); }

Task<void> Engine::EndTransfersOf(InstanceId peer) {
  const auto impl = impl_;
  auto end = impl->EndTransfersOf(peer, std::nullopt);
  co_await std::move(end);
}

Task<Status> Engine::UnregisterAsync(RegionId id) {
  const auto impl = impl_;
  auto end =
      impl->memory->Unregister(id, [&impl](RegionId ended) { return impl->Withdraw(ended); });
  co_return co_await std::move(end);
}

Task<Result<PeerPtr>> Engine::Connect(std::string label, Instant deadline) {
  const auto connector = impl_->connector;
  auto connect = connector->Connect(std::move(label), deadline);
  Result<std::shared_ptr<PeerImpl>> peer = co_await std::move(connect);
  if (!peer) co_return Fail(peer.error());
  co_return PeerPtr(*peer);
}

Task<Result<PeerPtr>> Engine::Connect(Record record, Instant deadline) {
  const auto connector = impl_->connector;
  auto connect = connector->Connect(std::move(record), deadline);
  Result<std::shared_ptr<PeerImpl>> peer = co_await std::move(connect);
  if (!peer) co_return Fail(peer.error());
  co_return PeerPtr(*peer);
}

Result<PeerPtr> Engine::ConnectNow(const std::string& label, Instant deadline) {
  return Await(impl_->world.control, Connect(label, deadline));
}

[[gnu::hot]] Status Engine::Run(const PeerPtr& peer, Direction direction,
                                std::span<const Copy> copies, const BatchOptions& options) {
  auto& known = static_cast<PeerImpl&>(*peer);
  // The caller's own thread does everything, if a path is ready that allows it.
  if (!options.notify && known.is_connected() && !impl_->closed) [[likely]] {
    LocalPins pins(*regions());
    MC_TRY_STATUS(pins.Hold(copies));
    Transfer transfer = Summarise(direction, copies);
    transfer.deadline = options.deadline;
    if (transfer.region_count == 1 && !copies.empty())
      transfer.region = known.regions()->Find(copies.front().region);
    transfer.on_gpu = pins.on_gpu() || known.regions()->AnyOnGpu(copies);
    const PathChoice choice = known.Choose(transfer);
    const Instant begin = impl_->BeginOf(transfer);
    std::optional<Status> status = choice.path ? choice.path->TryRun(transfer) : std::nullopt;
    if (status) [[likely]] {
      impl_->HasEnded(known, choice, transfer, begin, *status);
      if (*status) [[likely]]
        return {};
      if (!MayHeal(status->error())) return std::move(*status);
    }
  }
  return impl_->RunAsBatch(peer, direction, copies, options);
}

std::shared_ptr<Batch> Engine::Submit(const PeerPtr& peer, Direction direction,
                                      std::vector<Copy> copies, BatchOptions options) {
  return impl_->Submit(peer, direction, std::move(copies), std::move(options));
}

Task<Status> Engine::Notify(PeerPtr peer, std::string name, std::string message, Instant deadline) {
  const auto impl = impl_;
  if (impl->closed) co_return Fail(ErrorId::kClosed, "the engine stops");
  impl->active += 1;
  auto notify = impl->notifier.Send(std::static_pointer_cast<PeerImpl>(peer), std::move(name),
                                    std::move(message), deadline);
  Status status = co_await std::move(notify);
  impl->Leave();
  co_return status;
}

std::vector<Notification> Engine::TakeNotifications() { return impl_->notifications.Take(); }

std::vector<PathRow> Engine::Paths() const {
  std::vector<PathRow> rows;
  if (!impl_->connector) return rows;
  for (const std::shared_ptr<PeerImpl>& peer : impl_->connector->Peers()) {
    for (const PathSlotPtr& slot : peer->slots()) {
      PathRow row;
      row.peer_label = peer->identity().label;
      row.peer = peer->identity().id;
      row.transport = slot->transport->name();
      row.bytes = slot->bytes;
      row.transfers = slot->transfers;
      row.failures = slot->failures;
      row.gigabytes_per_second = slot->gigabytes_per_second;
      row.suspected = peer->is_suspected();
      {
        const std::lock_guard lock(slot->mutex);
        row.reason = slot->reason;
      }
      if (const std::shared_ptr<Path> path = slot->Get()) {
        row.usable = true;
        row.reason.clear();
        row.detail = path->Describe();
      }
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace mooncake
