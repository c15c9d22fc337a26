#include "engine_sim.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "base/log.h"
#include "checked_memory.h"
#include "directory/memory/directory_server.h"
#include "directory/memory/memory_directory.h"
#include "directory/p2p/p2p_directory.h"
#include "engine/engine.h"
#include "sim/sim_world.h"
#include "transport/fake/fake_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

constexpr Duration kLateMax = 5ms;   // after its deadline, what a batch may take to end
constexpr Duration kHealMax = 100s;  // after the last fault, until every pair can transfer again
constexpr std::uint64_t kEventsMax = 1'000'000;  // of a run; the longest have a tenth of it
constexpr std::size_t kViolationsMax = 20;
constexpr std::uint16_t kDirectoryPort = 7700;
constexpr std::uint16_t kFirstPort = 5000;
constexpr std::uint64_t kFullCheckEvery = 512;  // events

// What is drawn once per run.
struct Shape {
  std::size_t nodes = 2;
  bool share_hosts = false;
  bool p2p = false;
  bool tcp = true;
  bool fake = false;
  TcpOptions tcp_options;
  FakeOptions fake_options;
  EngineOptions engine;
  PortServerOptions port;
  std::size_t memory_bytes = 0;
  std::size_t actions = 0;
  std::size_t faults = 0;
  Duration action_gap{0};
  Duration fault_gap{0};
  SimLink link;
};

struct Instance;

struct Region {
  Region(Instance& o, const RegionInfo& i, bool l, MutableBytes bytes, SimRandom& random)
      : owner(o), info(i), listed(l), memory(bytes, random) {}
  Instance& owner;
  RegionInfo info;
  bool listed;
  CheckedMemory memory;
  std::size_t local_batches = 0;  // of its owner, that use it as local memory
  bool leaving = false;           // being unregistered
};
using RegionPtr = std::shared_ptr<Region>;

// One process of a node: a node that restarts has several, one after another.
struct Instance {
  enum class State { kStarting, kLive, kClosing, kClosed, kDead };
  Instance(std::size_t n, SimProcess& p, std::size_t memory_bytes)
      : node(n), process(p), arena(memory_bytes) {}
  std::size_t node;
  SimProcess& process;
  Identity identity;
  Metrics metrics;
  std::unique_ptr<Directory> directory;
  std::shared_ptr<PortServer> port;
  std::unique_ptr<Engine> engine;
  State state = State::kStarting;
  std::size_t closes = 0;  // running
  Instant ended = kNever;  // since when it ends or is dead
  Instant gone = kNever;   // since when it has ended or is dead
  Instant stalled_until{};
  std::vector<std::byte> arena;
  std::vector<RegionPtr> regions;                      // those that can be used
  std::vector<RegionPtr> abandoned;                    // unregistered, but not in time
  std::vector<std::unique_ptr<CheckedMemory>> guards;  // memory that nobody may touch
  std::map<std::size_t, PeerPtr> peers;                // by node
  std::set<std::size_t> connecting;
};

struct Range {
  RegionPtr local;
  RegionPtr remote;
  std::uint64_t local_offset;
  std::uint64_t remote_offset;
  std::uint64_t length;
  std::vector<std::byte> bytes;  // that are to be at the destination
};

struct Operation {
  std::uint64_t number = 0;
  Instance* from = nullptr;
  Instance* to = nullptr;
  Direction direction = Direction::kWrite;
  bool is_batch = true;  // else a notification alone
  bool notify = false;
  std::vector<Range> ranges;
  std::uint64_t total_bytes = 0;
  Instant submitted{};
  Instant deadline = kNever;
  std::shared_ptr<Batch> batch;
  bool cancelled = false;
  int completions = 0;
  bool succeeded = false;
  int notified = 0;
  bool orphaned = false;  // who started it is dead
};
using OperationPtr = std::shared_ptr<Operation>;

// The process that carries the directory.
struct DirectoryHost {
  SimProcess* process = nullptr;
  Metrics metrics;
  std::shared_ptr<PortServer> port;
  std::shared_ptr<DirectoryServer> server;
};

class EngineSim {
 public:
  EngineSim(std::uint64_t seed, bool keep_history)
      : sim_(seed), random_(sim_.random()), keep_history_(keep_history) {
    outcome_.seed = seed;
    wire_ = std::make_unique<FakeWire>(
        [this](const InstanceId& from, const InstanceId& to) { return Reaches(from, to); });
  }

  SimOutcome Run() {
    Draw();
    Build();
    sim_.loop().on_step = [this](SimTurn* turn) { AfterStep(turn); };
    ScheduleAction();
    ScheduleFault();
    const bool acted =
        Await([this] { return actions_left_ == 0 && faults_left_ == 0; }, After(sim_.Now(), 1h));
    if (!acted) Violation("the load did not end");
    Heal();
    TakeDown();
    for (const std::string& warning : TakeWarnings()) Violation("a warning was logged: " + warning);
    sim_.loop().on_step = nullptr;
    outcome_.events = sim_.loop().steps();
    outcome_.simulated = sim_.Now() - begin_;
    Digest(fmt::format("{} events", outcome_.events));
    outcome_.digest = digest_;
    return std::move(outcome_);
  }

  [[nodiscard]] bool taken_down() const noexcept { return taken_down_; }

