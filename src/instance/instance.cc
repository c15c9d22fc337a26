#include "instance/instance.h"

#include <fmt/format.h>

#include <future>

#include "base/log.h"
#include "base/units.h"
#include "directory/memory/directory_server.h"
#include "instance/http_api.h"
#include "instance/status.h"
#include "model/model_shape.h"

namespace mooncake {
namespace {

struct ListenPlan {
  std::string label;
  Endpoint at;
  bool chosen_address = false;  // a person wrote it: listen nowhere else
};

// Where to listen and how to be called, from local_hostname, host and port.
Task<Result<ListenPlan>> PlanListening(World& world, const Options& options) {
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
    plan.chosen_address = !plan.at.address.is_unspecified();
  }
  co_return plan;
}

// Every address at which others may reach this process: the one that was written, or all of the
// host's. Loopback only where there is nothing else.
std::vector<Endpoint> PublishedEndpoints(World& world, const ListenPlan& plan,
                                         const Endpoint& bound) {
  if (plan.chosen_address) return {bound};
  std::vector<Endpoint> endpoints;
  for (const IpAddress& address : world.network.LocalAddresses()) {
    if (!address.is_loopback() && !address.is_link_local())
      endpoints.push_back({address, bound.port});
  }
  if (endpoints.empty()) endpoints.push_back({IpAddress::LoopbackV4(), bound.port});
  return endpoints;
}

Role ParseRole(const std::string& text) {
  if (text == "prefill") return Role::kPrefill;
  return text == "decode" ? Role::kDecode : Role::kBoth;
}

std::vector<std::string> SplitList(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    if (const std::string_view part = text.substr(0, comma); !part.empty())
      parts.emplace_back(part);
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  return parts;
}

// Runs `task` on the control loop; the caller is a thread of its own.
template <class T>
T Await(World& world, Task<T> task) {
  std::promise<T> done;
  Spawn(world.control, [](Task<T> work, std::promise<T>& end) -> Task<void> {
    T value = co_await std::move(work);
    end.set_value(std::move(value));
  }(std::move(task), done));
  return done.get_future().get();
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
  bool drained = false;

  Status StartServices(const Options& options, const TransportFactory& add_transports,
                       const ListenPlan& plan, std::shared_ptr<Listener> listener);
  void AddRoutes(const std::string& model_name);
};

Instance::Instance(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Endpoint Instance::endpoint() const { return parts_->bound; }
bool Instance::encrypted() const { return parts_->credentials.tls != nullptr; }
std::string Instance::label() const { return parts_->engine->identity().label; }

void Instance::Parts::AddRoutes(const std::string& model_name) {
  const auto status = [this] {
    return StatusJson(
        {*core, *directory, *coordinator, prefill.get(), decode.get(), copy, bound, started});
  };
  port->router.Add(Method::kStatus, [status](RpcCall&, Frame) -> Task<Result<Reply>> {
    co_return Reply{status(), {}};
  });
  port->on_http = MakeHttpApi({*core, *coordinator, *partners, model_name, status});
}

Status Instance::Parts::StartServices(const Options& options,
                                      const TransportFactory& add_transports,
                                      const ListenPlan& plan, std::shared_ptr<Listener> listener) {
  MC_TRY(const ModelShape model, FindModel(options.Text("model")));
  MC_TRY(const ScaledShape shape, Scale(model, options.Number("scale"),
                                        static_cast<std::uint32_t>(options.Count("page_tokens"))));
  const Role role = ParseRole(options.Text("role"));
  bound = listener->bound();
  const auto incarnation =
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     world.clock.WallNow().time_since_epoch())
                                     .count());
  Identity identity{world.random.DrawInstanceId(), incarnation,
                    plan.label.empty() ? std::string(ToString(role)) : plan.label,
                    world.network.host(), MOONCAKE_VERSION};
  port = std::make_shared<PortServer>(world, metrics, PortServerOptions{});
  EngineOptions engine_options;
  engine_options.cluster = options.Text("cluster");
  engine_options.transports = SplitList(options.Text("transports"));
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

