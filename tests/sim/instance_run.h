// One run of whole instances: prefill and decode instances as they are in the product, a client
// that sends them requests, and the checks of what it gets.
#pragma once

#include <memory>
#include <set>

#include "cluster_run.h"
#include "completion_client.h"
#include "instance/instance.h"
#include "model/reference.h"
#include "transport/fake/fake_transport.h"

namespace mooncake {

// One process of a node: a node that restarts has several, one after another.
struct ServingNode {
  enum class State { kStarting, kLive, kClosing, kClosed, kDead };
  ServingNode(std::size_t i, std::size_t n, SimProcess& p, Options o)
      : number(i), node(n), process(p), options(std::move(o)) {}
  std::size_t number;  // in the history
  std::size_t node;
  SimProcess& process;
  Options options;
  CopyEngine copy = CopyEngine::Plain();
  TransportFactory add_transports;
  InstanceId id;
  std::unique_ptr<Instance> instance;  // once it is open
  State state = State::kStarting;
  bool stop_wanted = false;
  Duration drain{};  // what it may take to finish its requests
  Signal wake;
  bool ended = false;                 // its life: opened, served, closed
  std::set<std::uint64_t> transfers;  // begun here, not ended
};

class InstanceRun final : public ClusterRun {
 public:
  InstanceRun(Plan plan, bool keep_history);

 private:
  void StartNode(std::size_t node) override;
  void Act(const Action& action) override;
  void StallNode(std::size_t node, Duration lasts) override;
  void CrashNode(std::size_t node, CrashKind kind, Duration lasts) override;
  void StopNode(std::size_t node, Duration lasts) override;
  SimProcess& ProcessOf(std::size_t node) override { return current_[node]->process; }
  void Heal() override;
  void TakeDown() override;
  void AfterStep(const SimTurn*) override {}
  [[nodiscard]] bool IsExpected(const std::string& warning) const override;

  [[nodiscard]] Options OptionsOf(std::size_t node) const;
  [[nodiscard]] HttpUrl UrlOf(std::size_t node) const;
  void AddTransports(ServingNode& node, World& world, Metrics& metrics, Engine& engine,
                     const CopyEngine& copy);
  Task<void> Live(ServingNode& node);
  bool Reaches(const InstanceId& from, const InstanceId& to);

  CompletionAsk DrawAsk(SimRandom& random) const;
  /// Whether the answer was complete and right.
  Task<bool> Request(std::size_t node, CompletionAsk ask, std::optional<Duration> gives_up);
  Task<void> Prove(std::size_t node);
  /// Whether an instance says that nothing of any request is left there.
  Task<bool> IsIdle(std::size_t node, std::string& why);

  std::uint64_t BeginTransfer(ServingNode& from, const InstanceId& to, const Transfer& transfer);
  void EndTransfer(ServingNode& from, std::uint64_t number);
  void GiveBack(std::uint64_t number);

  std::unique_ptr<FakeWire> wire_;
  SimHost* client_host_ = nullptr;
  SimProcess* client_ = nullptr;
  Reference reference_;
  std::vector<std::vector<Token>> openings_;  // that prompts share
  std::vector<std::unique_ptr<ServingNode>> nodes_;
  std::vector<ServingNode*> current_;  // by node
  std::map<InstanceId, ServingNode*> by_id_;
  std::map<std::uint64_t, std::vector<history::Gave>> held_;  // by transfer
  std::uint64_t transfers_ = 0;
  std::uint64_t requests_ = 0;
};

}  // namespace mooncake