 private:
  // ---- set up -----------------------------------------------------------------------------------
  void Draw() {
    shape_.nodes = random_.Between(std::uint64_t{2}, std::uint64_t{6});
    shape_.share_hosts = random_.Chance(0.3);
    shape_.p2p = random_.Chance(0.4);
    switch (random_.Below(3)) {
      case 0:
        break;
      case 1:
        shape_.fake = true;
        break;
      default:
        shape_.fake = true;
        shape_.tcp = false;
    }
    shape_.tcp_options.lanes = random_.Between(std::uint64_t{1}, std::uint64_t{3});
    shape_.tcp_options.frames_in_flight = random_.Between(std::uint64_t{1}, std::uint64_t{8});
    shape_.tcp_options.frame_bytes_max = random_.Skewed(200, 200'000);
    FakeOptions& fake = shape_.fake_options;
    fake.synchronous = random_.Chance(0.3);
    fake.piece_bytes_max = random_.Skewed(500, 100'000);
    fake.delay_max =
        random_.Chance(0.3) ? Duration(0) : random_.Skewed(Duration(1ns), Duration(3ms));
    fake.reorder = random_.Chance(0.7);
    fake.repeats = random_.Chance(0.5) ? 0.2 : 0;
    fake.failures = random_.Chance(0.6) ? 0.002 : 0;
    fake.refusals = random_.Chance(0.3) ? 0.3 : 0;
    fake.fixed_cost = random_.Chance(0.5) ? 1us : 200us;
    shape_.engine.connect_timeout = random_.Skewed(Duration(50ms), Duration(5s));
    shape_.engine.unregister_timeout = random_.Skewed(Duration(10ms), Duration(5s));
    shape_.engine.rpc.ping_interval = random_.Skewed(Duration(500ms), Duration(2s));
    shape_.engine.rpc.dead_after = random_.Skewed(Duration(5s), Duration(60s));
    shape_.port.rpc = shape_.engine.rpc;
    shape_.port.handshake_timeout = random_.Skewed(Duration(500ms), Duration(5s));
    shape_.memory_bytes = random_.Skewed(6'000, 500'000);
    shape_.actions = random_.Between(std::uint64_t{20}, std::uint64_t{120});
    shape_.faults = random_.Chance(0.2) ? 0 : random_.Between(std::uint64_t{1}, std::uint64_t{12});
    shape_.action_gap = random_.Skewed(Duration(20us), Duration(100ms));
    shape_.fault_gap =
        shape_.action_gap * static_cast<std::int64_t>(1 + shape_.actions / (1 + shape_.faults)) * 2;
    shape_.link.latency = random_.Skewed(Duration(1us), Duration(20ms));
    shape_.engine.connect_timeout = std::max(shape_.engine.connect_timeout,
                                             20 * shape_.link.latency);  // two round trips and more
    shape_.link.jitter = random_.Chance(0.5) ? Duration(0) : shape_.link.latency;
    shape_.link.bytes_per_second = static_cast<double>(random_.Skewed(300'000, 10'000'000'000));
    shape_.link.loss = std::array{0.0, 0.0, 0.02, 0.08}[random_.Below(4)];
    SimStreamOptions& streams = sim_.net().stream_options;
    streams.segment_bytes_max = random_.Skewed(500, 64 << 10);
    streams.send_buffer_bytes = random_.Skewed(1'000, 256 << 10);
    streams.receive_buffer_bytes = random_.Skewed(1'000, 256 << 10);
    streams.odd_reads = random_.Chance(0.5) ? 0 : 0.3;
    streams.pauses = random_.Chance(0.5) ? 0 : 0.3;
    actions_left_ = shape_.actions;
    faults_left_ = shape_.faults;
    begin_ = sim_.Now();
    outcome_.shape = fmt::format(
        "{} engines, {}{}{}, {}, {} actions, {} faults, latency {} us{}", shape_.nodes,
        shape_.tcp ? "tcp" : "", shape_.tcp && shape_.fake ? "+" : "", shape_.fake ? "fake" : "",
        shape_.p2p ? "P2PHANDSHAKE" : "mooncake://", shape_.actions, shape_.faults,
        shape_.link.latency.count() / 1000, shape_.link.loss > 0 ? ", loss" : "");
    Record("{}", outcome_.shape);
  }

  void Build() {
    SimHost* host = nullptr;
    for (std::size_t node = 0; node < shape_.nodes; ++node) {
      if (host == nullptr || !shape_.share_hosts || random_.Chance(0.5)) host = &sim_.AddHost();
      node_hosts_.push_back(host);
    }
    directory_host_ = &sim_.AddHost();
    std::vector<SimHost*> hosts = node_hosts_;
    hosts.push_back(directory_host_);
    for (SimHost* a : hosts) {
      for (SimHost* b : hosts) {
        if (a != b) sim_.net().Link(*a, *b) = shape_.link;
      }
    }
    current_.resize(shape_.nodes);
    if (!shape_.p2p) StartDirectory();
    for (std::size_t node = 0; node < shape_.nodes; ++node) Start(node);
  }

  std::string Label(std::size_t node) const {
    if (!shape_.p2p) return fmt::format("node-{}", node);
    return ToString(Endpoint{node_hosts_[node]->addresses().front(),
                             static_cast<std::uint16_t>(kFirstPort + node)});
  }

  void StartDirectory() {
    directory_ = std::make_shared<DirectoryHost>();
    directory_->process = &sim_.Start(*directory_host_);
    World& world = directory_->process->world();
    directory_->server = std::make_shared<DirectoryServer>(world);
    directory_->port =
        std::make_shared<PortServer>(world, directory_->metrics, PortServerOptions{});
    const Identity self{world.random.DrawInstanceId(), 1, "directory", world.network.host(), "sim"};
    directory_->port->introduce = [self] { return Introduction{self, {}, {}}; };
    directory_->server->AddTo(directory_->port->router);
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::AnyV6(), kDirectoryPort});
    if (!listener) return Violation(listener.error().Text());
    directory_->port->Serve(std::move(*listener));
    all_directories_.push_back(directory_);
    Record("directory starts");
  }

  void Start(std::size_t node) {
    SimProcess& process = sim_.Start(*node_hosts_[node]);
    World& world = process.world();
    instances_.push_back(std::make_unique<Instance>(node, process, shape_.memory_bytes));
    Instance& instance = *instances_.back();
    current_[node] = &instance;
    instance.identity = {world.random.DrawInstanceId(), instances_.size(), Label(node),
                         world.network.host(), "sim"};
    by_id_[instance.identity.id] = &instance;
    if (shape_.p2p) {
      instance.directory = MakeP2pDirectory(world);
    } else {
      instance.directory = MakeRemoteDirectory(
          world, {HostPort{ToString(directory_host_->addresses().front()), kDirectoryPort}},
          "default");
    }
    instance.port = std::make_shared<PortServer>(world, instance.metrics, shape_.port);
    instance.engine =
        std::make_unique<Engine>(world, instance.metrics, instance.port, *instance.directory,
                                 instance.identity, shape_.engine);
    Engine& engine = *instance.engine;
    if (shape_.fake)
      engine.AddTransport(MakeFakeTransport(world, *wire_, instance.identity.id, engine.regions(),
                                            shape_.fake_options));
    if (shape_.tcp) {
      engine.AddTransport(MakeTcpTransport(
          world, instance.metrics, engine.regions(), CopyEngine::Plain(),
          [&engine] { return engine.Introduce(); }, shape_.tcp_options));
    }
    const bool named_port = shape_.p2p || random_.Chance(0.5);
    const auto port = static_cast<std::uint16_t>(named_port ? kFirstPort + node : 0);
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::AnyV6(), port});
    if (!listener)
      return Violation(fmt::format("node {} cannot listen: {}", node, listener.error().Text()));
    engine.Start();
    const Endpoint at{process.host().addresses().front(), (*listener)->bound().port};
    instance.port->Serve(std::move(*listener));
    Register(instance);
    Record("node {} starts as {} at {}", node, ShortId(instance.identity.id), ToString(at));
    Spawn(world.control, Publish(instance, at));
  }

