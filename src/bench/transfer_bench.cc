#include "bench/transfer_bench.h"

#include <cstring>
#include <deque>

#include "base/real_world.h"
#include "bench/bench_peer.h"
#include "bench/limits.h"
#include "bench/perftest.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kCallTimeout = std::chrono::seconds(60);
constexpr Duration kPause =
    std::chrono::milliseconds(1);  // long enough for every spinning thread to sleep
constexpr std::size_t kLatenciesMax = 1 << 20;

// What happened in one stretch of calls.
struct Sample {
  std::uint64_t calls = 0;
  double bytes = 0;
  double seconds = 0;
  double cpu_seconds = 0;
  std::vector<double> latencies_us;

  double Value(BenchMetric metric) {
    switch (metric) {
      case BenchMetric::kThroughput:
        return bytes / seconds / 1e9;
      case BenchMetric::kLatency:
        return QuantileOf(latencies_us, 0.5);
      case BenchMetric::kCpuPerCall:
        return cpu_seconds * 1e6 / static_cast<double>(calls);
      case BenchMetric::kCpuPerByte:
        return cpu_seconds / bytes * 1e9;
    }
    return 0;
  }
};

double Ratio(BenchMetric metric, double ours, double limit) {
  return metric == BenchMetric::kThroughput ? ours / limit : limit / ours;
}

// A row through the engine.
class EngineCall final : public BenchCall {
 public:
  EngineCall(Clock& clock, Engine& engine, PeerPtr peer, const BenchRow& row, Direction direction,
             MutableBytes local, RegionId region)
      : engine_(engine),
        peer_(std::move(peer)),
        direction_(direction),
        ranges_(row.ranges),
        in_flight_(row.in_flight),
        deadline_(After(clock.Now(), kCallTimeout)),
        visited_(BenchLayout(row, local.size()).positions(), 0) {
    const BenchLayout layout(row, local.size());
    copies_.reserve(layout.positions() * ranges_);
    for (std::size_t position = 0; position < layout.positions(); ++position) {
      for (std::uint32_t i = 0; i < ranges_; ++i) {
        const BenchLayout::Range range = layout.At(position, i);
        copies_.push_back({local.data() + range.local, region, range.remote, row.range_bytes});
      }
    }
  }
  // After a failure others may be on their way, into memory that ends with the benchmark.
  ~EngineCall() override {
    for (const std::shared_ptr<Batch>& batch : under_way_) static_cast<void>(batch->Wait());
  }
  EngineCall(const EngineCall&) = delete;
  EngineCall& operator=(const EngineCall&) = delete;

  Status Run(std::size_t position) override {
    visited_[position] = 1;
    const auto copies = std::span<const Copy>(copies_).subspan(position * ranges_, ranges_);
    const BatchOptions options{.deadline = deadline_};
    if (in_flight_ == 1) return engine_.Run(peer_, direction_, copies, options);
    if (under_way_.size() == in_flight_) {
      MC_TRY_STATUS(AwaitOldest());
    }
    under_way_.push_back(
        engine_.Submit(peer_, direction_, {copies.begin(), copies.end()}, options));
    return {};
  }
  Status Finish() override {
    while (!under_way_.empty()) {
      MC_TRY_STATUS(AwaitOldest());
    }
    return {};
  }
  void ForgetVisits() noexcept { std::fill(visited_.begin(), visited_.end(), 0); }
  void Extend(Instant deadline) noexcept { deadline_ = deadline; }
  [[nodiscard]] std::size_t positions() const noexcept { return visited_.size(); }
  [[nodiscard]] bool visited(std::size_t position) const noexcept {
    return visited_[position] != 0;
  }

 private:
  Status AwaitOldest() {
    const std::shared_ptr<Batch> oldest = std::move(under_way_.front());
    under_way_.pop_front();
    return oldest->Wait();
  }

  Engine& engine_;
  PeerPtr peer_;
  Direction direction_;
  std::uint32_t ranges_;
  std::uint32_t in_flight_;  // more than 1: one thread calls
  std::deque<std::shared_ptr<Batch>> under_way_;
  Instant deadline_;
  std::vector<Copy> copies_;
  std::vector<std::uint8_t> visited_;
};

// One initiator for each transport, which has no other.
struct Initiator {
  BenchTransport transport;
  std::unique_ptr<BenchNode> node;
  PeerPtr peer;
};

class TransferBench {
 public:
  TransferBench(World& world, const TransferBenchOptions& options)
      : world_(world), options_(options) {}

