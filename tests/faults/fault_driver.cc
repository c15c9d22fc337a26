// One end of the fault tests: an engine with registered memory that does what lines on standard
// input say, and answers each with one JSON object. The tests break what lies between two of these,
// and count what each holds from outside.
//
//   fault_driver ADDRESS TRANSPORT[,TRANSPORT...] [FRAME_TIMEOUT_MS]
//
// rdma@NAME+NAME is RDMA with these devices only.
//
// Its first line is {"address": where peers connect}. The commands:
// - register NAME BYTES user|mapped: memory of its own, or such as peers of this host may map;
//   answers its region
// - unregister NAME: and frees it
// - fill NAME SEED: with the pattern of that seed
// - check NAME OLD NEW RANGES exact|either: RANGES must hold NEW (or, either, both byte by byte),
//   all the rest OLD
// - connect ADDRESS MS: whose regions the next commands mean
// - submit write|read NAME REGION RANGES MS: a batch within MS; answers its number
// - run write|read NAME REGION RANGES MS: the same on this thread; answers its outcome
// - measure NAME REGION BYTES MS: writes of so many bytes, one after the other, for so long;
//   answers how long they took
// - cancel NUMBER
// - wait NUMBER: answers the outcome, and when it came
// - crowd NUMBER: so many more engines in this process; answers their addresses
// - storm ADDRESS MS: all of those connect there at once
// - meet MS ADDRESS...: this engine connects to all of these at once
// - disperse: all of the crowd end
// - churn NUMBER ADDRESS MS: so many engines, one after the other, connect there and end
// - paths: answers which transports can be used, and why the others cannot, and what the paths
//   consist of
// - trim: gives freed memory back to the kernel
//
// RANGES are COUNT BYTES STRIDE: COUNT ranges of BYTES, each at the next multiple of STRIDE that
// fits into the memory, from the beginning again at its end; at the same offsets on both sides.
#include <malloc.h>
#include <sys/mman.h>

#include <boost/json.hpp>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "base/log.h"
#include "base/real_world.h"
#include "bench/bench_node.h"
#include "transport/cma/cma_transport.h"
#include "transport/rdma/rdma_transport.h"
#include "transport/rdma/real_verbs.h"
#include "transport/shm/shm_transport.h"
#include "transport/tcp/tcp_transport.h"

namespace mooncake {
namespace {

using boost::json::object;

object Describe(const Error& error) {
  return {{"ok", false}, {"id", ErrorName(error.id)}, {"text", error.Text()}};
}

// The eight bytes at `offset`, a multiple of eight, under `seed`. No two are equal.
std::uint64_t PatternWord(std::uint64_t seed, std::uint64_t offset) noexcept {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15;
  return (offset / 8 + 1 + (seed << 40)) * kMultiplier;
}

struct Memory {
  RegionInfo info;
  bool mapped = false;
  [[nodiscard]] MutableBytes bytes() const noexcept {
    return {reinterpret_cast<std::byte*>(info.base), info.length_bytes};
  }
};

struct Ranges {
  std::uint64_t count = 0;
  std::uint64_t length_bytes = 0;
  std::uint64_t stride_bytes = 0;

