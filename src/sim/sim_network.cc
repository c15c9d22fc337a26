#include "sim/sim_network.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "sim/sim_world.h"

namespace mooncake {
namespace {

constexpr Duration kRetransmitMin = std::chrono::milliseconds(200);
constexpr Duration kRetransmitMax = std::chrono::seconds(10);
constexpr Duration kKeepAliveInterval = std::chrono::seconds(4);
constexpr Duration kSynRetryMin = std::chrono::seconds(1);

// Bytes in the order of their arrival.
class ByteQueue {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size() - begin_; }
  void Append(Bytes more) { bytes_.insert(bytes_.end(), more.begin(), more.end()); }
  std::size_t Take(MutableBytes into) {
    const std::size_t count = std::min(into.size(), size());
    if (count > 0) std::memcpy(into.data(), bytes_.data() + begin_, count);
    begin_ += count;
    if (begin_ == bytes_.size()) {
      bytes_.clear();
      begin_ = 0;
    }
    return count;
  }
  void Clear() {
    bytes_.clear();
    begin_ = 0;
  }

 private:
  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
};

}  // namespace

// A listener as its host knows it.
struct SimHost::Bound {
  SimProcess* process = nullptr;
  Endpoint at;
  std::string local_name;
  std::size_t backlog_max = 0;
  std::deque<std::unique_ptr<Stream>> backlog;
  bool closed = false;
  Signal changed;
};

// One end of a connection: what its process sees of it.
struct SimNet::End {
  SimProcess* process = nullptr;
  SimHost* host = nullptr;
  Endpoint local;
  Endpoint remote;
  bool closed = false;          // by its own process
  bool gone = false;            // its kernel knows nothing of it any more
  std::optional<Error> broken;  // reset by the other side, or timed out
  Instant last_answer{};        // of the other host, to a probe
  Signal readable;
  Signal writable;
};

// One direction of a connection.
struct SimNet::Pipe {
  struct Segment {
    std::vector<std::byte> bytes;
    Instant due;
    bool end = false;  // no more comes after it
    bool reset = false;
  };
  ByteQueue unsent;  // in the sender's kernel
  std::deque<Segment> under_way;
  std::size_t unacknowledged = 0;
  std::size_t under_way_bytes = 0;
  ByteQueue received;  // in the receiver's kernel
  bool end_queued = false;
  bool end_sent = false;
  bool end_received = false;
  bool lost = false;  // nothing that is sent arrives, for ever
  bool scheduled = false;
  Instant link_free{};
  Duration lag{0};
  Duration retry = kRetransmitMin;
};

struct SimNet::Connection {
  explicit Connection(std::uint64_t seed) : random(seed) {}
  SimRandom random;
  std::array<End, 2> ends;
  std::array<Pipe, 2> pipes;  // pipes[i] is fed by ends[i]
};

struct SimNet::Dial {
  explicit Dial(std::uint64_t seed) : random(seed) {}
  SimRandom random;
  SimProcess* process = nullptr;
  Endpoint to;
  std::string local_name;
  Duration retry = kSynRetryMin;
  bool given_up = false;
  OneShot<Result<std::unique_ptr<Stream>>> result;
};

class SimStream final : public Stream {
 public:
  SimStream(SimNet& net, std::shared_ptr<SimNet::Connection> connection, int end)
      : net_(net), connection_(std::move(connection)), end_(end) {
    process().streams_ += 1;
  }
  ~SimStream() override {
    Close();
    process().streams_ -= 1;
  }

  Task<Result<std::size_t>> ReadSome(MutableBytes into) override {
    const std::array<MutableBytes, 1> one = {into};
    auto read = ReadSomeV(one);
    co_return co_await std::move(read);
  }

  Task<Result<std::size_t>> ReadSomeV(std::span<const MutableBytes> into) override {
    const auto connection = connection_;
    SimNet::End& end = connection->ends[end_];
    SimNet::Pipe& pipe = connection->pipes[1 - end_];
    auto pause = MaybePause(end);
    co_await std::move(pause);
    while (!end.closed && pipe.received.size() == 0 && !pipe.end_received && !end.broken)
      co_await end.readable.Wait();
    if (end.closed) co_return Fail(ErrorId::kClosed, Name(end));
    std::size_t wanted = pipe.received.size();
    if (wanted == 0)
      co_return Fail(end.broken.value_or(Error{ErrorId::kConnectionClosed, Name(end)}));
    if (connection->random.Chance(net_.stream_options.odd_reads))
      wanted = 1 + connection->random.Below(wanted);
    std::size_t count = 0;
    for (const MutableBytes part : into) {
      count += pipe.received.Take(part.first(std::min(part.size(), wanted - count)));
    }
    // The receiver's window opens; its host says so.
    const Duration latency = net_.Link(*end.host, *connection->ends[1 - end_].host).latency;
    net_.loop_.At(After(net_.loop_.Now(), latency),
                  [net = &net_, connection, from = 1 - end_] { net->Pump(connection, from); });
    co_return count;
  }

