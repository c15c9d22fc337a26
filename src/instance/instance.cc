#include "instance/instance.h"

#include <fmt/format.h>

#include "base/await.h"
#include "base/log.h"
#include "base/units.h"
#include "directory/memory/directory_server.h"
#include "instance/http_api.h"
#include "instance/status.h"
#include "model/model_shape.h"

namespace mooncake {
namespace {

Role ParseRole(const std::string& text) {
  if (text == "prefill") return Role::kPrefill;
  return text == "decode" ? Role::kDecode : Role::kBoth;
}

}  // namespace

struct Instance::Parts {
  explicit Parts(World& w, const CopyEngine& c) : world(w), copy(c) {}
  World& world;
  CopyEngine copy;
  Metrics metrics;
  Credentials credentials;
  std::unique_ptr<Directory> directory;
  std::shared_ptr<PortServer> port;
  std::shared_ptr<DirectoryServer> carried;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<InstanceCore> core;
  std::unique_ptr<Partners> partners;
  std::unique_ptr<PrefillService> prefill;
  std::unique_ptr<DecodeService> decode;
  std::unique_ptr<Coordinator> coordinator;
  Endpoint bound;
  Instant started;
  std::shared_ptr<Listener> listener;  // until Begin()
  Record record;
  std::string model_name;
  Instant directory_deadline = kNever;
  bool drained = false;
  bool closed = false;