  Status Open(const TransportFactory& add_transports, const CopyEngine& copy);
  Result<std::vector<BenchEntry>> Run();

 private:
  Result<pb::BenchReply> Ask(BenchAction action, BenchAreaKind area);
  Result<double> CpuSeconds();
  Status Connect(Initiator& initiator);
  Result<BenchEntry> Measure(Initiator& initiator, BenchRow row, Direction direction);
  Result<std::unique_ptr<BenchCall>> PrepareLimit(BenchLimit limit, const BenchRow& row,
                                                  Direction direction);
  Result<Sample> Stretch(BenchCall& call, const BenchRow& row, std::uint32_t threads,
                         std::size_t positions, Duration duration);
  Result<Sample> Loop(BenchCall& call, const BenchRow& row, std::size_t first, std::size_t step,
                      std::size_t positions, Duration duration);
  Status Restore(Direction direction, BenchAreaKind area);
  Status Verify(const EngineCall& call, const BenchRow& row, Direction direction,
                BenchAreaKind area, BenchEntry& entry);
  void OpenPerftest(bool same_host);
  Result<BenchEntry> MeasureIdle();
  void Sleep(Duration duration);

  World& world_;
  const TransferBenchOptions& options_;
  std::vector<Initiator> initiators_;
  pb::BenchReply there_;
  std::optional<BenchArea> source_;   // the pattern; writes come from here
  std::optional<BenchArea> landing_;  // reads go here
  std::optional<BenchArea> scratch_;  // what a target should hold
  std::optional<MappingLimit> mapping_;
  std::optional<TcpLimit> tcp_;
  std::optional<PerftestLimit> perftest_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::size_t> next_;  // by thread: the position of its next call
};

void TransferBench::Sleep(Duration duration) {
  Await(world_.control, world_.clock.SleepFor(world_.control, duration));
}

Result<pb::BenchReply> TransferBench::Ask(BenchAction action, BenchAreaKind area) {
  pb::BenchRequest request;
  request.set_action(static_cast<std::uint32_t>(action));
  request.set_area(static_cast<std::uint32_t>(area));
  const Instant deadline = After(world_.clock.Now(), kCallTimeout);
  auto call = initiators_.front().peer->Call(Method::kBench, request.SerializeAsString(), deadline);
  MC_TRY(const Reply reply, Await(world_.control, std::move(call)));
  pb::BenchReply answer;
  if (!Parse(reply.body, answer)) return Fail(ErrorId::kBadFrame, "BenchReply");
  return answer;
}

Result<double> TransferBench::CpuSeconds() {
  MC_TRY(const pb::BenchReply reply, Ask(BenchAction::kTell, BenchAreaKind::kUser));
  return std::chrono::duration<double>(ProcessCpuTime()).count() +
         static_cast<double>(reply.cpu_ns()) / 1e9;
}

Status TransferBench::Connect(Initiator& initiator) {
  Engine& engine = initiator.node->engine();
  MC_TRY(initiator.peer, engine.ConnectNow(options_.peer, After(world_.clock.Now(), kCallTimeout)));
  return {};
}

Status TransferBench::Open(const TransportFactory& add_transports, const CopyEngine& copy) {
  std::vector<std::string> skipped;
  for (const BenchTransport transport : options_.transports) {
    const std::string name(ToString(transport));
    Initiator initiator{
        transport,
        std::make_unique<BenchNode>(world_, "bench", std::vector{name}, add_transports, copy),
        nullptr};
    MC_TRY_STATUS(Connect(initiator));
    const std::vector<PathRow> paths = initiator.node->engine().Paths();
    if (!paths.empty() && paths[0].usable) {
      initiators_.push_back(std::move(initiator));
    } else {
      std::string why = paths.empty() ? "it is not in use on this machine" : paths[0].reason;
      if (paths.empty() && transport == BenchTransport::kRdma && !options_.why_no_rdma.empty())
        why = options_.why_no_rdma;
      skipped.push_back(fmt::format("{}: {}", name, why));
      if (options_.on_skipped) options_.on_skipped(skipped.back());
    }
  }
  if (initiators_.empty()) {
    return Fail(ErrorId::kNoPath,
                fmt::format("to the peer at {}: {}", options_.peer, fmt::join(skipped, "; ")));
  }
  MC_TRY(there_, Ask(BenchAction::kTell, BenchAreaKind::kUser));
  source_.emplace(there_.area_bytes());
  landing_.emplace(there_.area_bytes());
  scratch_.emplace(there_.area_bytes());
  FillWithPattern(source_->bytes());
  const HostIdentity& peer_host = initiators_.front().peer->identity().host;
  const bool same_host = IsSameHost(peer_host, world_.network.host());
  MC_TRY(mapping_, MappingLimit::Open(same_host ? peer_host.process : -1, there_.area_bytes()));
  const bool has_rdma = std::any_of(initiators_.begin(), initiators_.end(), [](const auto& one) {
    return one.transport == BenchTransport::kRdma;
  });
  if (has_rdma && !options_.verbs_device.empty()) OpenPerftest(same_host);
  MC_TRY(const HostPort host, ParseHostPort(options_.peer));
  MC_TRY(const IpAddress address, ParseIpAddress(host.host));
  MC_TRY(tcp_, TcpLimit::Open({address, static_cast<std::uint16_t>(there_.limit_port())}));
  for (Initiator& initiator : initiators_) {
    for (const MutableBytes area : {source_->bytes(), landing_->bytes()}) {
      MC_TRY([[maybe_unused]] const RegionInfo region,
             initiator.node->engine().Register(area.data(), area.size()));
    }
  }
  return {};
}