  Task<Status> Write(std::span<const Bytes> buffers) override {
    const auto connection = connection_;
    SimNet::End& end = connection->ends[end_];
    SimNet::Pipe& pipe = connection->pipes[end_];
    const std::size_t room_max = net_.stream_options.send_buffer_bytes;
    for (Bytes left : buffers) {
      while (!left.empty()) {
        if (end.closed) co_return Fail(ErrorId::kClosed, Name(end));
        if (end.broken) co_return Fail(*end.broken);
        const std::size_t used = pipe.unsent.size() + pipe.unacknowledged;
        if (used >= room_max) {
          co_await end.writable.Wait();
          continue;
        }
        const std::size_t count = std::min(left.size(), room_max - used);
        pipe.unsent.Append(left.first(count));
        left = left.subspan(count);
        net_.Pump(connection, end_);
      }
    }
    auto pause = MaybePause(end);
    co_await std::move(pause);
    if (end.closed) co_return Fail(ErrorId::kClosed, Name(end));
    if (end.broken) co_return Fail(*end.broken);
    co_return Status{};
  }

  void Close() noexcept override { net_.CloseEnd(connection_, end_); }

  Status MoveTo(const Executor&) override {
    if (connection_->ends[end_].closed)
      return Fail(ErrorId::kClosed, Name(connection_->ends[end_]));
    return {};
  }
  std::unique_ptr<ThreadStream> TakeForThreads() override { return nullptr; }
  void ExpectMore() noexcept override {}
  Endpoint local() const override { return connection_->ends[end_].local; }
  Endpoint remote() const override { return connection_->ends[end_].remote; }

 private:
  SimProcess& process() const { return *connection_->ends[end_].process; }
  Task<void> MaybePause(const SimNet::End& end) {
    SimRandom& random = connection_->random;
    if (!random.Chance(net_.stream_options.pauses)) co_return;
    constexpr std::uint64_t kPauseMax = 20'000;
    World& world = end.process->world();
    co_await world.clock.SleepFor(world.control,
                                  Duration(static_cast<std::int64_t>(random.Below(kPauseMax))));
  }
  static std::string Name(const SimNet::End& end) {
    return fmt::format("connection {} to {}", ToString(end.local), ToString(end.remote));
  }

  SimNet& net_;
  std::shared_ptr<SimNet::Connection>
      connection_;  // shared with the other end, and with what is under way
  int end_;
};

class SimListener final : public Listener {
 public:
  explicit SimListener(std::shared_ptr<SimHost::Bound> bound) : bound_(std::move(bound)) {
    bound_->process->listeners_ += 1;
  }
  ~SimListener() override {
    Close();
    bound_->process->listeners_ -= 1;
  }
  Task<Result<std::unique_ptr<Stream>>> Accept() override {
    const auto bound = bound_;
    while (!bound->closed && bound->backlog.empty()) co_await bound->changed.Wait();
    if (bound->closed)
      co_return Fail(ErrorId::kClosed, fmt::format("accept at {}", ToString(bound->at)));
    std::unique_ptr<Stream> stream = std::move(bound->backlog.front());
    bound->backlog.pop_front();
    co_return stream;
  }
  Endpoint bound() const override { return bound_->at; }
  void Close() noexcept override {
    if (bound_->closed) return;
    bound_->closed = true;
    bound_->backlog.clear();
    bound_->changed.Notify();
  }

 private:
  std::shared_ptr<SimHost::Bound> bound_;  // shared with its host, which looks it up
};

SimNet::~SimNet() = default;