  Status Build(const Options& options, const TransportFactory& add_transports,
               const ListenPlan& plan);
  Task<Status> Begin();
  void AddRoutes();
  [[nodiscard]] std::size_t busy() const {
    return coordinator->running() + prefill->queue_length() + (decode ? decode->queue_length() : 0);
  }
};

struct Instance::ListenPlan {
  std::string label;
  Endpoint at;
};

// Where to listen and how to be called, from local_hostname, host and port.
Task<Result<Instance::ListenPlan>> Instance::PlanListening(World& world, const Options& options) {
  ListenPlan plan;
  plan.at.address = IpAddress::AnyV6();
  std::string host;
  if (const std::string& name = options.Text("local_hostname"); !name.empty()) {
    plan.label = name;
    if (const Result<HostPort> parts = ParseHostPort(name)) {
      plan.at.port = parts->port;
      // A bare word is a label; an address, or a name with a port, says where to listen.
      if (parts->port != 0 || ParseIpAddress(parts->host)) host = parts->host;
    } else {
      co_return Fail(Within("local_hostname", parts.error()));
    }
  }
  if (options.IsSet("host")) host = options.Text("host");
  if (options.IsSet("port")) {
    const std::uint64_t port = options.Count("port");
    if (port > UINT16_MAX)
      co_return Fail(ErrorId::kBadOptionValue,
                     fmt::format("port = {}: it must be at most 65535", port));
    plan.at.port = static_cast<std::uint16_t>(port);
  }
  if (!host.empty()) {
    constexpr Duration kResolveTimeout = std::chrono::seconds(5);
    auto resolve =
        world.network.Resolve(world.control, host, After(world.clock.Now(), kResolveTimeout));
    const Result<std::vector<IpAddress>> addresses = co_await std::move(resolve);
    if (!addresses) co_return Fail(addresses.error());
    plan.at.address = addresses->front();
  }
  co_return plan;
}

Instance::Instance(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Endpoint Instance::endpoint() const { return parts_->bound; }
bool Instance::encrypted() const { return parts_->credentials.tls != nullptr; }
std::string Instance::label() const { return parts_->engine->identity().label; }

void Instance::Parts::AddRoutes() {
  const auto status = [this] {
    return StatusJson(
        {*core, *directory, *coordinator, prefill.get(), decode.get(), copy, bound, started});
  };
  port->router.Add(Method::kStatus, [status](RpcCall&, Frame) -> Task<Result<Reply>> {
    co_return Reply{status(), {}};
  });
  port->on_http = MakeHttpApi({*core, *coordinator, *partners, model_name, status});
}

Status Instance::Parts::Build(const Options& options, const TransportFactory& add_transports,
                              const ListenPlan& plan) {
  MC_TRY(const ModelShape model, FindModel(options.Text("model")));
  MC_TRY(const ScaledShape shape, Scale(model, options.Number("scale"),
                                        static_cast<std::uint32_t>(options.Count("page_tokens"))));
  const Role role = ParseRole(options.Text("role"));
  bound = listener->bound();
  Identity identity =
      DrawIdentity(world, plan.label.empty() ? std::string(ToString(role)) : plan.label);
  port = std::make_shared<PortServer>(world, metrics, PortServerOptions{});
  EngineOptions engine_options;
  engine_options.cluster = options.Text("cluster");
  engine_options.transports = options.List("transports");
  engine_options.credentials = credentials;
  engine = std::make_unique<Engine>(world, metrics, port, *directory, std::move(identity),
                                    engine_options);
  add_transports(world, metrics, *engine, copy);

  MC_TRY(KvMemory memory, KvMemory::Allocate(*engine, shape, options.SizeBytes("kv_memory")));
  InstanceLimits limits;
  limits.queue_max = std::max<std::uint64_t>(1, options.Count("queue_max"));
  limits.running_max = std::max<std::uint64_t>(1, options.Count("running_max"));
  limits.request_timeout = options.Duration("request_timeout");
  limits.prefill_tokens_per_second = options.Number("prefill_tokens_per_second");
  limits.decode_tokens_per_second = options.Number("decode_tokens_per_second");
  core = std::make_unique<InstanceCore>(
      world, metrics, *engine, role, limits, SyntheticModel(shape),
      fmt::format("{}/{}/{}", shape.name, shape.row_bytes, shape.page_tokens), std::move(memory));
  partners = std::make_unique<Partners>(*core, *directory);
  prefill = std::make_unique<PrefillService>(*core);
  if (CanDecode(role)) decode = std::make_unique<DecodeService>(*core, *partners, *prefill);
  coordinator = std::make_unique<Coordinator>(*core, *partners, decode.get());
  carried = std::make_shared<DirectoryServer>(world);

  record.identity = engine->identity();
  record.cluster = engine_options.cluster;
  record.endpoints = ReachableAt(world.network, bound);
  record.attributes = {{"role", std::string(ToString(role))}, {"model", core->model_id}};
  record.registered = world.clock.WallNow();
  const Duration wait = options.Duration("directory_wait");
  directory_deadline = wait == Duration::zero() ? kNever : After(world.clock.Now(), wait);
  model_name = model.name;
  return {};
}

// Serves, and publishes itself.
Task<Status> Instance::Parts::Begin() {
  engine->Start();
  if (CanPrefill(core->role)) prefill->AddTo(port->router);
  if (decode) {
    decode->AddTo(port->router);
    decode->SetRecord(record);
  }
  carried->AddTo(port->router);
  AddRoutes();
  port->Serve(std::move(listener));
  auto publish = directory->Publish(record, directory_deadline);
  co_return co_await std::move(publish);
}

// What an instance is built around: its directory and its port.
Result<std::unique_ptr<Instance>> Instance::Prepare(World& world, const Options& options,
                                                    const ListenPlan& plan,
                                                    const CopyEngine& copy) {
  auto parts = std::make_unique<Parts>(world, copy);
  parts->started = world.clock.Now();
  MC_TRY(parts->credentials, LoadCredentials(world.files, options));
  MC_TRY(const DirectoryAccess access,
         ReadDirectoryAccess(world.files, options, parts->credentials));
  MC_TRY(parts->directory,
         OpenDirectory(world, options.Text("metadata_server"), options.Text("cluster"), access));
  MC_TRY(parts->listener, world.network.Listen(world.control, plan.at));
  return std::unique_ptr<Instance>(new Instance(std::move(parts)));
}

Result<std::unique_ptr<Instance>> Instance::Open(World& world, const Options& options,
                                                 const CopyEngine& copy,
                                                 const TransportFactory& add_transports) {
  const Result<ListenPlan> plan = Await(world.control, PlanListening(world, options));
  if (!plan) return Fail(plan.error());
  MC_TRY(std::unique_ptr<Instance> instance, Prepare(world, options, *plan, copy));
  MC_TRY_STATUS(instance->parts_->Build(options, add_transports, *plan));
  MC_TRY_STATUS(Await(world.control, instance->parts_->Begin()));
  return instance;
}

Task<Result<std::unique_ptr<Instance>>> Instance::OpenAsync(
    World& world, const Options& options, const CopyEngine& copy,
    const TransportFactory& add_transports) {
  auto planning = PlanListening(world, options);
  const Result<ListenPlan> plan = co_await std::move(planning);
  if (!plan) co_return Fail(plan.error());
  MC_CO_TRY(std::unique_ptr<Instance> instance, Prepare(world, options, *plan, copy));
  Status begun = instance->parts_->Build(options, add_transports, *plan);
  if (begun) {
    auto begin = instance->parts_->Begin();
    begun = co_await std::move(begin);
  }
  if (begun) co_return instance;
  auto close = instance->CloseAsync();
  co_await std::move(close);
  co_return Fail(begun.error());
}

Task<void> Instance::DrainAsync(Duration timeout) {
  Parts& p = *parts_;
  if (!p.core || std::exchange(p.drained, true)) co_return;
  const Instant deadline = After(p.world.clock.Now(), timeout);
  p.core->draining = true;
  constexpr Duration kLeaveTimeout = std::chrono::seconds(2);
  auto withdraw =
      p.directory->Withdraw(std::min(deadline, After(p.world.clock.Now(), kLeaveTimeout)));
  co_await std::move(withdraw);
  constexpr Duration kLook = std::chrono::milliseconds(20);
  while (p.busy() > 0 && p.world.clock.Now() < deadline)
    co_await p.world.clock.SleepFor(p.world.control, kLook);
  if (p.busy() > 0)
    MC_LOG(warn, "requests were cut off: they did not end within {}", FormatDuration(timeout));
}

void Instance::Drain(Duration timeout) { Await(parts_->world.control, DrainAsync(timeout)); }

Task<void> Instance::CloseAsync() {
  Parts& p = *parts_;
  if (std::exchange(p.closed, true)) co_return;
  auto drain = DrainAsync(Duration::zero());
  co_await std::move(drain);
  if (p.core) p.core->closing = true;
  if (p.port) p.port->Close(Error{ErrorId::kClosed, "the instance stops"});
  if (p.engine) {
    auto close = p.engine->CloseAsync();
    co_await std::move(close);
  }
  if (!p.core) co_return;
  co_await p.core->tasks.Empty();
  p.core->prefill_compute.Stop();
  p.core->decode_compute.Stop();
}

Instance::~Instance() {
  Parts& p = *parts_;
  if (p.closed) return;
  Await(p.world.control, CloseAsync());
}

}  // namespace mooncake