  Task<void> Publish(Instance& instance, Endpoint at) {
    World& world = instance.process.world();
    mooncake::Record record{instance.identity, "default", {at}, {}, world.clock.WallNow()};
    auto publish = instance.directory->Publish(std::move(record), After(world.clock.Now(), 1h));
    const Status published = co_await std::move(publish);
    if (instance.state != Instance::State::kStarting) co_return;
    if (published) {
      instance.state = Instance::State::kLive;
    } else {
      Violation(fmt::format("node {} cannot publish itself: {}", instance.node,
                            published.error().Text()));
    }
  }

  // Two regions with memory between and around them that is not registered.
  void Register(Instance& instance) {
    const std::size_t gap = 64;
    const MutableBytes arena(instance.arena);
    const std::size_t first = (arena.size() - 3 * gap) / 3;
    const std::size_t second = arena.size() - 3 * gap - first;
    const std::array<std::pair<std::size_t, std::size_t>, 2> places = {
        std::pair{gap, first}, std::pair{2 * gap + first, second}};
    for (const std::size_t at : {std::size_t{0}, gap + first, arena.size() - gap}) {
      instance.guards.push_back(std::make_unique<CheckedMemory>(arena.subspan(at, gap), random_));
    }
    for (const auto& [at, length] : places) AddRegion(instance, arena.subspan(at, length));
  }

  void AddRegion(Instance& instance, MutableBytes memory) {
    const RegisterOptions options{.listed = random_.Chance(0.7)};
    const Result<RegionInfo> info =
        instance.engine->Register(memory.data(), memory.size(), options);
    if (!info) return Violation("a region cannot be registered: " + info.error().Text());
    instance.regions.push_back(
        std::make_shared<Region>(instance, *info, options.listed, memory, random_));
  }

  // ---- load -------------------------------------------------------------------------------------
  void ScheduleAction() {
    if (actions_left_ == 0) return;
    sim_.loop().At(After(sim_.Now(), Gap(shape_.action_gap)), [this] {
      actions_left_ -= 1;
      Act();
      ScheduleAction();
    });
  }

  Duration Gap(Duration mean) {
    return Duration(
        static_cast<std::int64_t>(random_.Below(static_cast<std::uint64_t>(mean.count()) * 2 + 1)));
  }

  void Act() {
    Instance& from = *current_[random_.Below(current_.size())];
    if (from.state != Instance::State::kLive && from.state != Instance::State::kStarting) return;
    const std::uint64_t die = random_.Below(100);
    if (die < 5) return CancelOne();
    if (die < 12) return UnregisterOne(from);
    const std::size_t to = random_.Below(current_.size());
    const auto known = from.peers.find(to);
    if (known == from.peers.end()) return ConnectTo(from, to);
    if (die < 20) return NotifyOnly(from, known->second);
    const std::uint64_t burst =
        random_.Chance(0.2) ? random_.Between(std::uint64_t{2}, std::uint64_t{8}) : 1;
    for (std::uint64_t i = 0; i < burst; ++i) Submit(from, known->second);
  }

  void ConnectTo(Instance& from, std::size_t to) {
    if (!from.connecting.insert(to).second) return;
    Spawn(from.process.world().control,
          [](EngineSim& me, Instance& instance, std::size_t node) -> Task<void> {
            World& world = instance.process.world();
            const Duration patience = me.random_.Skewed(Duration(1ms), Duration(5s));
            const Instant deadline = After(world.clock.Now(), patience);
            auto connect = instance.engine->Connect(me.Label(node), deadline);
            const Result<PeerPtr> peer = co_await std::move(connect);
            if (instance.process.is_dead()) co_return;
            instance.connecting.erase(node);
            me.Record("node {} connects to node {}: {}", instance.node, node,
                      peer ? "done" : ErrorName(peer.error().id));
            me.CheckTime(instance, "a connect", instance.process.FromLocal(deadline));
            if (!peer) co_return;
            const auto found = me.by_id_.find((*peer)->identity().id);
            if (found == me.by_id_.end() || found->second->node != node)
              co_return me.Violation("a connect led to somebody else");
            instance.peers[node] = *peer;
          }(*this, from, to));
  }