SimHost::SimHost(const SimLoop& loop, std::string name, std::vector<IpAddress> addresses,
                 std::uint64_t seed)
    : name_(std::move(name)),
      boot_id_(fmt::format("boot-{:016x}", StreamSeed(seed, "boot", 0))),
      addresses_(std::move(addresses)),
      seed_(seed),
      disk_(loop, StreamSeed(seed, "disk", 0)),
      wall_offset_(std::chrono::seconds(StreamSeed(seed, "wall", 0) % 3600)) {}

SimHost& SimNet::AddHost(std::string name, std::vector<IpAddress> addresses, std::uint64_t seed) {
  hosts_.push_back(std::make_unique<SimHost>(loop_, std::move(name), std::move(addresses), seed));
  return *hosts_.back();
}

SimLink& SimNet::Link(const SimHost& from, const SimHost& to) {
  const auto [found, made] = links_.try_emplace({&from, &to});
  if (made && &from == &to) found->second.latency = std::chrono::microseconds(10);
  return found->second;
}

SimHost* SimNet::FindHost(const SimProcess& from, const IpAddress& address) {
  if (address.is_loopback()) return &from.host();
  for (const auto& host : hosts_) {
    const auto& own = host->addresses();
    if (std::find(own.begin(), own.end(), address) != own.end()) return host.get();
  }
  return nullptr;
}

SimHost* SimNet::FindHost(const std::string& name) {
  for (const auto& host : hosts_) {
    if (host->name() == name) return host.get();
  }
  return nullptr;
}

Result<std::unique_ptr<Listener>> SimNet::Listen(SimProcess& process, const Endpoint& at) {
  SimHost& host = process.host();
  if (process.is_dead()) return Fail(ErrorId::kListenFailed, "the process is dead");
  const auto& own = host.addresses();
  const bool ours = at.address.is_unspecified() || at.address.is_loopback() ||
                    std::find(own.begin(), own.end(), at.address) != own.end();
  if (!ours) return Fail(ErrorId::kAddressNotOurs, ToString(at));
  std::erase_if(host.bound_,
                [](const auto& weak) { return weak.expired() || weak.lock()->closed; });
  const auto taken = [&host, &at](std::uint16_t port) {
    return std::any_of(host.bound_.begin(), host.bound_.end(), [&at, port](const auto& weak) {
      const auto bound = weak.lock();
      return bound->local_name.empty() && bound->at.port == port &&
             (bound->at.address == at.address || bound->at.address.is_unspecified() ||
              at.address.is_unspecified());
    });
  };
  auto bound = std::make_shared<SimHost::Bound>();
  bound->process = &process;
  bound->at = at;
  bound->backlog_max = stream_options.backlog_max;
  while (bound->at.port == 0 || (at.port == 0 && taken(bound->at.port)))
    bound->at.port = host.next_port_++;
  if (taken(bound->at.port)) return Fail(ErrorId::kPortTaken, ToString(at));
  host.bound_.push_back(bound);
  return std::make_unique<SimListener>(std::move(bound));
}

Result<std::unique_ptr<Listener>> SimNet::ListenLocal(SimProcess& process,
                                                      const std::string& name) {
  SimHost& host = process.host();
  if (process.is_dead()) return Fail(ErrorId::kListenFailed, "the process is dead");
  std::erase_if(host.bound_,
                [](const auto& weak) { return weak.expired() || weak.lock()->closed; });
  const bool taken = std::any_of(host.bound_.begin(), host.bound_.end(), [&name](const auto& weak) {
    return weak.lock()->local_name == name;
  });
  if (taken) return Fail(ErrorId::kPortTaken, "local name " + name);
  auto bound = std::make_shared<SimHost::Bound>();
  bound->process = &process;
  bound->local_name = name;
  bound->backlog_max = stream_options.backlog_max;
  host.bound_.push_back(bound);
  return std::make_unique<SimListener>(std::move(bound));
}

Task<Result<std::unique_ptr<Stream>>> SimNet::Connect(SimProcess& process, Endpoint to,
                                                      std::string local_name, Instant deadline) {
  const std::string name = local_name.empty() ? ToString(to) : "local name " + local_name;
  if (process.is_dead()) co_return Fail(ErrorId::kNetwork, name);
  const auto dial = std::make_shared<Dial>(process.world().random.Next());
  dial->process = &process;
  dial->to = to;
  dial->local_name = std::move(local_name);
  World& world = process.world();
  const std::unique_ptr<Timer> timer = world.clock.MakeTimer(world.control);
  timer->At(deadline, [dial, name] {
    dial->given_up = true;
    dial->result.Set(Fail(ErrorId::kConnectTimeout, name));
  });
  Try(dial);
  Result<std::unique_ptr<Stream>> result = co_await dial->result.Get();
  dial->given_up = true;
  co_return result;
}

