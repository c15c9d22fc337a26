#include "instance_run.h"

#include <boost/json.hpp>

#include "instance/options.h"
#include "model/model_shape.h"
#include "transport/tcp/tcp_transport.h"
#include "watched_transport.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

constexpr Duration kAnswerMax = 100s;  // after the last fault, until every instance answers again
constexpr Duration kWayMax = 4s;       // of a request to its instance and back, on a calm network
constexpr history::Process kClient = 1'000'000;  // in the history

ScaledShape ShapeOf(const InstanceShape& instances) {
  const Result<ModelShape> model = FindModel("tiny");
  MC_ASSERT(model);
  const Result<ScaledShape> shape =
      Scale(*model, instances.scale, static_cast<std::uint32_t>(instances.page_tokens));
  MC_ASSERT(shape);
  return *shape;
}

}  // namespace

InstanceRun::InstanceRun(Plan plan, bool keep_history)
    : ClusterRun(std::move(plan), keep_history),
      reference_(SyntheticModel(ShapeOf(plan_.instances))) {
  current_.resize(shape_.nodes);
  wire_ = std::make_unique<FakeWire>(
      [this](const InstanceId& from, const InstanceId& to) { return Reaches(from, to); });
  SimRandom random(StreamSeed(plan_.seed, "openings", 0));
  constexpr std::size_t kOpenings = 3;
  for (std::size_t i = 0; i < kOpenings; ++i) {
    std::vector<Token> opening(random.Between(std::uint64_t{1}, std::uint64_t{60}));
    for (Token& token : opening)
      token = static_cast<Token>(random.Below(reference_.model().shape().vocabulary));
    openings_.push_back(std::move(opening));
  }
}

// ---- instances
// ------------------------------------------------------------------------------------
HttpUrl InstanceRun::UrlOf(std::size_t node) const {
  return {ToString(node_hosts_[node]->addresses().front()),
          static_cast<std::uint16_t>(kFirstPort + node), "/", false};
}

Options InstanceRun::OptionsOf(std::size_t node) const {
  const InstanceShape& instances = plan_.instances;
  const ScaledShape shape = ShapeOf(instances);
  Options::Sources sources;
  const auto set = [&sources](std::string name, std::string value) {
    sources.flags.emplace_back(std::move(name), std::move(value));
  };
  set("role", instances.roles[node]);
  set("local_hostname", fmt::format("node-{}", node));
  set("port", std::to_string(kFirstPort + node));
  if (!shape_.own_directory)
    set("metadata_server",
        fmt::format("mooncake://{}:{}", ToString(directory_host_->addresses().front()),
                    kDirectoryPort));
  set("directory_wait", "60s");
  set("model", "tiny");
  set("scale", fmt::format("{}", instances.scale));
  set("page_tokens", std::to_string(instances.page_tokens));
  set("kv_memory", std::to_string(instances.kv_pages * shape.page_bytes() * shape.layers));
  set("queue_max", std::to_string(instances.queue_max));
  set("running_max", std::to_string(instances.running_max));
  set("request_timeout", fmt::format("{}ms", instances.request_timeout / 1ms));
  set("prefill_tokens_per_second", std::to_string(instances.prefill_tokens_per_second));
  set("decode_tokens_per_second", std::to_string(instances.decode_tokens_per_second));
  Result<Options> options = Options::Load(InstanceOptions(), sources);
  MC_ASSERT(options);
  return *options;
}

void InstanceRun::AddTransports(ServingNode& node, World& world, Metrics& metrics, Engine& engine,
                                const CopyEngine& copy) {
  node.id = engine.identity().id;
  by_id_[node.id] = &node;
  const TransferWatch watch{[this, &node](const InstanceId& to, const Transfer& transfer) {
                              return BeginTransfer(node, to, transfer);
                            },
                            [this, &node](std::uint64_t number) { EndTransfer(node, number); }};
  if (shape_.fake) {
    engine.AddTransport(Watch(
        MakeFakeTransport(world, *wire_, node.id, engine.regions(), shape_.fake_options), watch));
  }
  if (shape_.tcp) {
    engine.AddTransport(Watch(MakeTcpTransport(
                                  world, metrics, engine.regions(), copy,
                                  [&engine] { return engine.Introduce(); }, shape_.tcp_options),
                              watch));
  }
}