  Instant DrawDeadline() {
    if (random_.Chance(0.1)) return kNever;
    const bool hurried = random_.Chance(0.25);
    return After(sim_.Now(), hurried ? random_.Skewed(Duration(0), Duration(10ms))
                                     : random_.Skewed(Duration(10ms), Duration(30s)));
  }

  OperationPtr NewOperation(Instance& from, const PeerPtr& peer) {
    auto operation = std::make_shared<Operation>();
    operation->number = operations_.size();
    operation->from = &from;
    operation->to = by_id_.at(peer->identity().id);
    operation->submitted = sim_.Now();
    operations_.push_back(operation);
    open_ += 1;
    return operation;
  }

  // A range of `region` that nobody uses, at most `length` long. Null region: none was found.
  std::optional<std::uint64_t> FindFree(const RegionPtr& region, std::uint64_t length) {
    for (int attempt = 0; attempt < 6; ++attempt) {
      // Often near the beginning: what is used again soon shows who still writes there.
      const std::uint64_t places = region->memory.memory().size() - length + 1;
      const std::uint64_t offset = random_.Below(
          random_.Chance(0.6) ? std::min<std::uint64_t>(places, 2 * length + 200) : places);
      if (region->memory.IsFree(offset, length)) return offset;
    }
    return std::nullopt;
  }

  RegionPtr DrawRegion(Instance& instance) {
    std::vector<RegionPtr> usable;
    for (const RegionPtr& region : instance.regions) {
      if (!region->leaving) usable.push_back(region);
    }
    return usable.empty() ? nullptr : usable[random_.Below(usable.size())];
  }

  OperationPtr Submit(Instance& from, const PeerPtr& peer) {
    const OperationPtr operation = NewOperation(from, peer);
    operation->direction = random_.Chance(0.5) ? Direction::kWrite : Direction::kRead;
    operation->notify = random_.Chance(0.3);
    operation->deadline = DrawDeadline();
    std::vector<Copy> copies;
    const std::uint64_t count = random_.Skewed(1, 100);
    for (std::uint64_t i = 0; i < count; ++i) AddRange(*operation, peer, copies, count);
    BatchOptions options;
    options.deadline = from.process.ToLocal(operation->deadline);
    if (operation->notify)
      options.notify = std::pair{std::string("batch"), std::to_string(operation->number)};
    Record("node {} {} {}: {} ranges, {} bytes at node {} ({}){}", from.node,
           operation->direction == Direction::kWrite ? "writes" : "reads", operation->number,
           copies.size(), operation->total_bytes, operation->to->node,
           ShortId(operation->to->identity.id), operation->notify ? ", notifies" : "");
    outcome_.batches += 1;
    operation->batch =
        from.engine->Submit(peer, operation->direction, std::move(copies), std::move(options));
    operation->batch->OnDone(
        [this, operation](const Status& status) { Completed(operation, status); });
    return operation;
  }

  void AddRange(Operation& operation, const PeerPtr& peer, std::vector<Copy>& copies,
                std::uint64_t count) {
    const RegionPtr local = DrawRegion(*operation.from);
    const RegionPtr remote = DrawRegion(*operation.to);
    if (!local || !remote) return;
    const std::uint64_t most =
        std::min(local->memory.memory().size(), remote->memory.memory().size()) / 2 /
        std::min<std::uint64_t>(count, 8);
    std::uint64_t length = random_.Skewed(0, most);
    if (random_.Chance(0.1)) length = std::min<std::uint64_t>(length, 4096) == 4096 ? 4096 : length;
    const std::optional<std::uint64_t> here = FindFree(local, length);
    if (!here) return;
    local->memory.Hold(
        *here, length);  // a node may be its own peer: the other range must not overlap this one
    const std::optional<std::uint64_t> there = FindFree(remote, length);
    if (!there) return local->memory.Release(*here, length);
    const bool write = operation.direction == Direction::kWrite;
    const MutableBytes local_bytes = local->memory.memory().subspan(*here, length);
    const MutableBytes remote_bytes = remote->memory.memory().subspan(*there, length);
    Range range{local, remote, *here, *there, length, {}};
    const Bytes source = write ? local_bytes : remote_bytes;
    range.bytes.assign(source.begin(), source.end());
    if (write) {
      remote->memory.Expect(*there, range.bytes);
    } else {
      remote->memory.Hold(*there, length);
      local->memory.Expect(*here, range.bytes);
    }
    local->local_batches += 1;
    copies.push_back({local_bytes.data(), remote->info.id, *there, length});
    operation.total_bytes += length;
    operation.ranges.push_back(std::move(range));
    // Told by the application, as the unlisted ones must be; for the others the engine asks.
    if (!remote->listed || random_.Chance(0.5)) peer->AddRegion(remote->info);
  }

  void NotifyOnly(Instance& from, const PeerPtr& peer) {
    const OperationPtr operation = NewOperation(from, peer);
    operation->is_batch = false;
    operation->notify = true;
    operation->deadline = DrawDeadline();
    Record("node {} notifies {}: node {}", from.node, operation->number, operation->to->node);
    Spawn(from.process.world().control,
          [](EngineSim& me, OperationPtr o, PeerPtr with) -> Task<void> {
            auto notify = o->from->engine->Notify(with, "alone", std::to_string(o->number),
                                                  o->from->process.ToLocal(o->deadline));
            const Status status = co_await std::move(notify);
            me.Completed(o, status);
          }(*this, operation, peer));
  }

  void CancelOne() {
    std::vector<OperationPtr> running;
    for (const OperationPtr& operation : operations_) {
      if (operation->batch && operation->completions == 0 && !operation->orphaned)
        running.push_back(operation);
    }
    if (running.empty()) return;
    const OperationPtr& operation = running[random_.Below(running.size())];
    Record("cancel {}", operation->number);
    operation->cancelled = true;
    operation->batch->Cancel();
  }