  [[nodiscard]] std::uint64_t Places(std::uint64_t memory_bytes) const noexcept {
    return std::min(count, memory_bytes / stride_bytes);
  }
  [[nodiscard]] std::vector<Copy> Copies(const Memory& memory, RegionId region) const {
    std::vector<Copy> copies;
    copies.reserve(count);
    const std::uint64_t places = Places(memory.info.length_bytes);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t offset = i % places * stride_bytes;
      copies.push_back({memory.bytes().data() + offset, region, offset, length_bytes});
    }
    return copies;
  }
};

// Bytes that are none of what they may be, and of those in ranges how many are new.
struct Found {
  std::uint64_t wrong = 0;
  std::uint64_t first_wrong = 0;
  std::uint64_t fresh = 0;
};

Found Check(const Memory& memory, std::uint64_t old_seed, std::uint64_t new_seed,
            const Ranges& ranges, bool may_be_old) {
  Found found;
  const MutableBytes bytes = memory.bytes();
  const std::uint64_t end_of_ranges = ranges.Places(bytes.size()) * ranges.stride_bytes;
  for (std::uint64_t offset = 0; offset < bytes.size(); offset += 8) {
    const std::uint64_t before = PatternWord(old_seed, offset);
    const std::uint64_t after = PatternWord(new_seed, offset);
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + offset, sizeof word);
    const bool outside =
        offset >= end_of_ranges || offset % ranges.stride_bytes >= ranges.length_bytes;
    const bool whole = offset % ranges.stride_bytes + 8 <= ranges.length_bytes;
    if (outside ? word == before && ranges.stride_bytes % 8 == 0 : word == after && whole) {
      found.fresh += outside ? 0 : 8;
      continue;
    }
    for (std::uint64_t i = 0; i < 8; ++i) {
      const std::uint64_t at = offset + i;
      const bool inside = at < end_of_ranges && at % ranges.stride_bytes < ranges.length_bytes;
      const auto byte = std::to_integer<unsigned>(bytes[at]);
      const bool is_old = byte == (before >> (8 * i) & 0xFF);
      const bool is_new = byte == (after >> (8 * i) & 0xFF);
      if (inside && is_new) found.fresh += 1;
      if (inside ? is_new || (may_be_old && is_old) : is_old) continue;
      if (found.wrong == 0) found.first_wrong = at;
      found.wrong += 1;
    }
  }
  return found;
}

class Driver {
 public:
  Driver(World& world, IpAddress address, std::vector<std::string> transports,
         std::vector<std::string> devices, const TcpOptions& tcp)
      : world_(world),
        address_(address),
        transports_(std::move(transports)),
        add_transports_([tcp, devices = std::move(devices)](
                            World& w, Metrics& metrics, Engine& engine, const CopyEngine& copy) {
          AddTransports(w, metrics, engine, copy, devices, tcp);
        }),
        node_(world, "driver", transports_, add_transports_, CopyEngine::Plain()) {}

  Result<Endpoint> Listen() { return node_.Listen({address_, 0}); }

  object Do(std::istringstream& words) {
    std::string command;
    words >> command;
    if (command == "register") return Register(words);
    if (command == "unregister") return Unregister(words);
    if (command == "fill") return Fill(words);
    if (command == "check") return Check(words);
    if (command == "connect") return Connect(words);
    if (command == "submit") return Submit(words, false);
    if (command == "run") return Submit(words, true);
    if (command == "measure") return Measure(words);
    if (command == "cancel") return Cancel(words);
    if (command == "wait") return Wait(words);
    if (command == "crowd") return Crowd(words);
    if (command == "storm") return Storm(words);
    if (command == "meet") return Meet(words);
    if (command == "disperse") return Disperse();
    if (command == "churn") return Churn(words);
    if (command == "paths") return Paths();
    if (command == "trim") return {{"ok", ::malloc_trim(0) >= 0}};
    return {{"ok", false}, {"text", "there is no command " + command}};
  }

 private:
  struct Running {
    std::shared_ptr<Batch> batch;
    Instant begin;
    std::shared_ptr<std::promise<Instant>> end = std::make_shared<std::promise<Instant>>();
  };

  static void AddTransports(World& world, Metrics& metrics, Engine& engine, const CopyEngine& copy,
                            const std::vector<std::string>& devices, const TcpOptions& tcp) {
    const auto introduce = [&engine] { return engine.Introduce(); };
    auto mapped = MakeShmTransports(world, engine.identity().id, engine.regions(), copy);
    MC_ASSERT(mapped);
    for (auto& one : *mapped) engine.AddTransport(std::move(one));
    engine.AddTransport(MakeCmaTransport(world, engine.identity().id));
    if (!devices.empty()) {
      Result<std::shared_ptr<rdma::Verbs>> verbs = rdma::OpenRealVerbs();
      MC_ASSERT(verbs);
      auto rdma = MakeRdmaTransport(world, metrics, *verbs, devices, engine.regions(),
                                    engine.gpus(), introduce, {});
      MC_ASSERT(rdma);
      engine.AddTransport(std::move(*rdma));
    }
    engine.AddTransport(MakeTcpTransport(world, metrics, engine.regions(), copy, introduce, tcp));
  }

