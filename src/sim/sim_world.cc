#include "sim/sim_world.h"

#include <fmt/format.h>

#include "sim/sim_files.h"

namespace mooncake {

class SimTimer final : public Timer {
 public:
  explicit SimTimer(SimProcess& process) : state_(std::make_shared<State>(process)) {}
  ~SimTimer() override { Disarm(); }

  void At(Instant when, std::function<void()> call) override {
    Disarm();
    state_->call = std::move(call);
    state_->process.timers_ += 1;
    const std::uint64_t mine = ++state_->generation;
    state_->process.turn().AddAt(state_->process.FromLocal(when),
                                 internal::MakeSimWork([state = state_, mine] {
                                   if (state->generation != mine || !state->call) return;
                                   state->process.timers_ -= 1;
                                   std::exchange(state->call, nullptr)();
                                 }));
  }
  void Cancel() override { Disarm(); }

 private:
  struct State {
    explicit State(SimProcess& p) : process(p) {}
    SimProcess& process;
    std::uint64_t generation = 0;
    std::function<void()> call;
  };
  void Disarm() {
    state_->generation += 1;
    if (!state_->call) return;
    state_->process.timers_ -= 1;
    state_->call = nullptr;
  }
  std::shared_ptr<State>
      state_;  // shared with the event, which stays queued when the timer is cancelled
};

namespace {

class SimClock final : public Clock {
 public:
  SimClock(SimProcess& process, SimLoop& loop) : process_(process), loop_(loop) {}
  Instant Now() override { return process_.ToLocal(loop_.Now()); }
  WallTime WallNow() override {
    constexpr std::chrono::sys_days kBegin = std::chrono::year(2026) / 1 / 1;
    return WallTime(kBegin) + std::chrono::duration_cast<WallTime::duration>(
                                  loop_.Now().time_since_epoch() + process_.host().wall_offset());
  }
  std::unique_ptr<Timer> MakeTimer(const Executor&) override {
    return std::make_unique<SimTimer>(process_);
  }

 private:
  SimProcess& process_;
  SimLoop& loop_;
};

class SimWorker final : public Worker {
 public:
  SimWorker(SimTurn& turn, SimRandom& random) : state_(std::make_shared<State>(turn, random)) {}
  ~SimWorker() override { Stop(); }

  void Add(std::function<void()> work) override {
    if (stopped_) return work();
    state_->queue.push_back(std::move(work));
    if (state_->queue.size() == 1) Schedule(state_);
  }
  void Stop() override {
    stopped_ = true;
    while (!state_->queue.empty()) RunOne(*state_);
  }

 private:
  struct State {
    State(SimTurn& t, SimRandom& r) : turn(t), random(r) {}
    SimTurn& turn;
    SimRandom& random;
    std::deque<std::function<void()>> queue;
  };
  static void RunOne(State& state) {
    const std::function<void()> work = std::move(state.queue.front());
    state.queue.pop_front();
    work();
  }
  static void Schedule(const std::shared_ptr<State>& state) {
    constexpr Duration kTurnMax = std::chrono::microseconds(60);  // a wake-up, and the work
    const Instant when =
        After(state->turn.loop().Now(), state->random.Between(Duration(0), kTurnMax));
    state->turn.AddAt(when, internal::MakeSimWork([state] {
                        if (state->queue.empty()) return;
                        RunOne(*state);
                        if (!state->queue.empty()) Schedule(state);
                      }));
  }
  std::shared_ptr<State> state_;  // shared with the event that is queued
  bool stopped_ = false;
};

class SimThreads final : public Threads {
 public:
  SimThreads(SimTurn& turn, SimRandom& random) : turn_(turn), random_(random) {}
  std::unique_ptr<Worker> MakeWorker(WorkerUrgency) override {
    return std::make_unique<SimWorker>(turn_, random_);
  }

 private:
  SimTurn& turn_;
  SimRandom& random_;
};

class SimNetworkView final : public Network {
 public:
  SimNetworkView(SimNet& net, SimProcess& process, HostIdentity host)
      : net_(net), process_(process), host_(std::move(host)) {}

  Result<std::unique_ptr<Listener>> Listen(const Executor&, const Endpoint& at) override {
    return net_.Listen(process_, at);
  }
  Result<std::unique_ptr<Listener>> ListenLocal(const Executor&, const std::string& name) override {
    return net_.ListenLocal(process_, name);
  }
  Task<Result<std::unique_ptr<Stream>>> Connect(Executor, Endpoint to, Instant deadline) override {
    return net_.Connect(process_, to, {}, deadline);
  }
  Task<Result<std::unique_ptr<Stream>>> ConnectLocal(Executor, std::string name,
                                                     Instant deadline) override {
    return net_.Connect(process_, {}, std::move(name), deadline);
  }
  Task<Result<std::vector<IpAddress>>> Resolve(Executor, std::string host, Instant) override {
    if (const Result<IpAddress> literal = ParseIpAddress(host))
      co_return std::vector<IpAddress>{*literal};
    const SimHost* const found = net_.FindHost(host);
    if (found == nullptr)
      co_return Fail(ErrorId::kBadAddress, fmt::format("the name \"{}\" cannot be resolved", host));
    co_return found->addresses();
  }
  std::vector<IpAddress> LocalAddresses() override {
    std::vector<IpAddress> addresses = process_.host().addresses();
    addresses.push_back(IpAddress::LoopbackV4());
    return addresses;
  }
  Result<IpAddress> SourceAddressTo(const IpAddress&, const std::string&) override {
    return process_.host().addresses().front();
  }
  const HostIdentity& host() const override { return host_; }

