// An engine with its port, for tests.
#pragma once

#include <gtest/gtest.h>

#include "base/test_loop.h"
#include "base/test_support.h"
#include "directory/p2p/p2p_directory.h"
#include "engine/engine.h"
#include "topology/device_choice.h"
#include "transport/cma/cma_transport.h"
#include "transport/cuda/cuda_transport.h"
#include "transport/fake/fake_transport.h"
#include "transport/rdma/fake_verbs.h"
#include "transport/rdma/rdma_transport.h"
#include "transport/rdma/real_verbs.h"
#include "transport/shm/shm_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {

struct RdmaForTest {
  std::shared_ptr<rdma::Verbs> verbs;
  std::vector<std::string> devices;
  RdmaOptions options;
};

/// The machine's own where it has RDMA devices (tests/rdma/vm), else one within this process.
inline const RdmaForTest& AnyRdma() {
  static const RdmaForTest any = [] {
    Result<std::shared_ptr<rdma::Verbs>> real = rdma::OpenRealVerbs();
    const Result<DeviceChoice> devices = ChooseDevices(ReadTopology().devices, "");
    if (real && devices) return RdmaForTest{*real, devices->used, {}};
    constexpr std::size_t kDevices = 2;
    return RdmaForTest{
        rdma::FakeVerbs::Make({.devices = kDevices}), rdma::FakeVerbs::DeviceNames(kDevices), {}};
  }();
  return any;
}

// An engine with its port, as one process has it.
class Node {
 public:
  /// `transports`: names with a comma between them, or "any". `gpus`: what it has of them.
  Node(World& world, FakeWire& wire, std::string label, const std::string& transports,
       std::uint16_t port = 0, const RdmaForTest& rdma = AnyRdma(),
       std::shared_ptr<DeviceMemory> gpus = DeviceMemory::None())
      : world_(world) {
    const auto wants = [&transports](const std::string& name) {
      return ("," + transports + ",").find("," + name + ",") != std::string::npos;
    };
    std::vector<std::string> names;
    for (const char* const name : {"fake", "shm", "ring", "cma", "tcp", "rdma", "cuda"}) {
      if (wants(name)) names.emplace_back(name);
    }
    directory_ = MakeP2pDirectory(world);
    port_ = std::make_shared<PortServer>(world, metrics_, PortServerOptions{});
    Identity identity{world.random.DrawInstanceId(), 1, std::move(label), world.network.host(),
                      "test"};
    engine_ = std::make_unique<Engine>(world, metrics_, port_, *directory_, identity,
                                       EngineOptions{.transports = names});
    engine_->UseGpus(std::move(gpus));
    auto mapped = MakeShmTransports(world, identity.id, engine_->regions(), CopyEngine::Plain());
    EXPECT_TRUE(Succeeds(mapped));
    for (auto& one : *mapped) engine_->AddTransport(std::move(one));
    engine_->AddTransport(MakeCmaTransport(world, identity.id));
    // Not part of "any": nothing that people run has it.
    if (wants("fake"))
      engine_->AddTransport(MakeFakeTransport(world, wire, identity.id, engine_->regions(), {}));
    if (wants("rdma")) {
      Result<std::unique_ptr<Transport>> made = MakeRdmaTransport(
          world, metrics_, rdma.verbs, rdma.devices, engine_->regions(), engine_->gpus(),
          [this] { return engine_->Introduce(); }, rdma.options);
      if (made) engine_->AddTransport(std::move(*made));
      if (!made) rdma_failure_ = made.error();
    }
    // Unusable where nobody has a GPU.
    if (wants("cuda")) {
      engine_->AddTransport(MakeCudaTransport(world, metrics_, engine_->regions(), engine_->gpus(),
                                              CopyEngine::Plain(),
                                              [this] { return engine_->Introduce(); }));
    }
    engine_->AddTransport(MakeTcpTransport(
        world, metrics_, engine_->regions(), CopyEngine::Plain(),
        [this] { return engine_->Introduce(); }, TcpOptions{}));
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::LoopbackV4(), port});
    EXPECT_TRUE(Succeeds(listener));
    at_ = (*listener)->bound();
    std::shared_ptr<Listener> shared = std::move(*listener);
    RunOn(world, [&]() -> Task<void> {
      engine_->Start();
      port_->Serve(shared);
      co_return;
    });
  }
  ~Node() { Stop(); }
  void Stop() {
    if (!engine_) return;
    Hang();
    engine_ = nullptr;
    port_ = nullptr;  // whose handlers hold what the engine is made of
  }
  // As a crash looks from outside: the port and every connection are gone.
  void Hang() {
    RunOn(world_, [this]() -> Task<void> {
      port_->Close(Error{ErrorId::kClosed, "the node stops"});
      co_return;
    });
  }
  Engine& engine() { return *engine_; }
  Metrics& metrics() { return metrics_; }
  /// Why there is no rdma.
  const std::optional<Error>& rdma_failure() const { return rdma_failure_; }
  std::string address() const { return ToString(at_); }
  std::uint16_t port() const { return at_.port; }

 private:
  World& world_;
  Metrics metrics_;
  std::unique_ptr<Directory> directory_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
  Endpoint at_;
  std::optional<Error> rdma_failure_;
};

}  // namespace mooncake