  object Register(std::istringstream& words) {
    std::string name;
    std::string kind;
    std::uint64_t length_bytes = 0;
    words >> name >> length_bytes >> kind;
    Memory memory;
    memory.mapped = kind == "mapped";
    if (memory.mapped) {
      const Result<RegionInfo> info = node_.engine().Allocate(name, length_bytes);
      if (!info) return Describe(info.error());
      memory.info = *info;
    } else {
      void* const base =
          ::mmap(nullptr, length_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (base == MAP_FAILED) return {{"ok", false}, {"id", "mmap"}, {"text", "mmap"}};
      const Result<RegionInfo> info = node_.engine().Register(base, length_bytes);
      if (!info) return Describe(info.error());
      memory.info = *info;
    }
    memories_[name] = memory;
    return {{"ok", true}, {"region", static_cast<std::uint64_t>(memory.info.id)}};
  }

  object Unregister(std::istringstream& words) {
    const auto found = FindMemory(words);
    const Memory memory = found->second;
    const Status done = node_.engine().Unregister(memory.info.id);
    if (!done) return Describe(done.error());
    if (!memory.mapped) ::munmap(memory.bytes().data(), memory.info.length_bytes);
    memories_.erase(found);
    return {{"ok", true}};
  }

  object Fill(std::istringstream& words) {
    const Memory& memory = FindMemory(words)->second;
    std::uint64_t seed = 0;
    words >> seed;
    for (std::uint64_t offset = 0; offset < memory.info.length_bytes; offset += 8) {
      const std::uint64_t word = PatternWord(seed, offset);
      std::memcpy(memory.bytes().data() + offset, &word, sizeof word);
    }
    return {{"ok", true}};
  }

  object Check(std::istringstream& words) {
    const Memory& memory = FindMemory(words)->second;
    std::uint64_t old_seed = 0;
    std::uint64_t new_seed = 0;
    words >> old_seed >> new_seed;
    const Ranges ranges = ReadRanges(words);
    std::string how;
    words >> how;
    const Found found = mooncake::Check(memory, old_seed, new_seed, ranges, how == "either");
    return {{"ok", found.wrong == 0},
            {"wrong", found.wrong},
            {"first_wrong", found.first_wrong},
            {"fresh", found.fresh}};
  }

  object Connect(std::istringstream& words) {
    std::string address;
    words >> address;
    const Instant begin = world_.clock.Now();
    Result<PeerPtr> peer = node_.engine().ConnectNow(address, ReadDeadline(words));
    object answer = peer ? object{{"ok", true}} : Describe(peer.error());
    if (peer) peer_ = *peer;
    answer["ms"] = Milliseconds(world_.clock.Now() - begin);
    return answer;
  }

  object Crowd(std::istringstream& words) {
    boost::json::array addresses;
    for (std::uint64_t left = ReadNumber(words); left > 0; --left) {
      crowd_.push_back(std::make_unique<BenchNode>(world_, "one of many", transports_,
                                                   add_transports_, CopyEngine::Plain()));
      const Result<Endpoint> bound = crowd_.back()->Listen({address_, 0});
      if (!bound) return Describe(bound.error());
      addresses.emplace_back(ToString(*bound));
    }
    return {{"ok", true}, {"addresses", std::move(addresses)}};
  }

  object Storm(std::istringstream& words) {
    std::string address;
    words >> address;
    std::vector<std::pair<Engine*, std::string>> calls;
    for (const auto& node : crowd_) calls.emplace_back(&node->engine(), address);
    return ConnectAll(calls, ReadDeadline(words));
  }