  void UnregisterOne(Instance& instance) {
    const RegionPtr region = DrawRegion(instance);
    if (!region || region->local_batches > 0) return;
    region->leaving = true;
    Record("node {} unregisters region {}", instance.node,
           static_cast<std::uint64_t>(region->info.id));
    Spawn(instance.process.world().control,
          [](EngineSim& me, Instance& owner, RegionPtr r) -> Task<void> {
            auto unregister = owner.engine->UnregisterAsync(r->info.id);
            const Status status = co_await std::move(unregister);
            me.Unregistered(owner, r, status);
          }(*this, instance, region));
  }

  // Success: nobody touches the memory any more, so it gets new bytes and, after a while, a new
  // registration.
  void Unregistered(Instance& owner, const RegionPtr& region, const Status& status) {
    if (owner.process.is_dead()) return;
    Record("node {} has unregistered region {}: {}", owner.node,
           static_cast<std::uint64_t>(region->info.id),
           status ? "done" : ErrorName(status.error().id));
    if (owner.state != Instance::State::kLive && owner.state != Instance::State::kStarting) return;
    if (!status && status.error().id != ErrorId::kDeadline)
      Violation("unregistering failed: " + status.error().Text());
    std::erase(owner.regions, region);
    if (const auto wrong = region->memory.CheckAll()) Violation(Where(*region) + *wrong);
    if (!status) {  // somebody may still copy: the memory is not used again
      owner.abandoned.push_back(region);
      return;
    }
    region->memory.Retire();
    AddRegion(owner, region->memory.memory());
  }

  // ---- the checker ------------------------------------------------------------------------------
  std::string Where(const Region& region) const {
    return fmt::format("node {} ({}) region {}: ", region.owner.node,
                       ShortId(region.owner.identity.id),
                       static_cast<std::uint64_t>(region.info.id));
  }

  void CheckTime(const Instance& instance, std::string_view what, Instant deadline) {
    if (deadline == kNever) return;
    const Instant limit = After(std::max({deadline, instance.stalled_until, Instant{}}), kLateMax);
    if (sim_.Now() > limit) {
      Violation(fmt::format("{} of node {} ended {} us after its deadline", what, instance.node,
                            (sim_.Now() - deadline).count() / 1000));
    }
  }

  void Completed(const OperationPtr& operation, const Status& status) {
    Operation& o = *operation;
    if (o.orphaned) return;  // its process is dead, and only finishes to be taken down
    Record("{} ends: {}", o.number, status ? "done" : ErrorName(status.error().id));
    o.completions += 1;
    if (o.completions > 1)
      return Violation(fmt::format("{} completed {} times", o.number, o.completions));
    open_ -= 1;
    o.succeeded = status.has_value();
    CheckTime(*o.from, fmt::format("{}", o.number), std::max(o.deadline, o.submitted));
    if (!status) CheckError(o, status.error());
    if (status) CheckSuccess(o);
    for (Range& range : o.ranges) SettleRange(o, range, status.has_value());
    o.batch = nullptr;
    if (status) {
      outcome_.succeeded += 1;
    } else if (status.error().code() == Errc::kPeerGone && o.to->state == Instance::State::kDead) {
      ForgetPeer(*o.from, *o.to);
    }
    if (!status && status.error().id == ErrorId::kPeerGone) ForgetPeer(*o.from, *o.to);
  }

  static void ForgetPeer(Instance& from, const Instance& to) {
    const auto known = from.peers.find(to.node);
    if (known != from.peers.end() && known->second->identity().id == to.identity.id)
      from.peers.erase(known);
  }

  void CheckSuccess(const Operation& o) {
    if (o.total_bytes > 0 && o.to->gone < o.submitted) {
      Violation(fmt::format("{} succeeded with {}, which had ended before", o.number,
                            ShortId(o.to->identity.id)));
    }
    for (const Range& range : o.ranges) {
      const bool write = o.direction == Direction::kWrite;
      const Region& target = write ? *range.remote : *range.local;
      const std::uint64_t offset = write ? range.remote_offset : range.local_offset;
      if (!target.memory.Has(offset, range.bytes)) {
        Violation(fmt::format("{} succeeded, but its bytes are not at {}offset {}, {} bytes",
                              o.number, Where(target), offset, range.length));
      }
    }
    if (o.notify && o.notified != 1)
      Violation(
          fmt::format("{} succeeded, and its notification arrived {} times", o.number, o.notified));
  }

  void CheckError(const Operation& o, const Error& error) {
    const auto wrong = [&](std::string_view why) {
      Violation(fmt::format("{} failed {}: {}", o.number, why, error.Text()));
    };
    const bool partner_ended = o.to->ended != kNever;
    switch (error.id) {
      case ErrorId::kDeadline:
        if (o.deadline == kNever || sim_.Now() < o.deadline) wrong("before its deadline");
        return;
      case ErrorId::kCancelled:
        if (!o.cancelled) wrong("though nobody cancelled it");
        return;
      case ErrorId::kClosed:
        if (o.from->ended == kNever && !partner_ended) wrong("though nobody closed");
        return;
      case ErrorId::kRegionUnknown: {
        const bool gone = std::any_of(o.ranges.begin(), o.ranges.end(),
                                      [](const Range& r) { return r.remote->leaving; });
        if (!gone && !partner_ended) wrong("though its regions are there");
        return;
      }
      case ErrorId::kPeerGone:
        if (!partner_ended) wrong("though its partner lives");
        return;
      default:
        if (partner_ended && error.code() == Errc::kPeerGone) return;
        wrong("for no good reason");
    }
  }