 private:
  SimNet& net_;
  SimProcess& process_;
  HostIdentity host_;
};

}  // namespace

struct SimProcess::Parts {
  Parts(SimProcess& process, SimWorld& sim, HostIdentity identity, std::uint64_t seed)
      : random(seed),
        clock(process, sim.loop()),
        network(sim.net(), process, std::move(identity)),
        files(process.host().disk()),
        threads(process.turn(), random),
        world{clock, random, network, files, threads, process.executor_, process.executor_} {}
  SimRandom random;
  SimClock clock;
  SimNetworkView network;
  SimFiles files;
  SimThreads threads;
  World world;
};

SimProcess::SimProcess(SimWorld& sim, SimHost& host, HostIdentity identity, std::uint64_t seed)
    : host_(host), turn_(sim.loop_), executor_(SimExecutor(turn_)) {
  SimRandom random(StreamSeed(seed, "clock", 0));
  clock_offset_ = random.Between(Duration(0), Duration(std::chrono::hours(1000)));
  clock_drift_ppm_ = static_cast<std::int64_t>(random.Below(2 * sim.clock_drift_ppm_max + 1)) -
                     static_cast<std::int64_t>(sim.clock_drift_ppm_max);
  parts_ = std::make_unique<Parts>(*this, sim, std::move(identity), seed);
}

constexpr std::int64_t kMillion = 1'000'000;

Instant SimProcess::ToLocal(Instant when) const noexcept {
  if (when == kNever) return when;
  const std::int64_t elapsed = when.time_since_epoch().count();
  return Instant(Duration(elapsed + elapsed / kMillion * clock_drift_ppm_ +
                          elapsed % kMillion * clock_drift_ppm_ / kMillion) +
                 clock_offset_);
}

Instant SimProcess::FromLocal(Instant when) const noexcept {
  if (when == kNever) return when;
  const std::int64_t shown = (when - clock_offset_).time_since_epoch().count();
  const std::int64_t rate = kMillion + clock_drift_ppm_;
  Instant found(Duration(shown / rate * kMillion + shown % rate * kMillion / rate));
  while (ToLocal(found) < when) found += Duration(1);
  while (ToLocal(found - Duration(1)) >= when) found -= Duration(1);
  return found;
}

SimProcess::~SimProcess() = default;

World& SimProcess::world() noexcept { return parts_->world; }

SimProcess::Left SimProcess::left() const noexcept {
  return {turn_.outstanding(), streams_, listeners_, timers_};
}

SimWorld::SimWorld(std::uint64_t seed) : seed_(seed), random_(seed), net_(loop_) {}

SimWorld::~SimWorld() { loop_.Clear(); }

SimHost& SimWorld::AddHost() {
  const auto number = static_cast<std::uint32_t>(++hosts_);
  return net_.AddHost(fmt::format("host-{}", number), {IpAddress::V4(0x0A000000 + number)},
                      StreamSeed(seed_, "host", number));
}

SimProcess& SimWorld::Start(SimHost& host) {
  net_.SetSilent(host, false);
  HostIdentity identity;
  identity.boot_id = host.boot_id();
  identity.host_name = host.name();
  identity.process = static_cast<std::int64_t>(1000 + processes_.size());
  identity.process_namespace = "pid:[1]";
  const std::uint64_t seed = StreamSeed(host.seed(), "process", ++host.processes_);
  processes_.push_back(
      std::unique_ptr<SimProcess>(new SimProcess(*this, host, std::move(identity), seed)));
  return *processes_.back();
}

void SimWorld::RunUntil(Instant until) {
  while (loop_.Step(until)) {
  }
}

bool SimWorld::RunUntil(const std::function<bool()>& done, Instant limit) {
  while (!done()) {
    if (!loop_.Step(limit)) return false;
  }
  return true;
}

bool SimWorld::Run(SimProcess& process, Task<void> task, Instant limit) {
  const auto ended = std::make_shared<bool>(false);
  Spawn(process.executor_, [](Task<void> body, std::shared_ptr<bool> end) -> Task<void> {
    co_await std::move(body);
    *end = true;
  }(std::move(task), ended));
  return RunUntil([ended] { return *ended; }, limit);
}

void SimWorld::Crash(SimProcess& process, CrashKind kind) {
  if (process.dead_) return;
  if (kind == CrashKind::kPowerLost) {
    net_.SetSilent(process.host_, true);
    process.host_.disk().LosePower();
  }
  for (const auto& each : processes_) {
    const bool falls =
        each.get() == &process || (kind == CrashKind::kPowerLost && &each->host_ == &process.host_);
    if (!falls || each->dead_) continue;
    each->dead_ = true;
    each->turn_.Freeze();
    net_.Abandon(*each, kind == CrashKind::kPowerLost);
  }
}

void SimWorld::Exhume(SimProcess& process) {
  MC_ASSERT(process.dead_);
  process.turn_.Thaw();
}

void SimWorld::Stall(SimProcess& process, Duration duration) {
  if (process.dead_ || process.turn_.is_frozen()) return;
  process.turn_.Freeze();
  loop_.At(After(Now(), duration), [&process] {
    if (!process.dead_) process.turn_.Thaw();
  });
}

}  // namespace mooncake