  object Meet(std::istringstream& words) {
    const Instant deadline = ReadDeadline(words);
    std::vector<std::pair<Engine*, std::string>> calls;
    for (std::string address; words >> address;) calls.emplace_back(&node_.engine(), address);
    return ConnectAll(calls, deadline);
  }

  object Disperse() {
    crowd_.clear();
    return {{"ok", true}};
  }

  object Churn(std::istringstream& words) {
    const std::uint64_t count = ReadNumber(words);
    std::string address;
    words >> address;
    const auto patience = std::chrono::milliseconds(ReadNumber(words));
    for (std::uint64_t i = 0; i < count; ++i) {
      BenchNode node(world_, "one of many", transports_, add_transports_, CopyEngine::Plain());
      const Result<PeerPtr> peer =
          node.engine().ConnectNow(address, After(world_.clock.Now(), patience));
      if (!peer) return Describe(peer.error());
      for (const PathRow& path : node.engine().Paths()) {
        if (!path.usable) return {{"ok", false}, {"text", path.reason}, {"after", i}};
      }
    }
    return {{"ok", true}};
  }

  object Paths() {
    object transports;
    object details;
    for (const PathRow& path : node_.engine().Paths()) {
      transports[path.transport] = path.usable ? "usable" : path.reason;
      details[path.transport] = path.detail;
    }
    return {{"ok", true}, {"transports", std::move(transports)}, {"details", std::move(details)}};
  }

  object ConnectAll(const std::vector<std::pair<Engine*, std::string>>& calls, Instant deadline) {
    struct Gathering {
      std::size_t left;
      std::size_t connected = 0;
      std::string failure;
      std::promise<void> end;
    } gathering{calls.size()};
    const Instant begin = world_.clock.Now();
    for (const auto& [engine, address] : calls) {
      Spawn(world_.control, [](Task<Result<PeerPtr>> connect, Gathering& all) -> Task<void> {
        const Result<PeerPtr> peer = co_await std::move(connect);
        if (peer) all.connected += 1;
        if (!peer) all.failure = peer.error().Text();
        if (--all.left == 0) all.end.set_value();
      }(engine->Connect(address, deadline), gathering));
    }
    gathering.end.get_future().wait();
    return {{"ok", gathering.connected == calls.size()},
            {"connected", gathering.connected},
            {"text", gathering.failure},
            {"ms", Milliseconds(world_.clock.Now() - begin)}};
  }

  object Submit(std::istringstream& words, bool here) {
    std::string direction;
    words >> direction;
    const Memory& memory = FindMemory(words)->second;
    std::uint64_t region = 0;
    words >> region;
    const std::vector<Copy> copies = ReadRanges(words).Copies(memory, RegionId{region});
    const Direction way = direction == "write" ? Direction::kWrite : Direction::kRead;
    const BatchOptions options{.deadline = ReadDeadline(words)};
    const Instant begin = world_.clock.Now();
    if (here) {
      const Status outcome = node_.engine().Run(peer_, way, copies, options);
      return Outcome(outcome, world_.clock.Now() - begin);
    }
    Running running{node_.engine().Submit(peer_, way, copies, options), begin};
    running.batch->OnDone(
        [this, end = running.end](const Status&) { end->set_value(world_.clock.Now()); });
    running_.emplace(++last_number_, std::move(running));
    return {{"ok", true}, {"number", last_number_}};
  }

  object Measure(std::istringstream& words) {
    const Memory& memory = FindMemory(words)->second;
    const std::uint64_t region = ReadNumber(words);
    const Copy copy{memory.bytes().data(), RegionId{region}, 0, ReadNumber(words)};
    const Instant end = ReadDeadline(words);
    std::vector<Duration> times;
    for (Instant now = world_.clock.Now(); now < end;) {
      const BatchOptions options{.deadline = After(now, std::chrono::seconds(10))};
      const Status outcome = node_.engine().Run(peer_, Direction::kWrite, {&copy, 1}, options);
      if (!outcome) return Describe(outcome.error());
      const Instant begin = std::exchange(now, world_.clock.Now());
      times.push_back(now - begin);
    }
    std::sort(times.begin(), times.end());
    const auto microseconds = [](Duration d) { return static_cast<double>(d.count()) / 1000; };
    return {{"ok", true},
            {"count", times.size()},
            {"p50_us", microseconds(times[times.size() / 2])},
            {"p99_us", microseconds(times[times.size() * 99 / 100])}};
  }