// Without it RDMA is measured all the same.
void TransferBench::OpenPerftest(bool same_host) {
  Result<PerftestLimit> limit = Fail(ErrorId::kNotFound, "the peer is on another host");
  if (same_host) limit = PerftestLimit::Open(world_, options_.verbs_device);
  if (limit) {
    const Result<PerftestFigure> tried =
        limit->Measure(BenchMetric::kLatency, Direction::kWrite, 8);
    if (!tried) limit = Fail(tried.error());
  }
  if (limit) {
    perftest_ = std::move(*limit);
  } else if (options_.on_skipped) {
    options_.on_skipped(fmt::format("the limit of rdma, by perftest: {}", limit.error().Brief()));
  }
}

Result<std::unique_ptr<BenchCall>> TransferBench::PrepareLimit(BenchLimit limit,
                                                               const BenchRow& row,
                                                               Direction direction) {
  const MutableBytes local = direction == Direction::kWrite ? source_->bytes() : landing_->bytes();
  switch (limit) {
    case BenchLimit::kNone:
    case BenchLimit::kVerbs:
    case BenchLimit::kOneThread:
      return std::unique_ptr<BenchCall>();
    case BenchLimit::kMapping:
      return mapping_->Prepare(world_.clock, row, direction, local);
    case BenchLimit::kProcessVm:
      return PrepareProcessVm(row, direction, local,
                              initiators_.front().peer->identity().host.process,
                              there_.user_base());
    case BenchLimit::kStream:
      return tcp_->PrepareStream(row, direction, local);
    case BenchLimit::kSpinning:
    case BenchLimit::kSleeping:
      return tcp_->PreparePingPong(row, direction, limit == BenchLimit::kSpinning);
  }
  return std::unique_ptr<BenchCall>();
}

// Calls one after the other until the time has passed, at least one.
Result<Sample> TransferBench::Loop(BenchCall& call, const BenchRow& row, std::size_t first,
                                   std::size_t step, std::size_t positions, Duration duration) {
  Sample sample;
  sample.latencies_us.reserve(4096);
  std::size_t position = next_[first] < positions ? next_[first] : first;
  const Instant begin = world_.clock.Now();
  const Instant end = After(begin, duration);
  Instant before = begin;
  do {
    if (row.paced) {
      Sleep(kPause);
      before = world_.clock.Now();
    }
    MC_TRY_STATUS(call.Run(position));
    const Instant now = world_.clock.Now();
    if (sample.latencies_us.size() < kLatenciesMax) {
      sample.latencies_us.push_back(
          std::chrono::duration<double, std::micro>(now - before).count());
    }
    before = now;
    sample.calls += call.calls_per_run();
    position += step;
    if (position >= positions) position = first;
  } while (before < end);
  MC_TRY_STATUS(call.Finish());
  before = world_.clock.Now();
  next_[first] = position;
  sample.seconds = std::chrono::duration<double>(before - begin).count();
  sample.bytes = static_cast<double>(sample.calls) * static_cast<double>(row.bytes());
  return sample;
}

