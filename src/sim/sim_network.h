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
#include "sim/sim_files.h"
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
  Duration lag_max{0};  ///< Each direction of a connection is late by up to this, now more and now
                        ///< less: what is sent over another one later arrives earlier.
};

/// One machine: a kernel, addresses, ports.
class SimHost {
 public:
  SimHost(const SimLoop& loop, std::string name, std::vector<IpAddress> addresses,
          std::uint64_t seed);
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& boot_id() const noexcept { return boot_id_; }
  [[nodiscard]] const std::vector<IpAddress>& addresses() const noexcept { return addresses_; }
  [[nodiscard]] SimDisk& disk() noexcept { return disk_; }
  [[nodiscard]] Duration wall_offset() const noexcept { return wall_offset_; }
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }

 private:
  friend class SimNet;
  friend class SimListener;
  friend class SimWorld;
  struct Bound;
  std::string name_;
  std::string boot_id_;
  std::vector<IpAddress> addresses_;
  const std::uint64_t seed_;
  SimDisk disk_;
  Duration wall_offset_;         // of its wall clock
  std::uint64_t processes_ = 0;  // started so far
  bool silent_ = false;          // without power: answers nothing
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
  explicit SimNet(SimLoop& loop) : loop_(loop) {}
  ~SimNet();

  SimHost& AddHost(std::string name, std::vector<IpAddress> addresses, std::uint64_t seed);
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
  bool CutOne(CutKind kind, Random& random);
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
  Duration Transit(SimLink& link, std::size_t bytes, Connection& connection, Pipe& pipe);

  SimLoop& loop_;
  std::vector<std::unique_ptr<SimHost>> hosts_;
  std::map<std::pair<const SimHost*, const SimHost*>, SimLink> links_;  // looked up, never iterated
  std::vector<std::weak_ptr<Connection>> connections_;                  // in order of their making
};

}  // namespace mooncake