void InstanceRun::StartNode(std::size_t node) {
  if (client_ == nullptr) {
    client_host_ = &sim_.AddHost();
    client_ = &sim_.Start(*client_host_);
    for (SimHost* host : AllHosts()) {
      sim_.net().Link(*client_host_, *host) = shape_.link;
      sim_.net().Link(*host, *client_host_) = shape_.link;
    }
  }
  SimProcess& process = sim_.Start(*node_hosts_[node]);
  nodes_.push_back(std::make_unique<ServingNode>(nodes_.size(), node, process, OptionsOf(node)));
  ServingNode& serving = *nodes_.back();
  current_[node] = &serving;
  serving.add_transports = [this, &serving](World& world, Metrics& metrics, Engine& engine,
                                            const CopyEngine& copy) {
    AddTransports(serving, world, metrics, engine, copy);
  };
  Record("node {} starts: {}", node, plan_.instances.roles[node]);
  Spawn(process.world().control, Live(serving));
}

Task<void> InstanceRun::Live(ServingNode& node) {
  auto open =
      Instance::OpenAsync(node.process.world(), node.options, node.copy, node.add_transports);
  Result<std::unique_ptr<Instance>> instance = co_await std::move(open);
  if (!instance) {
    if (node.state == ServingNode::State::kStarting)
      Found(Rule::kNotHealed,
            fmt::format("node {} cannot start: {}", node.node, instance.error().Text()));
    node.ended = true;
    co_return;
  }
  node.instance = std::move(*instance);
  if (node.state == ServingNode::State::kStarting) {
    node.state = ServingNode::State::kLive;
    Record("node {} serves as {}", node.node, ShortId(node.id));
  }
  while (!node.stop_wanted) co_await node.wake.Wait();
  auto drain = node.instance->DrainAsync(node.drain);
  co_await std::move(drain);
  auto close = node.instance->CloseAsync();
  co_await std::move(close);
  node.ended = true;
  if (node.state != ServingNode::State::kClosing) co_return;
  node.state = ServingNode::State::kClosed;
  Tell(history::Gone{node.number});
  Record("node {} has stopped", node.node);
}

bool InstanceRun::Reaches(const InstanceId& from, const InstanceId& to) {
  const ServingNode& a = *by_id_.at(from);
  const ServingNode& b = *by_id_.at(to);
  return !a.process.is_dead() && !b.process.is_dead() &&
         !sim_.net().Link(a.process.host(), b.process.host()).down;
}

// ---- pages
// ---------------------------------------------------------------------------------------- Whoever
// writes into a peer's pages has them to itself meanwhile: two requests that were given the same
// page show here even if their bytes happen to arrive in a harmless order.
std::uint64_t InstanceRun::BeginTransfer(ServingNode& from, const InstanceId& to,
                                         const Transfer& transfer) {
  const std::uint64_t number = transfers_++;
  if (transfer.direction != Direction::kWrite || from.process.is_dead()) return number;
  const std::string owner = fmt::format("transfer {} of node {}", number, from.node);
  from.transfers.insert(number);
  for (const Slice& slice : transfer.slices) {
    if (slice.length_bytes == 0) continue;
    std::string space =
        fmt::format("{} region {}", ShortId(to), static_cast<std::uint64_t>(slice.region));
    held_[number].push_back({space, owner, slice.offset});
    Tell(history::Took{std::move(space), owner, slice.offset, slice.offset + slice.length_bytes});
  }
  return number;
}

void InstanceRun::EndTransfer(ServingNode& from, std::uint64_t number) {
  if (from.transfers.erase(number) > 0) GiveBack(number);
}

void InstanceRun::GiveBack(std::uint64_t number) {
  for (history::Gave& gave : std::exchange(held_[number], {})) Tell(std::move(gave));
  held_.erase(number);
}