Result<Sample> TransferBench::Stretch(BenchCall& call, const BenchRow& row, std::uint32_t threads,
                                      std::size_t positions, Duration duration) {
  MC_ASSERT(threads <= positions);  // each begins at its own
  while (next_.size() < threads) next_.push_back(next_.size());
  while (workers_.size() + 1 < threads) workers_.push_back(world_.threads.MakeWorker());
  MC_TRY(const double cpu_before, CpuSeconds());
  const Instant begin = world_.clock.Now();
  std::vector<std::future<Result<Sample>>> others;
  for (std::uint32_t thread = 1; thread < threads; ++thread) {
    const auto task = std::make_shared<std::packaged_task<Result<Sample>()>>(
        [this, &call, &row, thread, threads, positions, duration] {
          return Loop(call, row, thread, threads, positions, duration);
        });
    others.push_back(task->get_future());
    workers_[thread - 1]->Add([task] { (*task)(); });
  }
  Result<Sample> all = Loop(call, row, 0, threads, positions, duration);
  for (std::future<Result<Sample>>& other : others) {
    Result<Sample> some = other.get();
    if (!some) all = Fail(some.error());
    if (!all) continue;
    all->calls += some->calls;
    all->bytes += some->bytes;
    all->latencies_us.insert(all->latencies_us.end(), some->latencies_us.begin(),
                             some->latencies_us.end());
  }
  call.Rest();
  if (!all) return all;
  if (threads > 1) all->seconds = std::chrono::duration<double>(world_.clock.Now() - begin).count();
  MC_TRY(const double cpu_after, CpuSeconds());
  all->cpu_seconds = cpu_after - cpu_before;
  return all;
}

// Both ends as they are before the first call: the source holds the pattern, the target nothing.
Status TransferBench::Restore(Direction direction, BenchAreaKind area) {
  const bool writes = direction == Direction::kWrite;
  if (!writes) std::memset(landing_->bytes().data(), 0, landing_->bytes().size());
  MC_TRY([[maybe_unused]] const pb::BenchReply done,
         Ask(writes ? BenchAction::kClear : BenchAction::kFill, area));
  return {};
}

Status TransferBench::Verify(const EngineCall& call, const BenchRow& row, Direction direction,
                             BenchAreaKind area, BenchEntry& entry) {
  const bool writes = direction == Direction::kWrite;
  const MutableBytes expected = scratch_->bytes();
  std::memset(expected.data(), 0, expected.size());
  const BenchLayout layout(row, expected.size());
  for (std::size_t position = 0; position < call.positions(); ++position) {
    if (!call.visited(position)) continue;
    for (std::uint32_t i = 0; i < row.ranges; ++i) {
      const BenchLayout::Range range = layout.At(position, i);
      const std::uint64_t from = writes ? range.local : range.remote;
      const std::uint64_t to = writes ? range.remote : range.local;
      std::memcpy(expected.data() + to, source_->bytes().data() + from, row.range_bytes);
    }
  }
  std::uint64_t found = Digest(landing_->bytes());
  if (writes) {
    MC_TRY(const pb::BenchReply reply, Ask(BenchAction::kDigest, area));
    found = reply.digest();
  }
  entry.checksum = fmt::format("{:016x}", found);
  entry.verified = found == Digest(expected);
  return {};
}