  // Whoever started the batch has its memory back, and uses it.
  void SettleRange(const Operation& o, Range& range, bool success) {
    const bool write = o.direction == Direction::kWrite;
    CheckAround(*range.local, range.local_offset, range.length);
    CheckAround(*range.remote, range.remote_offset, range.length);
    range.local->local_batches -= 1;
    if (write) {
      if (success) {
        range.remote->memory.Settle(range.remote_offset, range.length);
      } else {
        range.remote->memory.Taint(range.remote_offset, range.length);
      }
    } else {
      range.remote->memory.Release(range.remote_offset, range.length);
    }
    if (!range.local->memory.is_retired())
      range.local->memory.Scribble(range.local_offset, range.length, random_);
  }

  void CheckAround(const Region& region, std::uint64_t offset, std::uint64_t length) {
    constexpr std::uint64_t kMargin = 64;
    const std::uint64_t begin = offset - std::min(offset, kMargin);
    const std::uint64_t end =
        std::min<std::uint64_t>(region.memory.memory().size(), offset + length + kMargin);
    if (const auto wrong = region.memory.Check(begin, end - begin))
      Violation(Where(region) + *wrong);
  }

  void CheckAllMemory() {
    for (const auto& instance : instances_) {
      for (const RegionPtr& region : instance->regions) {
        if (const auto wrong = region->memory.CheckAll()) Violation(Where(*region) + *wrong);
      }
      for (const auto& guard : instance->guards) {
        if (const auto wrong = guard->CheckAll()) {
          Violation(fmt::format("node {} ({}), memory that is not registered: {}", instance->node,
                                ShortId(instance->identity.id), *wrong));
        }
      }
    }
  }

  void AfterStep(SimTurn* turn) {
    if (turn != nullptr) {
      for (Instance* const instance : current_) {
        if (instance != nullptr && &instance->process.turn() == turn && instance->engine)
          TakeNotificationsOf(*instance);
      }
    }
    if (++steps_since_check_ < kFullCheckEvery) return;
    steps_since_check_ = 0;
    CheckAllMemory();
  }

  void TakeNotificationsOf(Instance& instance) {
    for (const Notification& notification : instance.engine->TakeNotifications()) {
      const std::uint64_t number = std::stoull(notification.message);
      Record("node {} hears of {}", instance.node, number);
      outcome_.notifications += 1;
      Operation& o = *operations_.at(number);
      o.notified += 1;
      if (o.notified > 1)
        Violation(fmt::format("the notification of {} arrived {} times", number, o.notified));
      if (o.to != &instance)
        Violation(fmt::format("the notification of {} arrived at somebody else", number));
      if (notification.sender != o.from->identity.id)
        Violation(fmt::format("the notification of {} names another sender", number));
      if (o.completions > 0 || o.direction != Direction::kWrite) continue;
      for (const Range& range : o.ranges) {
        if (!range.remote->memory.Has(range.remote_offset, range.bytes)) {
          Violation(fmt::format("the notification of {} arrived before its bytes", number));
        }
      }
    }
  }

  // ---- faults -----------------------------------------------------------------------------------
  bool Reaches(const InstanceId& from, const InstanceId& to) {
    const Instance& a = *by_id_.at(from);
    const Instance& b = *by_id_.at(to);
    return !a.process.is_dead() && !b.process.is_dead() &&
           !sim_.net().Link(a.process.host(), b.process.host()).down;
  }

  void ScheduleFault() {
    if (faults_left_ == 0) return;
    sim_.loop().At(After(sim_.Now(), Gap(shape_.fault_gap)), [this] {
      faults_left_ -= 1;
      outcome_.faults += 1;
      Fault();
      ScheduleFault();
    });
  }

  void Fault() {
    const Duration lasts = random_.Skewed(Duration(100us), Duration(8s));
    const std::size_t node = random_.Below(current_.size());
    switch (random_.Below(8)) {
      case 0:
      case 1: {
        const CutKind kind = std::array{CutKind::kBothNotice, CutKind::kOneNotices,
                                        CutKind::kNobodyNotices}[random_.Below(3)];
        const std::uint64_t count = random_.Skewed(1, 8);
        std::uint64_t cut = 0;
        while (cut < count && sim_.net().CutOne(kind)) ++cut;
        return Record("fault: {} cut, kind {}", cut, static_cast<int>(kind));
      }
      case 2:
      case 3:
        return Partition(lasts);
      case 4:
        return Stall(*current_[node], lasts);
      case 5:
        return Crash(node, lasts);
      case 6:
        return StopInOrder(node, lasts);
      default:
        if (shape_.p2p || random_.Chance(0.5)) return Crash(node, lasts);
        return CrashDirectory(lasts);
    }
  }

  // A group of hosts is cut off from the rest: in both directions, or in one.
  void Partition(Duration lasts) {
    std::vector<SimHost*> hosts = node_hosts_;
    hosts.push_back(directory_host_);
    std::set<std::string> inside;
    for (SimHost* host : hosts) {
      if (random_.Chance(0.4)) inside.insert(host->name());
    }
    const bool both = random_.Chance(0.7);
    for (SimHost* a : hosts) {
      for (SimHost* b : hosts) {
        const bool crosses = inside.contains(a->name()) && !inside.contains(b->name());
        if (!crosses) continue;
        sim_.net().Link(*a, *b).down = true;
        if (both) sim_.net().Link(*b, *a).down = true;
      }
    }
    Record("fault: partition around {} hosts{}", inside.size(), both ? "" : ", one way");
    pending_repairs_ += 1;
    sim_.loop().At(After(sim_.Now(), lasts), [this, hosts] {
      pending_repairs_ -= 1;
      for (SimHost* a : hosts) {
        for (SimHost* b : hosts) sim_.net().Link(*a, *b).down = false;
      }
      Record("the partition ends");
    });
  }

  void Stall(Instance& instance, Duration lasts) {
    if (instance.process.is_dead()) return;
    Record("fault: node {} stalls", instance.node);
    instance.stalled_until = std::max(instance.stalled_until, After(sim_.Now(), lasts));
    sim_.Stall(instance.process, lasts);
  }