// ---- requests
// -------------------------------------------------------------------------------------
CompletionAsk InstanceRun::DrawAsk(SimRandom& random) const {
  CompletionAsk ask;
  const std::vector<Token>& opening = openings_[random.Below(openings_.size())];
  const std::uint64_t shared = random.Between(std::uint64_t{0}, std::uint64_t{opening.size()});
  ask.prompt.assign(opening.begin(), opening.begin() + static_cast<std::ptrdiff_t>(shared));
  const std::uint64_t more = random.Skewed(shared == 0 ? 1 : 0, 40);
  for (std::uint64_t i = 0; i < more; ++i)
    ask.prompt.push_back(static_cast<Token>(random.Below(reference_.model().shape().vocabulary)));
  ask.tokens_max = static_cast<std::uint32_t>(random.Skewed(1, 60));
  ask.stream = random.Chance(0.5);
  ask.timeout = random.Chance(0.3) ? random.Skewed(Duration(20ms), Duration(1s))
                                   : random.Between(Duration(1s), Duration(15s));
  return ask;
}

void InstanceRun::Act(const Action& action) {
  SimRandom random(action.seed);
  const std::size_t node = random.Below(shape_.nodes_drawn);
  CompletionAsk ask = DrawAsk(random);
  std::optional<Duration> gives_up;
  if (random.Chance(0.1)) gives_up = random.Skewed(Duration(10us), Duration(1s));
  if (node >= shape_.nodes) return;
  Spawn(client_->world().control,
        [](InstanceRun& me, std::size_t to, CompletionAsk what,
           std::optional<Duration> patience) -> Task<void> {
          auto request = me.Request(to, std::move(what), patience);
          static_cast<void>(co_await std::move(request));
        }(*this, node, std::move(ask), gives_up));
}

Task<bool> InstanceRun::Request(std::size_t node, CompletionAsk ask,
                                std::optional<Duration> gives_up) {
  World& world = client_->world();
  const std::uint64_t number = requests_++;
  const Instant deadline = After(world.clock.Now(), ask.timeout + kWayMax);
  const Instant due = After(sim_.Now(), std::min(ask.timeout, plan_.instances.request_timeout));
  const std::vector<Token> expected = reference_.Generate(ask.prompt, ask.tokens_max);
  Record("request {} to node {}: {} tokens, {} more, within {} ms{}{}", number, node,
         ask.prompt.size(), ask.tokens_max, ask.timeout.count() / 1'000'000,
         ask.stream ? ", streamed" : "", gives_up ? ", impatient" : "");
  outcome_.batches += 1;
  Tell(history::Began{.operation = number,
                      .name = fmt::format("request {}", number),
                      .kind = history::Kind::kRequest,
                      .from = kClient,
                      .to = current_[node]->number,
                      .deadline = client_->FromLocal(deadline),
                      .due = due});
  const auto client = std::make_shared<HttpClient>(world, world.control, UrlOf(node));
  const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
  if (gives_up) {
    timer->At(After(world.clock.Now(), *gives_up), [this, client, number] {
      Record("request {} is given up", number);
      Tell(history::Cancelled{number});
      client->Close();
    });
  }
  auto complete = Complete(client, std::move(ask), deadline);
  const CompletionSeen seen = co_await std::move(complete);
  timer->Cancel();
  Record("request {} ends: {}", number,
         seen.error ? ErrorName(seen.error->id) : std::string("done"));
  // Even an answer that ends with an error consists of right tokens.
  const std::size_t common = std::min(seen.tokens.size(), expected.size());
  std::string wrong;
  if (!std::equal(seen.tokens.begin(), seen.tokens.begin() + static_cast<std::ptrdiff_t>(common),
                  expected.begin()) ||
      seen.tokens.size() > expected.size()) {
    wrong = "its tokens are not those of one undivided computation";
  } else if (!seen.error && seen.tokens.size() != expected.size()) {
    wrong = fmt::format("it has {} of {} tokens", seen.tokens.size(), expected.size());
  }
  if (seen.error && !wrong.empty())
    Found(Rule::kWrongBytes, fmt::format("request {} failed half-way, and {}", number, wrong));
  const bool calm = plan_.faults.empty() && !plan_.crash_point && shape_.link.loss == 0;
  if (calm && seen.error && !seen.from_instance && !gives_up)
    Found(Rule::kNeverEnded, fmt::format("request {} got no answer on a calm network: {}", number,
                                         seen.error->Text()));
  if (calm && sim_.Now() > After(due, kWayMax / 4 + 50 * shape_.link.latency)) {
    Found(Rule::kLate, fmt::format("request {} was answered {} ms after its time", number,
                                   (sim_.Now() - due).count() / 1'000'000));
  }
  Tell(history::Ended{number, seen.error, wrong});
  if (!seen.error) outcome_.succeeded += 1;
  co_return !seen.error && wrong.empty();
}