// One SYN, and what comes back. The next one follows if nothing does.
void SimNet::Try(const std::shared_ptr<Dial>& dial) {
  if (dial->given_up || dial->process->is_dead()) return;
  SimHost& from = dial->process->host();
  SimHost* const to = dial->local_name.empty() ? FindHost(*dial->process, dial->to.address) : &from;
  const auto again = [this, dial] {
    loop_.At(After(loop_.Now(), dial->retry), [this, dial] { Try(dial); });
    dial->retry = std::min(dial->retry * 2, kRetransmitMax);
  };
  if (to == nullptr) return again();
  SimLink& way = Link(from, *to);
  const Duration there = way.latency + dial->random.Between(Duration(0), way.jitter);
  if (dial->random.Chance(way.loss)) return again();
  loop_.At(After(loop_.Now(), there), [this, dial, to, &from, again] {
    if (to->silent_ || Link(from, *to).down || Link(*to, from).down ||
        dial->random.Chance(Link(*to, from).loss))
      return again();
    const Duration back = Link(*to, from).latency;
    std::shared_ptr<SimHost::Bound> bound;
    for (const auto& weak : to->bound_) {
      const auto candidate = weak.lock();
      if (!candidate || candidate->closed) continue;
      const Endpoint& at = candidate->at;
      const bool fits = dial->local_name.empty()
                            ? candidate->local_name.empty() && at.port == dial->to.port &&
                                  (at.address == dial->to.address || at.address.is_unspecified())
                            : candidate->local_name == dial->local_name;
      if (fits) bound = candidate;
    }
    if (!bound) {
      loop_.At(After(loop_.Now(), back), [dial] {
        dial->result.Set(Fail(ErrorId::kConnectRefused,
                              dial->local_name.empty() ? ToString(dial->to) : dial->local_name,
                              ECONNREFUSED));
      });
      return;
    }
    if (bound->backlog.size() >= bound->backlog_max) return again();
    const auto connection = std::make_shared<Connection>(dial->random.Next());
    End& client = connection->ends[0];
    End& server = connection->ends[1];
    client.process = dial->process;
    client.host = &from;
    server.process = bound->process;
    server.host = to;
    if (dial->local_name.empty()) {
      const IpAddress own =
          dial->to.address.is_loopback() ? dial->to.address : from.addresses().front();
      client.local = {own, from.next_port_++};
      client.remote = dial->to;
      server.local = client.remote;
      server.remote = client.local;
    }
    connections_.push_back(connection);
    for (int end = 0; end < 2; ++end) {
      connection->ends[end].last_answer = loop_.Now();
      KeepAlive(connection, end);
    }
    bound->backlog.push_back(std::make_unique<SimStream>(*this, connection, 1));
    bound->changed.Notify();
    loop_.At(After(loop_.Now(), back), [this, dial, connection] {
      if (dial->process->is_dead()) {
        CloseEnd(connection, 0);
        return;
      }
      auto stream = std::make_unique<SimStream>(*this, connection, 0);
      if (!dial->given_up) dial->result.Set(std::move(stream));  // else it closes here
    });
  });
}

Duration SimNet::Transit(SimLink& link, std::size_t bytes, Connection& connection, Pipe& pipe) {
  const Instant now = loop_.Now();
  pipe.link_free = After(std::max(now, pipe.link_free),
                         Duration(static_cast<std::int64_t>(static_cast<double>(bytes) * 1e9 /
                                                            link.bytes_per_second)));
  Duration transit = pipe.link_free - now + link.latency;
  if (link.jitter.count() > 0) transit += connection.random.Between(Duration(0), link.jitter);
  if (stream_options.lag_max.count() > 0) {
    constexpr double kLagChanges = 0.1;
    if (connection.random.Chance(kLagChanges))
      pipe.lag = connection.random.Between(Duration(0), stream_options.lag_max);
    transit += pipe.lag;
  }
  Duration again = kRetransmitMin;
  while (connection.random.Chance(link.loss)) {
    transit += again;
    again = std::min(again * 2, kRetransmitMax);
  }
  return transit;
}