  void Crash(std::size_t node, Duration lasts) {
    Instance& first = *current_[node];
    if (first.state == Instance::State::kDead || first.state == Instance::State::kClosed) return;
    const CrashKind kind = random_.Chance(0.6) ? CrashKind::kKilled : CrashKind::kPowerLost;
    Record("fault: node {} crashes{}", node, kind == CrashKind::kPowerLost ? ", power lost" : "");
    sim_.Crash(first.process, kind);
    for (const auto& instance : instances_) {
      const bool fell = instance->process.is_dead() && instance->state != Instance::State::kDead &&
                        instance->state != Instance::State::kClosed;
      if (fell) Bury(*instance, lasts);
    }
  }

  // Nothing of a dead instance may be touched any more; what it had begun has no end.
  void Bury(Instance& instance, Duration lasts) {
    if (instance.state == Instance::State::kClosing) pending_repairs_ -= 1;
    instance.state = Instance::State::kDead;
    instance.ended = std::min(instance.ended, sim_.Now());
    instance.gone = sim_.Now();
    wire_->Leave(instance.identity.id);
    for (const OperationPtr& operation : operations_) {
      if (operation->from != &instance || operation->completions > 0) continue;
      operation->orphaned = true;
      open_ -= 1;
      for (const Range& range : operation->ranges) {
        if (operation->direction == Direction::kWrite) {
          range.remote->memory.Taint(range.remote_offset, range.length);
        } else {
          range.remote->memory.Release(range.remote_offset, range.length);
        }
      }
    }
    RetireAll(instance);
    RestartLater(instance.node, lasts);
  }

  void RetireAll(Instance& instance) {
    for (std::vector<RegionPtr>* const regions : {&instance.regions, &instance.abandoned}) {
      for (const RegionPtr& region : *regions) {
        if (const auto wrong = region->memory.CheckAll()) Violation(Where(*region) + *wrong);
        region->memory.Retire();
      }
      regions->clear();
    }
    instance.guards.clear();
    instance.guards.push_back(
        std::make_unique<CheckedMemory>(MutableBytes(instance.arena), random_));
  }

  void RestartLater(std::size_t node, Duration after) {
    pending_repairs_ += 1;
    sim_.loop().At(After(sim_.Now(), after), [this, node] {
      pending_repairs_ -= 1;
      Start(node);
    });
  }

  void StopInOrder(std::size_t node, Duration lasts) {
    Instance& instance = *current_[node];
    if (instance.state != Instance::State::kLive) return;
    Record("fault: node {} stops in order", node);
    BeginClose(instance);
    pending_repairs_ += 1;
    Spawn(instance.process.world().control,
          [](EngineSim& me, Instance& closing, Duration pause) -> Task<void> {
            auto close = me.Close(closing);
            co_await std::move(close);
            if (closing.state == Instance::State::kDead)
              co_return;  // it crashed meanwhile, and has had its successor
            me.pending_repairs_ -= 1;
            me.RestartLater(closing.node, pause);
          }(*this, instance, lasts));
  }

  void BeginClose(Instance& instance) {
    instance.state = Instance::State::kClosing;
    instance.ended = sim_.Now();
  }

  Task<void> Close(Instance& instance) {
    instance.closes += 1;
    auto close = CloseParts(instance);
    co_await std::move(close);
    instance.closes -= 1;
  }

  Task<void> CloseParts(Instance& instance) {
    World& world = instance.process.world();
    auto withdraw = instance.directory->Withdraw(After(world.clock.Now(), 1s));
    co_await std::move(withdraw);
    auto close = instance.engine->CloseAsync();
    co_await std::move(close);
    instance.port->Close(Error{ErrorId::kClosed, "the node stops"});
    if (instance.state != Instance::State::kClosing) co_return;
    instance.state = Instance::State::kClosed;
    instance.gone = sim_.Now();
    RetireAll(instance);
    Record("node {} has stopped", instance.node);
  }

  void CrashDirectory(Duration lasts) {
    if (directory_->process->is_dead()) return;
    Record("fault: the directory crashes");
    sim_.Crash(*directory_->process,
               random_.Chance(0.5) ? CrashKind::kKilled : CrashKind::kPowerLost);
    pending_repairs_ += 1;
    sim_.loop().At(After(sim_.Now(), lasts), [this] {
      pending_repairs_ -= 1;
      StartDirectory();
    });
  }

  // ---- the end ----------------------------------------------------------------------------------
  // Faults end; every pair must find together again, and every batch must have its end.
  void Heal() {
    if (!Await([this] { return pending_repairs_ == 0; }, After(sim_.Now(), 200s)))
      Violation("a node did not stop");
    std::vector<SimHost*> hosts = node_hosts_;
    hosts.push_back(directory_host_);
    for (SimHost* a : hosts) {
      for (SimHost* b : hosts) sim_.net().Link(*a, *b).loss = 0;
    }
    Record("the faults end");
    std::size_t left = 0;
    for (Instance* const from : current_) {
      for (std::size_t to = 0; to < current_.size(); ++to) {
        left += 1;
        Spawn(from->process.world().control,
              [](EngineSim& me, Instance& instance, std::size_t node,
                 std::size_t& count) -> Task<void> {
                auto prove = me.Prove(instance, node);
                co_await std::move(prove);
                count -= 1;
              }(*this, *from, to, left));
      }
    }
    const Instant limit = After(sim_.Now(), kHealMax);
    const bool healed = Await([&left] { return left == 0; }, limit);
    if (!healed)
      Violation(fmt::format("{} pairs cannot transfer {} s after the last fault", left,
                            std::chrono::duration_cast<std::chrono::seconds>(kHealMax).count()));
    if (!Await([this] { return open_ == 0; }, After(sim_.Now(), kHealMax))) {
      for (const OperationPtr& operation : operations_) {
        if (operation->completions == 0 && !operation->orphaned)
          Violation(fmt::format("{} has not ended", operation->number));
      }
    }
    CheckAllMemory();
  }