Result<BenchEntry> TransferBench::Measure(Initiator& initiator, BenchRow row, Direction direction) {
  const BenchAreaKind area =
      initiator.transport == BenchTransport::kShm ? BenchAreaKind::kMapped : BenchAreaKind::kUser;
  const bool writes = direction == Direction::kWrite;
  const RegionId region{area == BenchAreaKind::kMapped ? there_.mapped_region()
                                                       : there_.user_region()};
  BenchGoal goal = row.goal(initiator.transport);
  if (goal.limit == BenchLimit::kVerbs && !perftest_) goal = {};
  if (goal.limit == BenchLimit::kVerbs) row = AsPerftest(row);
  EngineCall ours(world_.clock, initiator.node->engine(), initiator.peer, row, direction,
                  writes ? source_->bytes() : landing_->bytes(), region);
  MC_TRY(const std::unique_ptr<BenchCall> bare, PrepareLimit(goal.limit, row, direction));
  next_.clear();
  MC_TRY_STATUS(ours.Run(0));  // maps, makes the ring
  MC_TRY_STATUS(ours.Finish());

  const int phases = goal.limit == BenchLimit::kNone ? 1 : 2;
  const Duration stretch = options_.duration / (options_.rounds * phases);
  Sample all;
  std::vector<double> values;
  std::vector<double> gbps;
  std::vector<double> limits;
  std::vector<double> ratios;
  for (int round = 0; round < options_.rounds; ++round) {
    Duration duration = stretch;
    if (goal.limit == BenchLimit::kVerbs) {
      MC_TRY(const PerftestFigure limit,
             perftest_->Measure(row.metric, direction, row.range_bytes));
      limits.push_back(limit.value);
      duration = std::max(stretch, limit.took);  // what disturbs the machine disturbs both alike
    } else if (goal.limit != BenchLimit::kNone) {
      MC_TRY(Sample limit, Stretch(bare ? *bare : ours, row, 1, ours.positions(), stretch));
      limits.push_back(limit.Value(row.metric));
    }
    if (round + 1 == options_.rounds) {
      // The limit writes where we do. What is verified is what these last calls do.
      MC_TRY_STATUS(Restore(direction, area));
      ours.ForgetVisits();
    }
    ours.Extend(After(world_.clock.Now(), kCallTimeout));
    MC_TRY(Sample sample, Stretch(ours, row, row.threads, ours.positions(), duration));
    values.push_back(sample.Value(row.metric));
    gbps.push_back(sample.Value(BenchMetric::kThroughput));
    if (!limits.empty()) ratios.push_back(Ratio(row.metric, values.back(), limits.back()));
    all.calls += sample.calls;
    all.bytes += sample.bytes;
    all.cpu_seconds += sample.cpu_seconds;
    all.latencies_us.insert(all.latencies_us.end(), sample.latencies_us.begin(),
                            sample.latencies_us.end());
  }

  BenchEntry entry;
  entry.name = row.name;
  entry.transport = ToString(initiator.transport);
  entry.operation = writes ? "write" : "read";
  entry.metric = row.metric;
  entry.bytes = row.bytes();
  entry.ranges = row.ranges;
  entry.threads = row.threads;
  entry.calls = all.calls;
  entry.gbps = QuantileOf(gbps, 0.5);
  entry.p50_us = QuantileOf(all.latencies_us, 0.5);
  entry.p99_us = QuantileOf(all.latencies_us, 0.99);
  entry.p999_us = QuantileOf(all.latencies_us, 0.999);
  entry.cpu_s_per_gb = all.Value(BenchMetric::kCpuPerByte);
  entry.cpu_us_per_call = all.Value(BenchMetric::kCpuPerCall);
  entry.limit_name = ToString(goal.limit);
  if (!ratios.empty()) {
    entry.limit_value = QuantileOf(limits, 0.5);
    entry.of_limit = QuantileOf(ratios, 0.5);
  }
  if (goal.of_limit > 0) entry.goal = goal.of_limit;
  MC_TRY_STATUS(Verify(ours, row, direction, area, entry));
  return entry;
}

// Everything is connected, nobody calls.
Result<BenchEntry> TransferBench::MeasureIdle() {
  MC_TRY(const double before, CpuSeconds());
  Sleep(options_.idle_duration);
  MC_TRY(const double after, CpuSeconds());
  BenchEntry entry;
  entry.name = "idle";
  entry.transport = "all";
  entry.operation = "none";
  entry.metric = BenchMetric::kCpuPerCall;
  entry.calls = 1;
  entry.cpu_us_per_call =
      (after - before) * 1e6 /
      std::chrono::duration<double>(options_.idle_duration).count();  // in a second
  constexpr double kGoalUs = 400;                                     // 0.04 % of a core
  entry.limit_name = "0.04 % of a core";
  entry.limit_value = kGoalUs;
  entry.of_limit = kGoalUs / entry.cpu_us_per_call;
  entry.goal = 1;
  entry.verified = true;
  return entry;
}

Result<std::vector<BenchEntry>> TransferBench::Run() {
  std::vector<BenchEntry> entries;
  const auto add = [this, &entries](BenchEntry entry) {
    if (options_.on_entry) options_.on_entry(entry);
    entries.push_back(std::move(entry));
  };
  for (const BenchRow& whole : options_.rows) {
    const BenchRow row = Shrink(whole, options_.call_bytes_max);
    for (Initiator& initiator : initiators_) {
      for (const Direction direction : {Direction::kWrite, Direction::kRead}) {
        Result<BenchEntry> entry = Measure(initiator, row, direction);
        if (!entry)
          return Fail(Within(fmt::format("{} over {}", row.name, ToString(initiator.transport)),
                             entry.error()));
        add(std::move(*entry));
      }
    }
  }
  MC_TRY(BenchEntry idle, MeasureIdle());
  add(std::move(idle));
  return entries;
}

}  // namespace

Result<std::vector<BenchEntry>> RunTransferBench(World& world,
                                                 const TransportFactory& add_transports,
                                                 const CopyEngine& copy,
                                                 const TransferBenchOptions& options) {
  TransferBench bench(world, options);
  MC_TRY_STATUS(bench.Open(add_transports, copy));
  return bench.Run();
}

}  // namespace mooncake