void SimNet::Pump(const std::shared_ptr<Connection>& connection, int from) {
  Pipe& pipe = connection->pipes[from];
  const End& sender = connection->ends[from];
  const End& receiver = connection->ends[1 - from];
  if (sender.gone || sender.broken) return;
  SimLink& link = Link(*sender.host, *receiver.host);
  const auto push = [&](Pipe::Segment segment) {
    segment.due = After(loop_.Now(), Transit(link, segment.bytes.size() + 64, *connection, pipe));
    if (!pipe.under_way.empty()) segment.due = std::max(segment.due, pipe.under_way.back().due);
    pipe.under_way.push_back(std::move(segment));
  };
  while (pipe.unsent.size() > 0) {
    const std::size_t filled = pipe.received.size() + pipe.under_way_bytes;
    if (filled >= stream_options.receive_buffer_bytes) break;
    const std::size_t most =
        std::min({pipe.unsent.size(), stream_options.receive_buffer_bytes - filled,
                  stream_options.segment_bytes_max});
    Pipe::Segment segment;
    segment.bytes.resize(most);
    pipe.unsent.Take(segment.bytes);
    pipe.unacknowledged += most;
    pipe.under_way_bytes += most;
    push(std::move(segment));
  }
  if (pipe.end_queued && !pipe.end_sent && pipe.unsent.size() == 0) {
    pipe.end_sent = true;
    Pipe::Segment segment;
    segment.end = true;
    push(std::move(segment));
  }
  ScheduleDelivery(connection, from);
}

void SimNet::ScheduleDelivery(const std::shared_ptr<Connection>& connection, int from) {
  Pipe& pipe = connection->pipes[from];
  if (pipe.scheduled || pipe.under_way.empty()) return;
  pipe.scheduled = true;
  loop_.At(pipe.under_way.front().due, [this, connection, from] {
    connection->pipes[from].scheduled = false;
    Deliver(connection, from);
    ScheduleDelivery(connection, from);
  });
}

void SimNet::Deliver(const std::shared_ptr<Connection>& connection, int from) {
  Pipe& pipe = connection->pipes[from];
  End& sender = connection->ends[from];
  End& receiver = connection->ends[1 - from];
  if (pipe.under_way.empty()) return;
  Pipe::Segment& first = pipe.under_way.front();
  if (pipe.lost || receiver.host->silent_ || Link(*sender.host, *receiver.host).down) {
    if (first.reset) {  // is never sent again
      pipe.under_way.pop_front();
      return;
    }
    first.due = After(loop_.Now(), pipe.retry);
    pipe.retry = std::min(pipe.retry * 2, kRetransmitMax);
    return;
  }
  pipe.retry = kRetransmitMin;
  const Pipe::Segment segment = std::move(first);
  pipe.under_way.pop_front();
  pipe.under_way_bytes -= segment.bytes.size();
  if (segment.reset) {
    Reset(*connection, 1 - from);
    return;
  }
  if (receiver.gone || receiver.closed) {
    if (!segment.end || receiver.gone) SendReset(connection, 1 - from);
    return;
  }
  pipe.received.Append(segment.bytes);
  if (segment.end) pipe.end_received = true;
  receiver.readable.Notify();
  if (!segment.bytes.empty()) {
    loop_.At(After(loop_.Now(), Link(*receiver.host, *sender.host).latency),
             [this, connection, from, count = segment.bytes.size()] {
               Acknowledge(connection, from, count, kRetransmitMin);
             });
  }
}

void SimNet::Acknowledge(const std::shared_ptr<Connection>& connection, int from, std::size_t bytes,
                         Duration retry) {
  End& sender = connection->ends[from];
  End& receiver = connection->ends[1 - from];
  if (connection->pipes[1 - from].lost) return;
  if (Link(*receiver.host, *sender.host).down) {
    loop_.At(After(loop_.Now(), retry), [this, connection, from, bytes, retry] {
      Acknowledge(connection, from, bytes, std::min(retry * 2, kRetransmitMax));
    });
    return;
  }
  connection->pipes[from].unacknowledged -= bytes;
  sender.writable.Notify();
  Pump(connection, from);
}