  Task<void> Prove(Instance& from, std::size_t to) {
    World& world = from.process.world();
    const Instant limit = After(sim_.Now(), kHealMax);
    while (sim_.Now() < limit) {
      auto connect = from.engine->Connect(Label(to), After(world.clock.Now(), 5s));
      const Result<PeerPtr> peer = co_await std::move(connect);
      if (peer) {
        const OperationPtr operation = Submit(from, *peer);
        const std::shared_ptr<Batch> batch = operation->batch;
        const Status status = co_await batch->Done();
        if (status && operation->to == current_[to]) co_return;
      }
      constexpr Duration kPause = 100ms;
      co_await world.clock.SleepFor(world.control, kPause);
    }
  }

  void TakeDown() {
    std::size_t closing = 0;
    const auto close = [this, &closing](Instance& instance) {
      closing += 1;
      Spawn(instance.process.world().control,
            [](EngineSim& me, Instance& each, std::size_t& left) -> Task<void> {
              auto end = me.Close(each);
              co_await std::move(end);
              left -= 1;
            }(*this, instance, closing));
    };
    for (const auto& instance : instances_) {
      if (instance->state == Instance::State::kLive ||
          instance->state == Instance::State::kStarting) {
        BeginClose(*instance);
        close(*instance);
      } else if (instance->state == Instance::State::kDead) {
        CheckAllMemory();
        instance->guards.clear();  // it may finish in its own memory what it had begun
        sim_.Exhume(instance->process);
        close(*instance);
      } else if (instance->process.is_dead()) {
        sim_.Exhume(instance->process);  // it had stopped before its host lost power
      }
    }
    for (const auto& directory : all_directories_) {
      if (directory->process->is_dead()) sim_.Exhume(*directory->process);
      Post(directory->process->world().control,
           [directory] { directory->port->Close(Error{ErrorId::kClosed, "the directory stops"}); });
    }
    const auto closed = [this, &closing] {
      return closing == 0 &&
             std::all_of(instances_.begin(), instances_.end(),
                         [](const auto& instance) { return instance->closes == 0; });
    };
    if (!Await(closed, After(sim_.Now(), 100s))) return Violation("a node cannot be taken down");
    taken_down_ = true;
    for (const auto& instance : instances_) {
      instance->peers.clear();
      instance->engine = nullptr;
      instance->port = nullptr;
      instance->directory = nullptr;
    }
    for (const OperationPtr& operation : operations_) operation->batch = nullptr;
    for (const auto& directory : all_directories_) {
      directory->port = nullptr;
      directory->server = nullptr;
    }
    static_cast<void>(Await([] { return false; }, After(sim_.Now(), 10s)));
    for (const auto& instance : instances_)
      CheckLeft(instance->process,
                fmt::format("node {} ({})", instance->node, ShortId(instance->identity.id)));
    for (const auto& directory : all_directories_) CheckLeft(*directory->process, "the directory");
    CheckAllMemory();
  }

  void CheckLeft(const SimProcess& process, const std::string& name) {
    const SimProcess::Left left = process.left();
    if (left.nothing()) return;
    Violation(fmt::format("{} has left {} coroutines, {} streams, {} listeners, {} timers", name,
                          left.coroutines, left.streams, left.listeners, left.timers));
  }

  // False also when too much happens: something goes round in a circle.
  bool Await(const std::function<bool()>& done, Instant limit) {
    const auto enough = [this] { return sim_.loop().steps() > kEventsMax; };
    const bool came = sim_.RunUntil([&] { return done() || enough(); }, limit);
    if (enough()) Violation(fmt::format("more than {} events", kEventsMax));
    return came && !enough();
  }

  // ---- history ----------------------------------------------------------------------------------
  template <class... Arguments>
  void Record(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    const std::string line =
        fmt::format("{:.6f} {}", std::chrono::duration<double>(sim_.Now() - begin_).count(),
                    fmt::format(format, std::forward<Arguments>(arguments)...));
    Digest(line);
    if (keep_history_) outcome_.history.push_back(line);
  }

  void Digest(std::string_view text) {
    for (const char c : text)
      digest_ = (digest_ ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;  // FNV-1a
  }

  void Violation(const std::string& text) {
    Record("VIOLATION {}", text);
    if (outcome_.violations.size() < kViolationsMax) outcome_.violations.push_back(text);
  }

  SimWorld sim_;
  SimRandom& random_;
  const bool keep_history_;
  SimOutcome outcome_;
  Shape shape_;
  std::unique_ptr<FakeWire> wire_;
  std::vector<SimHost*> node_hosts_;
  SimHost* directory_host_ = nullptr;
  std::shared_ptr<DirectoryHost> directory_;  // the one that is meant to run
  std::vector<std::shared_ptr<DirectoryHost>> all_directories_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::vector<Instance*> current_;  // by node
  std::map<InstanceId, Instance*> by_id_;
  std::vector<OperationPtr> operations_;
  std::size_t open_ = 0;  // operations without an end
  std::size_t actions_left_ = 0;
  std::size_t faults_left_ = 0;
  std::size_t pending_repairs_ = 0;
  std::uint64_t steps_since_check_ = 0;
  bool taken_down_ = false;
  Instant begin_{};
  std::uint64_t digest_ = 0xCBF29CE484222325ULL;
};

}  // namespace

SimOutcome RunEngineSim(std::uint64_t seed, bool keep_history) {
  auto sim = std::make_unique<EngineSim>(seed, keep_history);
  SimOutcome outcome = sim->Run();
  if (!sim->taken_down())
    sim.release();  // NOLINT: what still runs cannot be destroyed; its seed has failed
  return outcome;
}

}  // namespace mooncake
