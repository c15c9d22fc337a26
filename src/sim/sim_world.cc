#include "sim/sim_world.h"

#include <fmt/format.h>

#include <bit>

namespace mooncake {

SimRandom::SimRandom(std::uint64_t seed) {
  for (std::uint64_t& word : state_) {  // SplitMix64, as its authors advise
    seed += 0x9E3779B97F4A7C15ULL;
    std::uint64_t mixed = seed;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ULL;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBULL;
    word = mixed ^ (mixed >> 31);
  }
}

std::uint64_t SimRandom::Next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

std::uint64_t SimRandom::Skewed(std::uint64_t low, std::uint64_t high) {
  const auto span_bits = static_cast<std::uint64_t>(std::bit_width(high - low));
  const std::uint64_t bits = Between(std::uint64_t{0}, span_bits);
  const std::uint64_t offset = bits >= 64 ? Next() : Below(std::uint64_t{1} << bits);
  return low + std::min(offset, high - low);
}

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
  SimClock(SimProcess& process, SimLoop& loop, Duration wall_offset)
      : process_(process), loop_(loop), wall_offset_(wall_offset) {}
  Instant Now() override { return process_.ToLocal(loop_.Now()); }
  WallTime WallNow() override {
    constexpr std::chrono::sys_days kBegin = std::chrono::year(2026) / 1 / 1;
    return WallTime(kBegin) + std::chrono::duration_cast<WallTime::duration>(
                                  loop_.Now().time_since_epoch() + wall_offset_);
  }
  std::unique_ptr<Timer> MakeTimer(const Executor&) override {
    return std::make_unique<SimTimer>(process_);
  }

 private:
  SimProcess& process_;
  SimLoop& loop_;
  Duration wall_offset_;
};

class SimFiles final : public Files {
 public:
  Result<std::string> Read(const std::string& path, std::uint64_t bytes_max) override {
    const auto found = files_.find(path);
    if (found == files_.end()) return Fail(ErrorId::kFileAccess, "cannot open " + path, ENOENT);
    if (found->second.size() > bytes_max) {
      return Fail(ErrorId::kFileAccess, fmt::format("{} is larger than {} bytes", path, bytes_max));
    }
    return found->second;
  }
  Status Write(const std::string& path, std::string_view content) override {
    files_[path] = content;
    return {};
  }

 private:
  std::map<std::string, std::string> files_;
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
  const HostIdentity& host() const override { return host_; }

 private:
  SimNet& net_;
  SimProcess& process_;
  HostIdentity host_;
};

}  // namespace

struct SimProcess::Parts {
  Parts(SimProcess& process, SimWorld& sim, HostIdentity identity, Duration wall_offset)
      : clock(process, sim.loop(), wall_offset),
        network(sim.net(), process, std::move(identity)),
        threads(process.turn(), sim.random()),
        world{clock, sim.random(), network, files, threads, process.executor_, process.executor_} {}
  SimClock clock;
  SimNetworkView network;
  SimFiles files;
  SimThreads threads;
  World world;
};

SimProcess::SimProcess(SimWorld& sim, SimHost& host, HostIdentity identity, Duration clock_offset)
    : sim_(sim),
      host_(host),
      turn_(sim.loop_),
      executor_(SimExecutor(turn_)),
      clock_offset_(clock_offset) {
  parts_ = std::make_unique<Parts>(*this, sim, std::move(identity), clock_offset / 1000);
}

SimProcess::~SimProcess() = default;

World& SimProcess::world() noexcept { return parts_->world; }

SimProcess::Left SimProcess::left() const noexcept {
  return {turn_.outstanding(), streams_, listeners_, timers_};
}

SimWorld::SimWorld(std::uint64_t seed) : random_(seed), net_(loop_, random_) {}

SimWorld::~SimWorld() { loop_.Clear(); }

SimHost& SimWorld::AddHost() {
  const auto number = static_cast<std::uint32_t>(++hosts_);
  return net_.AddHost(fmt::format("host-{}", number), fmt::format("boot-{:016x}", random_.Next()),
                      {IpAddress::V4(0x0A000000 + number)});
}

SimProcess& SimWorld::Start(SimHost& host) {
  net_.SetSilent(host, false);
  HostIdentity identity;
  identity.boot_id = host.boot_id();
  identity.host_name = host.name();
  identity.process = static_cast<std::int64_t>(1000 + processes_.size());
  identity.process_namespace = "pid:[1]";
  const Duration offset = random_.Between(Duration(0), Duration(std::chrono::hours(1000)));
  processes_.push_back(
      std::unique_ptr<SimProcess>(new SimProcess(*this, host, std::move(identity), offset)));
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
  if (kind == CrashKind::kPowerLost) net_.SetSilent(process.host_, true);
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
