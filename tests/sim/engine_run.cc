#include "engine_run.h"

#include <algorithm>
#include <array>

#include "base/log.h"
#include "directory/memory/memory_directory.h"
#include "directory/p2p/p2p_directory.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

constexpr Duration kHealMax = 100s;  // after the last fault, until every pair can transfer again

}  // namespace

EngineRun::EngineRun(Plan plan, bool keep_history) : ClusterRun(std::move(plan), keep_history) {
  current_.resize(shape_.nodes);
  wire_ = std::make_unique<FakeWire>(
      [this](const InstanceId& from, const InstanceId& to) { return Reaches(from, to); });
}

std::string EngineRun::Label(std::size_t node) const {
  if (!shape_.p2p) return fmt::format("node-{}", node);
  return ToString(Endpoint{node_hosts_[node]->addresses().front(),
                           static_cast<std::uint16_t>(kFirstPort + node)});
}

void EngineRun::StartNode(std::size_t node) {
  SimProcess& process = sim_.Start(*node_hosts_[node]);
  World& world = process.world();
  const std::size_t number = instances_.size();
  instances_.push_back(std::make_unique<EngineNode>(number, node, process, shape_.memory_bytes,
                                                    process.world().random.Next()));
  EngineNode& instance = *instances_.back();
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
  instance.engine = std::make_unique<Engine>(world, instance.metrics, instance.port,
                                             *instance.directory, instance.identity, shape_.engine);
  Engine& engine = *instance.engine;
  if (shape_.fake)
    engine.AddTransport(MakeFakeTransport(world, *wire_, instance.identity.id, engine.regions(),
                                          shape_.fake_options));
  if (shape_.tcp) {
    engine.AddTransport(MakeTcpTransport(
        world, instance.metrics, engine.regions(), CopyEngine::Plain(),
        [&engine] { return engine.Introduce(); }, shape_.tcp_options));
  }
  const bool named_port = shape_.p2p || instance.random.Chance(0.5);
  const auto port = static_cast<std::uint16_t>(named_port ? kFirstPort + node : 0);
  Result<std::unique_ptr<Listener>> listener =
      world.network.Listen(world.control, {IpAddress::AnyV6(), port});
  if (!listener)
    return Found(Rule::kNotHealed,
                 fmt::format("node {} cannot listen: {}", node, listener.error().Text()));
  engine.Start();
  const Endpoint at{process.host().addresses().front(), (*listener)->bound().port};
  instance.port->Serve(std::move(*listener));
  Register(instance);
  Record("node {} starts as {} at {}", node, ShortId(instance.identity.id), ToString(at));
  Spawn(world.control, Publish(instance, at));
}

Task<void> EngineRun::Publish(EngineNode& instance, Endpoint at) {
  World& world = instance.process.world();
  mooncake::Record record{instance.identity, "default", {at}, {}, world.clock.WallNow()};
  auto publish = instance.directory->Publish(std::move(record), After(world.clock.Now(), 1h));
  const Status published = co_await std::move(publish);
  if (instance.state != EngineNode::State::kStarting) co_return;
  if (published) {
    instance.state = EngineNode::State::kLive;
  } else {
    Found(Rule::kNotHealed, fmt::format("node {} cannot publish itself: {}", instance.node,
                                        published.error().Text()));
  }
}

// Two regions with memory between and around them that is not registered.
void EngineRun::Register(EngineNode& instance) {
  const std::size_t gap = 64;
  const MutableBytes arena(instance.arena);
  const std::size_t first = (arena.size() - 3 * gap) / 3;
  const std::size_t second = arena.size() - 3 * gap - first;
  const std::array<std::pair<std::size_t, std::size_t>, 2> places = {
      std::pair{gap, first}, std::pair{2 * gap + first, second}};
  for (const std::size_t at : {std::size_t{0}, gap + first, arena.size() - gap}) {
    instance.guards.push_back(
        std::make_unique<CheckedMemory>(arena.subspan(at, gap), instance.random));
  }
  for (const auto& [at, length] : places) AddRegion(instance, arena.subspan(at, length));
}

void EngineRun::AddRegion(EngineNode& instance, MutableBytes memory) {
  const RegisterOptions options{.listed = instance.random.Chance(0.7)};
  const Result<RegionInfo> info = instance.engine->Register(memory.data(), memory.size(), options);
  if (!info)
    return Found(Rule::kUnfitError, "a region cannot be registered: " + info.error().Text());
  instance.regions.push_back(
      std::make_shared<Region>(instance, *info, options.listed, memory, instance.random));
}

void EngineRun::BeginClose(EngineNode& instance) {
  instance.state = EngineNode::State::kClosing;
  Tell(history::Ending{instance.number});
}

Task<void> EngineRun::Close(EngineNode& instance) {
  instance.closes += 1;
  auto close = CloseParts(instance);
  co_await std::move(close);
  instance.closes -= 1;
}

