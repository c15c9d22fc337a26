// The simulated network: hosts, links between them, and connections that behave as TCP does under
// loss, delay, back-pressure, partitions, cuts and the death of either end.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/world.h"
#include "sim/sim_loop.h"

namespace mooncake {

class SimProcess;

/// One direction between two hosts.
struct SimLink {
  Duration latency = std::chrono::microseconds(50);
  Duration jitter{0};  ///< Added to each segment, uniform in [0, jitter].
  double bytes_per_second = 1e9;
  double loss = 0;    ///< Share of the segments that are sent again, after a time-out that doubles.
  bool down = false;  ///< Nothing arrives; what is under way is sent again until it does.
};

/// How connections behave, drawn small and odd by whoever simulates.
struct SimStreamOptions {
  std::size_t segment_bytes_max = 64 << 10;
  std::size_t send_buffer_bytes = 256 << 10;
  std::size_t receive_buffer_bytes = 256 << 10;
  double odd_reads = 0;  ///< Share of the reads that return a part of what is there.
  double pauses = 0;     ///< Share of the reads and writes that return later than they could.
  std::size_t backlog_max = 128;
};

/// One machine: a kernel, addresses, ports.
class SimHost {
 public:
  SimHost(std::string name, std::string boot_id, std::vector<IpAddress> addresses)
      : name_(std::move(name)), boot_id_(std::move(boot_id)), addresses_(std::move(addresses)) {}
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& boot_id() const noexcept { return boot_id_; }
  [[nodiscard]] const std::vector<IpAddress>& addresses() const noexcept { return addresses_; }

 private:
  friend class SimNet;
  friend class SimListener;
  struct Bound;
  std::string name_;
  std::string boot_id_;
  std::vector<IpAddress> addresses_;
  bool silent_ = false;  // without power: answers nothing
  std::uint16_t next_port_ = 30000;
  std::vector<std::weak_ptr<Bound>> bound_;
};

enum class CutKind : std::uint8_t {
  kBothNotice,     ///< Both ends are reset.
  kOneNotices,     ///< One end is reset; to the other it looks like silence.
  kNobodyNotices,  ///< Bytes vanish both ways, for ever.
};

/// All hosts and what is between them. The loop's thread only.
class SimNet {
 public:
  SimNet(SimLoop& loop, Random& random) : loop_(loop), random_(random) {}
  ~SimNet();

  SimHost& AddHost(std::string name, std::string boot_id, std::vector<IpAddress> addresses);
  SimLink& Link(const SimHost& from, const SimHost& to);
  SimStreamOptions stream_options;

  // ---- what processes see ----
  Result<std::unique_ptr<Listener>> Listen(SimProcess& process, const Endpoint& at);
  Result<std::unique_ptr<Listener>> ListenLocal(SimProcess& process, const std::string& name);
  Task<Result<std::unique_ptr<Stream>>> Connect(SimProcess& process, Endpoint to,
                                                std::string local_name, Instant deadline);
  [[nodiscard]] SimHost* FindHost(const SimProcess& from, const IpAddress& address);
  [[nodiscard]] SimHost* FindHost(const std::string& name);

  // ---- faults ----
  /// Cuts one of the connections between two processes, drawn. False: there is none.
  bool CutOne(CutKind kind);
  /// The process's sockets go: its kernel closes them, or (silently) nobody does.
  void Abandon(SimProcess& process, bool silently);
  /// A host without power answers nothing, until it is switched on again; then it resets what it
  /// does not know.
  void SetSilent(SimHost& host, bool silent) { host.silent_ = silent; }

 private:
  struct Connection;
  struct Pipe;
  struct Dial;
  struct End;
  friend class SimStream;
  friend class SimListener;

  void Try(const std::shared_ptr<Dial>& dial);
  void Pump(const std::shared_ptr<Connection>& connection, int from);
  void ScheduleDelivery(const std::shared_ptr<Connection>& connection, int from);
  void Deliver(const std::shared_ptr<Connection>& connection, int from);
  void Acknowledge(const std::shared_ptr<Connection>& connection, int from, std::size_t bytes,
                   Duration retry);
  void KeepAlive(const std::weak_ptr<Connection>& connection, int end);
  void CloseEnd(const std::shared_ptr<Connection>& connection, int end);
  void SendReset(const std::shared_ptr<Connection>& connection, int from);
  void Reset(Connection& connection, int end);
  Duration Transit(SimLink& link, std::size_t bytes, Instant& link_free);
  bool Chance(double share);

  SimLoop& loop_;
  Random& random_;
  std::vector<std::unique_ptr<SimHost>> hosts_;
  std::map<std::pair<const SimHost*, const SimHost*>, SimLink> links_;  // looked up, never iterated
  std::vector<std::weak_ptr<Connection>> connections_;                  // in order of their making
  std::uint64_t cuts_ = 0;
};

}  // namespace mooncake
