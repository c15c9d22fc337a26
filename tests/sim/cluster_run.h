// One run of the simulation, as far as it does not depend on what the nodes are: hosts, links, the
// process that carries the directory, faults, time, and what the checker of histories is told.
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>

#include "directory/memory/directory_server.h"
#include "history_checker.h"
#include "outcome.h"
#include "plan.h"
#include "sim/sim_world.h"
#include "wire/port_server.h"

namespace mooncake {

// The process that carries the directory.
struct DirectoryHost {
  SimProcess* process = nullptr;
  Metrics metrics;
  std::shared_ptr<PortServer> port;
  std::shared_ptr<DirectoryServer> server;
};

class ClusterRun {
 public:
  virtual ~ClusterRun() = default;
  ClusterRun(const ClusterRun&) = delete;
  ClusterRun& operator=(const ClusterRun&) = delete;
  SimOutcome Run();
  [[nodiscard]] bool taken_down() const noexcept { return taken_down_; }

 protected:
  static constexpr std::uint16_t kDirectoryPort = 7700;
  static constexpr std::uint16_t kFirstPort = 5000;

  ClusterRun(Plan plan, bool keep_history);

  // ---- what the nodes are ----
  virtual void StartNode(std::size_t node) = 0;
  virtual void Act(const Action& action) = 0;
  virtual void StallNode(std::size_t node, Duration lasts) = 0;
  virtual void CrashNode(std::size_t node, CrashKind kind, Duration lasts) = 0;
  virtual void StopNode(std::size_t node, Duration lasts) = 0;
  [[nodiscard]] virtual SimProcess& ProcessOf(std::size_t node) = 0;
  /// The faults are over: everything must work again, and what was begun must end.
  virtual void Heal() = 0;
  virtual void TakeDown() = 0;
  /// After each event of `turn`'s process; null: of none.
  virtual void AfterStep(const SimTurn* turn) = 0;

  /// Of a warning that was logged.
  [[nodiscard]] virtual bool IsExpected(const std::string&) const { return false; }

  // ---- the cluster ----
  void Build();
  void StartDirectory();
  void CloseDirectories();
  void ForgetDirectories();  ///< After that, when nothing is served any more.
  bool Await(const std::function<bool()>& done, Instant limit);
  [[nodiscard]] std::vector<SimHost*> AllHosts() const;
  void RestartLater(std::size_t node, Duration after);

  // ---- what happens ----
  void ScheduleActions();
  void ScheduleFaults();
  void Commit(const Fault& fault);
  void Block(SimHost& from, SimHost& to, int by);
  void Hold(const std::vector<std::pair<SimHost*, SimHost*>>& ways, Duration lasts);
  void Partition(Duration lasts, SimRandom& random);
  void PartitionPair(Duration lasts, SimRandom& random);
  void StepWall(SimRandom& random);
  void CrashDirectory(CrashKind kind, Duration lasts);
  void LookForCrashPoint(const SimTurn* turn);

  // ---- what is told ----
  void Tell(history::Event event);
  void Found(Rule rule, std::string text);
  void CheckLeft(const SimProcess& process, const std::string& name);
  template <class... Arguments>
  void Record(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    Note(fmt::format(format, std::forward<Arguments>(arguments)...));
  }

  const Plan plan_;
  const Shape& shape_;
  SimWorld sim_;
  SimOutcome outcome_;
  HistoryChecker checker_;
  std::vector<SimHost*> node_hosts_;
  SimHost* directory_host_ = nullptr;
  std::shared_ptr<DirectoryHost> directory_;  // the one that is meant to run
  std::vector<std::shared_ptr<DirectoryHost>> all_directories_;
  std::size_t pending_repairs_ = 0;
  bool taken_down_ = false;
  Instant begin_{};

 private:
  void Note(const std::string& text);
  void Digest(std::string_view text);

  const bool keep_history_;
  std::size_t violations_told_ = 0;
  std::map<std::pair<SimHost*, SimHost*>, int> blocked_;  // how often, by way
  std::size_t actions_left_ = 0;
  std::size_t faults_left_ = 0;
  std::uint64_t victim_events_ = 0;
  bool may_crash_ = true;
  std::uint64_t digest_ = 0xCBF29CE484222325ULL;
};

}  // namespace mooncake