// ---- faults
// ---------------------------------------------------------------------------------------
void InstanceRun::StallNode(std::size_t node, Duration lasts) {
  ServingNode& serving = *current_[node];
  if (serving.process.is_dead()) return;
  Record("fault: node {} stalls", node);
  Tell(history::Disturbed{After(sim_.Now(), lasts)});
  sim_.Stall(serving.process, lasts);
}

void InstanceRun::CrashNode(std::size_t node, CrashKind kind, Duration lasts) {
  ServingNode& first = *current_[node];
  if (first.state == ServingNode::State::kDead || first.state == ServingNode::State::kClosed)
    return;
  Record("fault: node {} crashes{}", node, kind == CrashKind::kPowerLost ? ", power lost" : "");
  sim_.Crash(first.process, kind);
  for (const auto& serving : nodes_) {
    if (!serving->process.is_dead() || serving->state == ServingNode::State::kDead ||
        serving->state == ServingNode::State::kClosed)
      continue;
    if (serving->state == ServingNode::State::kClosing) pending_repairs_ -= 1;
    serving->state = ServingNode::State::kDead;
    Tell(history::Gone{serving->number});
    if (!serving->id.empty()) wire_->Leave(serving->id);
    for (const std::uint64_t transfer : std::exchange(serving->transfers, {})) GiveBack(transfer);
    RestartLater(serving->node, lasts);
  }
}

void InstanceRun::StopNode(std::size_t node, Duration lasts) {
  ServingNode& serving = *current_[node];
  if (serving.state != ServingNode::State::kLive) return;
  Record("fault: node {} stops in order", node);
  serving.state = ServingNode::State::kClosing;
  serving.drain = lasts;
  serving.stop_wanted = true;
  serving.wake.Notify();
  Tell(history::Ending{serving.number});
  pending_repairs_ += 1;
  Spawn(client_->world().control,
        [](InstanceRun& me, ServingNode& stopping, Duration pause) -> Task<void> {
          World& world = me.client_->world();
          constexpr Duration kLook = 10ms;
          while (stopping.state == ServingNode::State::kClosing)
            co_await world.clock.SleepFor(world.control, kLook);
          if (stopping.state == ServingNode::State::kDead)
            co_return;  // it crashed meanwhile, and has had its successor
          me.pending_repairs_ -= 1;
          me.RestartLater(stopping.node, pause);
        }(*this, serving, lasts));
}

bool InstanceRun::IsExpected(const std::string& warning) const {
  return warning.find("requests were cut off") != std::string::npos;
}

// ---- the end
// --------------------------------------------------------------------------------------
void InstanceRun::Heal() {
  if (!Await([this] { return pending_repairs_ == 0; }, After(sim_.Now(), 200s)))
    Found(Rule::kNotHealed, "a node did not stop");
  for (SimHost* a : AllHosts()) {
    for (SimHost* b : AllHosts()) sim_.net().Link(*a, *b).loss = 0;
    sim_.net().Link(*a, *client_host_).loss = sim_.net().Link(*client_host_, *a).loss = 0;
  }
  Record("the faults end");
  std::size_t left = shape_.nodes;
  for (std::size_t node = 0; node < shape_.nodes; ++node) {
    Spawn(client_->world().control,
          [](InstanceRun& me, std::size_t to, std::size_t& count) -> Task<void> {
            auto prove = me.Prove(to);
            co_await std::move(prove);
            count -= 1;
          }(*this, node, left));
  }
  if (!Await([&left] { return left == 0; }, After(sim_.Now(), 2 * kAnswerMax)))
    Found(Rule::kNotHealed, "the proofs do not end");
  static_cast<void>(Await([this] { return checker_.open() == 0; }, After(sim_.Now(), kAnswerMax)));
}