// The kernel's probes, which end a connection over which nothing comes back any more.
void SimNet::KeepAlive(const std::weak_ptr<Connection>& weak, int end) {
  loop_.At(After(loop_.Now(), kKeepAliveInterval), [this, weak, end] {
    const auto connection = weak.lock();
    if (!connection) return;
    End& mine = connection->ends[end];
    End& other = connection->ends[1 - end];
    if (mine.gone || mine.broken || mine.closed) return;
    const bool answered = !connection->pipes[0].lost && !other.host->silent_ &&
                          !Link(*mine.host, *other.host).down &&
                          !Link(*other.host, *mine.host).down;
    if (answered && other.gone) {  // its host does not know the connection
      SendReset(connection, 1 - end);
      return;
    }
    if (answered) mine.last_answer = loop_.Now();
    if (loop_.Now() - mine.last_answer < kDeadPathMax) return KeepAlive(connection, end);
    mine.gone = true;
    mine.broken = Error{
        ErrorId::kConnectTimeout,
        fmt::format("connection {} to {}", ToString(mine.local), ToString(mine.remote)), ETIMEDOUT};
    connection->pipes[end].unsent.Clear();
    connection->pipes[end].under_way.clear();
    mine.readable.Notify();
    mine.writable.Notify();
  });
}

// As the kernel does: what was written still goes out; what was not read makes it a reset.
void SimNet::CloseEnd(const std::shared_ptr<Connection>& connection, int end) {
  End& mine = connection->ends[end];
  if (mine.closed) return;
  mine.closed = true;
  mine.readable.Notify();
  mine.writable.Notify();
  if (mine.gone || mine.broken) return;
  if (connection->pipes[1 - end].received.size() > 0) {
    connection->pipes[1 - end].received.Clear();
    SendReset(connection, end);
    return;
  }
  connection->pipes[end].end_queued = true;
  Pump(connection, end);
}

void SimNet::SendReset(const std::shared_ptr<Connection>& connection, int from) {
  Pipe& pipe = connection->pipes[from];
  End& sender = connection->ends[from];
  if (!pipe.under_way.empty() && pipe.under_way.back().reset) return;
  // What is under way still arrives before it; what was not sent never does.
  sender.gone = true;
  pipe.unsent.Clear();
  Pipe::Segment segment;
  segment.reset = true;
  segment.due = After(loop_.Now(), Link(*sender.host, *connection->ends[1 - from].host).latency);
  if (!pipe.under_way.empty()) segment.due = std::max(segment.due, pipe.under_way.back().due);
  pipe.under_way.push_back(std::move(segment));
  ScheduleDelivery(connection, from);
}

void SimNet::Reset(Connection& connection, int end) {
  End& mine = connection.ends[end];
  mine.gone = true;
  Pipe& pipe = connection.pipes[end];
  pipe.unsent.Clear();
  if (!mine.broken) {
    mine.broken =
        Error{ErrorId::kConnectionClosed,
              fmt::format("connection {} to {}", ToString(mine.local), ToString(mine.remote)),
              ECONNRESET};
  }
  mine.readable.Notify();
  mine.writable.Notify();
}

bool SimNet::CutOne(CutKind kind, Random& random) {
  std::erase_if(connections_, [](const auto& weak) {
    const auto connection = weak.lock();
    return !connection || connection->ends[0].closed || connection->ends[1].closed ||
           connection->ends[0].gone || connection->ends[1].gone;
  });
  if (connections_.empty()) return false;
  const auto connection = connections_[random.Below(connections_.size())].lock();
  if (kind == CutKind::kBothNotice) {
    Reset(*connection, 0);
    Reset(*connection, 1);
    return true;
  }
  connection->pipes[0].lost = connection->pipes[1].lost = true;
  if (kind == CutKind::kOneNotices) Reset(*connection, static_cast<int>(random.Below(2)));
  return true;
}

void SimNet::Abandon(SimProcess& process, bool silently) {
  for (const auto& weak : std::vector(connections_)) {
    const auto connection = weak.lock();
    if (!connection) continue;
    for (int end = 0; end < 2; ++end) {
      End& mine = connection->ends[end];
      if (mine.process != &process || mine.closed) continue;
      if (!silently) {
        CloseEnd(connection, end);
        continue;
      }
      mine.gone = mine.closed = true;
      connection->pipes[end].unsent.Clear();
      connection->pipes[end].under_way.clear();
      connection->pipes[end].under_way_bytes = 0;
      mine.readable.Notify();
      mine.writable.Notify();
    }
  }
  for (const auto& weak : process.host().bound_) {
    const auto bound = weak.lock();
    if (!bound || bound->process != &process) continue;
    bound->closed = true;
    bound->backlog.clear();
    bound->changed.Notify();
  }
}

}  // namespace mooncake