Task<void> EngineRun::CloseParts(EngineNode& instance) {
  World& world = instance.process.world();
  auto withdraw = instance.directory->Withdraw(After(world.clock.Now(), 1s));
  co_await std::move(withdraw);
  auto close = instance.engine->CloseAsync();
  co_await std::move(close);
  instance.port->Close(Error{ErrorId::kClosed, "the node stops"});
  if (instance.state != EngineNode::State::kClosing) co_return;
  instance.state = EngineNode::State::kClosed;
  Tell(history::Gone{instance.number});
  RetireAll(instance);
  Record("node {} has stopped", instance.node);
}

// ---- the end ----------------------------------------------------------------------------------
// Faults end; every pair must find together again, and every batch must have its end.
void EngineRun::Heal() {
  if (!Await([this] { return pending_repairs_ == 0; }, After(sim_.Now(), 200s)))
    Found(Rule::kNotHealed, "a node did not stop");
  for (SimHost* a : AllHosts()) {
    for (SimHost* b : AllHosts()) sim_.net().Link(*a, *b).loss = 0;
  }
  Record("the faults end");
  std::size_t left = 0;
  for (EngineNode* const from : current_) {
    for (std::size_t to = 0; to < current_.size(); ++to) {
      left += 1;
      Spawn(from->process.world().control,
            [](EngineRun& me, EngineNode& instance, std::size_t node,
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
    Found(Rule::kNotHealed,
          fmt::format("{} pairs cannot transfer {} s after the last fault", left,
                      std::chrono::duration_cast<std::chrono::seconds>(kHealMax).count()));
  // What does not end by then is told by the checker, when the history is over.
  static_cast<void>(Await([this] { return checker_.open() == 0; }, After(sim_.Now(), kHealMax)));
  // Long enough for every lease of the dead to end.
  if (directory_ && !dead_since_.empty())
    static_cast<void>(Await([] { return false; }, After(sim_.Now(), kLeaseDuration + 3s)));
  CheckLeases();
  CheckAllMemory();
}

Task<void> EngineRun::Prove(EngineNode& from, std::size_t to) {
  World& world = from.process.world();
  SimRandom random(StreamSeed(plan_.seed, "proof", from.number * shape_.nodes_drawn + to));
  const Instant limit = After(sim_.Now(), kHealMax);
  while (sim_.Now() < limit) {
    auto connect = from.engine->Connect(Label(to), After(world.clock.Now(), 5s));
    const Result<PeerPtr> peer = co_await std::move(connect);
    if (peer) {
      const OperationPtr operation = Submit(from, *peer, random);
      const std::shared_ptr<Batch> batch = operation->batch;
      const Status status = co_await batch->Done();
      if (status && operation->to == current_[to]) co_return;
    }
    constexpr Duration kPause = 100ms;
    co_await world.clock.SleepFor(world.control, kPause);
  }
}

void EngineRun::TakeDown() {
  std::size_t closing = 0;
  const auto close = [this, &closing](EngineNode& instance) {
    closing += 1;
    Spawn(instance.process.world().control,
          [](EngineRun& me, EngineNode& each, std::size_t& left) -> Task<void> {
            auto end = me.Close(each);
            co_await std::move(end);
            left -= 1;
          }(*this, instance, closing));
  };
  for (const auto& instance : instances_) {
    if (instance->state == EngineNode::State::kLive ||
        instance->state == EngineNode::State::kStarting) {
      BeginClose(*instance);
      close(*instance);
    } else if (instance->state == EngineNode::State::kDead) {
      CheckAllMemory();
      instance->guards.clear();  // it may finish in its own memory what it had begun
      sim_.Exhume(instance->process);
      close(*instance);
    } else if (instance->process.is_dead()) {
      sim_.Exhume(instance->process);  // it had stopped before its host lost power
    }
  }
  CloseDirectories();
  const auto closed = [this, &closing] {
    return closing == 0 && std::all_of(instances_.begin(), instances_.end(),
                                       [](const auto& instance) { return instance->closes == 0; });
  };
  if (!Await(closed, After(sim_.Now(), 100s)))
    return Found(Rule::kNotGivenBack, "a node cannot be taken down");
  taken_down_ = true;
  for (const auto& instance : instances_) {
    instance->peers.clear();
    instance->engine = nullptr;
    instance->port = nullptr;
    instance->directory = nullptr;
  }
  for (const OperationPtr& operation : operations_) operation->batch = nullptr;
  ForgetDirectories();
  static_cast<void>(Await([] { return false; }, After(sim_.Now(), 10s)));
  for (const auto& instance : instances_)
    CheckLeft(instance->process,
              fmt::format("node {} ({})", instance->node, ShortId(instance->identity.id)));
  for (const auto& directory : all_directories_) CheckLeft(*directory->process, "the directory");
  CheckAllMemory();
}

}  // namespace mooncake