  object Cancel(std::istringstream& words) {
    running_.at(ReadNumber(words)).batch->Cancel();
    return {{"ok", true}};
  }

  object Wait(std::istringstream& words) {
    const std::uint64_t number = ReadNumber(words);
    const Running running = running_.at(number);
    const Status outcome = running.batch->Wait();
    object answer = Outcome(outcome, running.end->get_future().get() - running.begin);
    answer["transport"] = running.batch->transport();
    running_.erase(number);
    return answer;
  }

  static object Outcome(const Status& outcome, Duration took) {
    object answer = outcome ? object{{"ok", true}} : Describe(outcome.error());
    answer["ms"] = Milliseconds(took);
    return answer;
  }
  static std::int64_t Milliseconds(Duration duration) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  }
  static std::uint64_t ReadNumber(std::istringstream& words) {
    std::uint64_t number = 0;
    words >> number;
    return number;
  }
  static Ranges ReadRanges(std::istringstream& words) {
    Ranges ranges;
    words >> ranges.count >> ranges.length_bytes >> ranges.stride_bytes;
    return ranges;
  }
  Instant ReadDeadline(std::istringstream& words) {
    return After(world_.clock.Now(), std::chrono::milliseconds(ReadNumber(words)));
  }
  std::map<std::string, Memory>::iterator FindMemory(std::istringstream& words) {
    std::string name;
    words >> name;
    const auto found = memories_.find(name);
    MC_ASSERT(found != memories_.end());
    return found;
  }

  World& world_;
  const IpAddress address_;
  const std::vector<std::string> transports_;
  const TransportFactory add_transports_;
  std::map<std::string, Memory> memories_;
  BenchNode node_;
  std::vector<std::unique_ptr<BenchNode>> crowd_;
  PeerPtr peer_;
  std::uint64_t last_number_ = 0;
  std::map<std::uint64_t, Running> running_;
};

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

void Answer(const object& answer) {
  fmt::print("{}\n", boost::json::serialize(answer));
  std::fflush(stdout);
}

int Main(const std::string& address, const std::string& transports, const TcpOptions& tcp) {
  SetLogLevel(LogLevel::kWarn);
  RealWorld real;
  {
    const Result<IpAddress> at = ParseIpAddress(address);
    if (!at) return 2;
    std::vector<std::string> names = Split(transports, ',');
    std::vector<std::string> devices;
    for (std::string& name : names) {
      if (!name.starts_with("rdma@")) continue;
      devices = Split(name.substr(name.find('@') + 1), '+');
      name = "rdma";
    }
    Driver driver(real.world(), *at, std::move(names), std::move(devices), tcp);
    const Result<Endpoint> bound = driver.Listen();
    if (!bound) {
      fmt::print(stderr, "{}\n", bound.error().Text());
      return 1;
    }
    Answer({{"address", ToString(*bound)}});
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream words(line);
      Answer(driver.Do(words));
    }
  }
  real.Stop();
  return 0;
}

}  // namespace
}  // namespace mooncake

int main(int count, char** words) {
  if (count != 3 && count != 4) {
    std::fputs("usage: fault_driver ADDRESS TRANSPORT[,TRANSPORT...] [FRAME_TIMEOUT_MS]\n", stderr);
    return 2;
  }
  mooncake::TcpOptions tcp;
  if (count == 4) tcp.frame_timeout = std::chrono::milliseconds(std::atoi(words[3]));
  return mooncake::Main(words[1], words[2], tcp);
}