  Record record;
  record.identity = engine->identity();
  record.cluster = engine_options.cluster;
  record.endpoints = PublishedEndpoints(world, plan, bound);
  record.attributes = {{"role", std::string(ToString(role))}, {"model", core->model_id}};
  record.registered = world.clock.WallNow();
  const Duration wait = options.Duration("directory_wait");
  const Instant deadline = wait == Duration::zero() ? kNever : After(world.clock.Now(), wait);
  const auto start = [](Parts& p, std::shared_ptr<Listener> l, Record r, std::string name,
                        Role my_role, Instant limit) -> Task<Status> {
    p.engine->Start();
    if (CanPrefill(my_role)) p.prefill->AddTo(p.port->router);
    if (p.decode) {
      p.decode->AddTo(p.port->router);
      p.decode->SetRecord(r);
    }
    p.carried->AddTo(p.port->router);
    p.AddRoutes(name);
    p.port->Serve(std::move(l));
    auto publish = p.directory->Publish(std::move(r), limit);
    co_return co_await std::move(publish);
  };
  return Await(world,
               start(*this, std::move(listener), std::move(record), model.name, role, deadline));
}

Result<std::unique_ptr<Instance>> Instance::Open(World& world, const Options& options,
                                                 const CopyEngine& copy,
                                                 const TransportFactory& add_transports) {
  auto parts = std::make_unique<Parts>(world, copy);
  parts->started = world.clock.Now();
  MC_TRY(parts->credentials, LoadCredentials(world.files, options));
  MC_TRY(const DirectoryAccess access,
         ReadDirectoryAccess(world.files, options, parts->credentials));
  MC_TRY(parts->directory,
         OpenDirectory(world, options.Text("metadata_server"), options.Text("cluster"), access));
  const Result<ListenPlan> plan = Await(world, PlanListening(world, options));
  if (!plan) return Fail(plan.error());
  Result<std::unique_ptr<Listener>> listener = world.network.Listen(world.control, plan->at);
  if (!listener && plan->at.address == IpAddress::AnyV6() &&
      listener.error().os_error == EAFNOSUPPORT) {
    listener = world.network.Listen(world.control,
                                    {IpAddress::V4(0), plan->at.port});  // a host without IPv6
  }
  if (!listener) return Fail(listener.error());
  std::unique_ptr<Instance> instance(new Instance(std::move(parts)));
  MC_TRY_STATUS(
      instance->parts_->StartServices(options, add_transports, *plan, std::move(*listener)));
  if (options.Text("protocol") == "rdma") {
    MC_LOG(info,
           "protocol rdma: this build has no RDMA transport; shm, ring, cma or tcp serves, "
           "whichever is fastest");
  }
  return instance;
}

void Instance::Drain(Duration timeout) {
  Parts& p = *parts_;
  if (!p.core || std::exchange(p.drained, true)) return;
  const auto drain = [](Parts& parts, Instant deadline) -> Task<bool> {
    parts.core->draining = true;
    constexpr Duration kLeaveTimeout = std::chrono::seconds(2);
    auto withdraw = parts.directory->Withdraw(
        std::min(deadline, After(parts.world.clock.Now(), kLeaveTimeout)));
    co_await std::move(withdraw);
    const auto busy = [&parts] {
      return parts.coordinator->running() + parts.prefill->queue_length() +
             (parts.decode ? parts.decode->queue_length() : 0);
    };
    constexpr Duration kLook = std::chrono::milliseconds(20);
    while (busy() > 0 && parts.world.clock.Now() < deadline)
      co_await parts.world.clock.SleepFor(parts.world.control, kLook);
    co_return busy() == 0;
  };
  const bool finished = Await(p.world, drain(p, After(p.world.clock.Now(), timeout)));
  if (!finished)
    MC_LOG(warn, "requests were cut off: they did not end within {}", FormatDuration(timeout));
}

Instance::~Instance() {
  Parts& p = *parts_;
  if (!p.port) return;
  Drain(Duration::zero());
  const auto close = [](Parts& parts) -> Task<bool> {
    if (parts.core) parts.core->closing = true;
    parts.port->Close(Error{ErrorId::kClosed, "the instance stops"});
    co_return true;
  };
  Await(p.world, close(p));
  p.engine->Close();
  if (p.core) {
    const auto join = [](TaskGroup& tasks) -> Task<bool> {
      co_await tasks.Empty();
      co_return true;
    };
    Await(p.world, join(p.core->tasks));
  }
  if (p.core) {
    p.core->prefill_compute.Stop();
    p.core->decode_compute.Stop();
  }
}

}  // namespace mooncake