// An instance has healed when it answers, and when nothing of any request is left there.
Task<void> InstanceRun::Prove(std::size_t node) {
  World& world = client_->world();
  SimRandom random(StreamSeed(plan_.seed, "proof", node));
  const Instant limit = After(world.clock.Now(), kAnswerMax);
  constexpr Duration kPause = 200ms;
  bool answered = false;
  while (!answered && world.clock.Now() < limit) {
    CompletionAsk ask = DrawAsk(random);
    ask.timeout = 5s;
    ask.prompt.resize(std::min<std::size_t>(ask.prompt.size(), 8));
    ask.tokens_max = std::min<std::uint32_t>(ask.tokens_max, 4);
    auto request = Request(node, std::move(ask), {});
    answered = co_await std::move(request);
    if (!answered) co_await world.clock.SleepFor(world.control, kPause);
  }
  if (!answered)
    Found(Rule::kNotHealed,
          fmt::format("node {} does not answer {} s after the last fault", node, kAnswerMax / 1s));
  std::string why;
  for (bool idle = false; !idle;) {
    auto ask = IsIdle(node, why);
    idle = co_await std::move(ask);
    if (idle) co_return;
    if (world.clock.Now() >= limit)
      co_return Found(Rule::kNotGivenBack, fmt::format("node {}: {}", node, why));
    co_await world.clock.SleepFor(world.control, kPause);
  }
}

Task<bool> InstanceRun::IsIdle(std::size_t node, std::string& why) {
  World& world = client_->world();
  HttpClient client(world, world.control, UrlOf(node));
  auto send = client.Send("GET", "/status", {}, {}, After(world.clock.Now(), 5s));
  const Result<HttpResponse> response = co_await std::move(send);
  if (!response) {
    why = response.error().Text();
    co_return false;
  }
  boost::json::error_code code;
  const boost::json::value status = boost::json::parse(response->body, code);
  if (code) {
    why = "its status is not JSON";
    co_return false;
  }
  why.clear();
  const auto zero = [&](std::string_view part, std::string_view key) {
    const boost::json::value* const holder = status.get_object().if_contains(part);
    if (holder == nullptr) return;
    if (const auto value = holder->at(key).to_number<std::uint64_t>(); value != 0)
      why += fmt::format("{}.{} is {}; ", part, key, value);
  };
  zero("requests", "running");
  zero("kv", "pages_pinned");
  zero("prefill", "queue_length");
  zero("prefill", "queued_tokens");
  zero("decode", "queue_length");
  co_return why.empty();
}

void InstanceRun::TakeDown() {
  for (const auto& serving : nodes_) {
    if (serving->process.is_dead()) sim_.Exhume(serving->process);
    if (serving->state == ServingNode::State::kLive ||
        serving->state == ServingNode::State::kStarting) {
      serving->state = ServingNode::State::kClosing;
      Tell(history::Ending{serving->number});
    }
    serving->stop_wanted = true;
    Post(serving->process.world().control, [&node = *serving] { node.wake.Notify(); });
  }
  CloseDirectories();
  const auto ended = [this] {
    return std::all_of(nodes_.begin(), nodes_.end(), [](const auto& n) { return n->ended; });
  };
  if (!Await(ended, After(sim_.Now(), 100s)))
    return Found(Rule::kNotGivenBack, "a node cannot be taken down");
  taken_down_ = true;
  for (const auto& serving : nodes_) serving->instance = nullptr;
  ForgetDirectories();
  static_cast<void>(Await([] { return false; }, After(sim_.Now(), 10s)));
  for (const auto& serving : nodes_)
    CheckLeft(serving->process, fmt::format("node {} ({})", serving->node, ShortId(serving->id)));
  CheckLeft(*client_, "the client");
}

}  // namespace mooncake
