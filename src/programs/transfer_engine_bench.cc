// transfer_engine_bench: how fast one process reads or writes the memory of another, by the flags
// and with the closing line of the public project's program of that name. `mooncake bench transfer`
// measures more, and beside the limits of the machine.
#include <fmt/format.h>
#include <gflags/gflags.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/real_world.h"
#include "drop_in/transfer_engine.h"

DEFINE_string(mode, "initiator", "initiator, which reads or writes, or target, whose memory it is");
DEFINE_string(metadata_server, "P2PHANDSHAKE",
              "P2PHANDSHAKE, or a directory: etcd://HOST:PORT, http://HOST:PORT/metadata, "
              "redis://HOST:PORT");
DEFINE_string(local_server_name, "", "The name of this side; empty: the host's");
DEFINE_string(segment_id, "", "The target's name, as it has printed it (initiator)");
DEFINE_string(operation, "read", "read or write (initiator)");
DEFINE_string(protocol, "rdma",
              "tcp leaves RDMA out; else the fastest transport that works is used");
DEFINE_string(device_name, "", "RDMA devices: names, patterns (mlx5_*), exclusions (^mlx5_2)");
DEFINE_string(nic_priority_matrix, "", "Chooses nothing: the nearest devices come first");
DEFINE_bool(auto_discovery, false, "Chooses nothing: see --device_name");
DEFINE_bool(use_vram, false, "Not in this version: memory is the host's");
DEFINE_int32(gpu_id, 0, "See --use_vram");
DEFINE_bool(init_mem, true, "Write the memory once before it is measured");
DEFINE_uint64(buffer_size, 1ull << 30, "Bytes of memory");
DEFINE_int32(batch_size, 128, "Ranges of a transfer");
DEFINE_uint64(block_size, 65536, "Bytes of a range");
DEFINE_int32(duration, 10, "Seconds");
DEFINE_int32(threads, 12, "Threads that transfer at once");
DEFINE_string(report_unit, "GB", "GB|GiB|Gb|MB|MiB|Mb|KB|KiB|Kb, per second");
DEFINE_uint32(report_precision, 2, "Digits after the point");
DEFINE_string(backend, "classic", "Chooses nothing: there is one");

namespace mooncake {
namespace {

using drop_in::Opcode;
using drop_in::TransferEngine;

constexpr int kUsage = 2;

// Everything goes to stderr, where the public program's goes.
template <class... Arguments>
void Say(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  fmt::print(stderr, "{}\n", fmt::format(text, std::forward<Arguments>(arguments)...));
}

std::optional<double> BytesOf(const std::string& unit) {
  static const std::map<std::string, double> units = {
      {"GB", 1e9},       {"GiB", 1073741824.0}, {"Gb", 1e9 / 8}, {"MB", 1e6},    {"MiB", 1048576.0},
      {"Mb", 1e6 / 8.0}, {"KB", 1e3},           {"KiB", 1024.0}, {"Kb", 1e3 / 8}};
  const auto found = units.find(unit);
  if (found == units.end()) return std::nullopt;
  return found->second;
}

// Ended by a signal, by time, or by a failure.
class Stop {
 public:
  void Set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  [[nodiscard]] bool is_set() const noexcept { return set_; }
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return set_.load(); });
  }
  void WaitFor(std::chrono::seconds time) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, time, [this] { return set_.load(); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> set_ = false;
};

std::string OwnName() {
  if (!FLAGS_local_server_name.empty()) return FLAGS_local_server_name;
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

// The first wrong flag.
std::optional<std::string> Wrong() {
  const bool initiates = FLAGS_mode == "initiator";
  if (!initiates && FLAGS_mode != "target") return "--mode is initiator or target";
  if (FLAGS_buffer_size == 0) return "--buffer_size is at least 1";
  if (FLAGS_use_vram) return "--use_vram: this version moves memory of the host only";
  if (!initiates) return std::nullopt;
  if (FLAGS_segment_id.empty()) return "--segment_id: the name that the target has printed";
  if (FLAGS_operation != "read" && FLAGS_operation != "write")
    return "--operation is read or write";
  if (!BytesOf(FLAGS_report_unit))
    return "--report_unit is one of GB, GiB, Gb, MB, MiB, Mb, KB, KiB, Kb";
  if (FLAGS_duration < 1 || FLAGS_threads < 1 || FLAGS_batch_size < 1 || FLAGS_block_size == 0)
    return "--duration, --threads, --batch_size and --block_size are at least 1";
  const auto ranges = static_cast<std::uint64_t>(FLAGS_batch_size) *
                      static_cast<std::uint64_t>(FLAGS_threads);  // below 2^62
  if (ranges > FLAGS_buffer_size / FLAGS_block_size)
    return fmt::format("--buffer_size {} is less than {} threads x {} ranges x {} bytes",
                       FLAGS_buffer_size, FLAGS_threads, FLAGS_batch_size, FLAGS_block_size);
  return std::nullopt;
}

std::uint64_t Begin(TransferEngine& engine) {
  if (engine.Initialize(OwnName(), FLAGS_metadata_server, FLAGS_protocol, FLAGS_device_name) != 0)
    return 0;
  const std::uint64_t memory = engine.AllocateManagedBuffer(FLAGS_buffer_size);
  if (memory != 0 && FLAGS_init_mem)
    std::memset(reinterpret_cast<void*>(memory), 'm', FLAGS_buffer_size);
  return memory;
}

int Serve(TransferEngine& engine, Stop& stop) {
  if (Begin(engine) == 0) return 1;
  Say("Transfer Engine RPC using {}, listening on {}",
      FLAGS_metadata_server == "P2PHANDSHAKE" ? "P2P handshake" : FLAGS_metadata_server,
      engine.LocalAddress());
  Say("{} bytes are ready. Now run: transfer_engine_bench --metadata_server={} --segment_id={}",
      FLAGS_buffer_size, FLAGS_metadata_server, engine.SegmentName());
  stop.Wait();
  return 0;
}

struct Shared {
  TransferEngine& engine;
  Stop& stop;
  std::uint64_t local = 0;
  std::uint64_t remote = 0;
  std::atomic<std::uint64_t> batches = 0;
  std::atomic<bool> failed = false;
};

// Ranges of the threads alternate, so that those of a batch do not touch.
void Transfer(Shared& shared, std::uint64_t thread) {
  std::vector<std::uint64_t> local;
  std::vector<std::uint64_t> remote;
  const auto ranges = static_cast<std::uint64_t>(FLAGS_batch_size);
  for (std::uint64_t i = 0; i < ranges; ++i) {
    const std::uint64_t offset =
        FLAGS_block_size * (i * static_cast<std::uint64_t>(FLAGS_threads) + thread);
    local.push_back(shared.local + offset);
    remote.push_back(shared.remote + offset);
  }
  const std::vector<std::uint64_t> lengths(ranges, FLAGS_block_size);
  const Opcode opcode = FLAGS_operation == "read" ? Opcode::kRead : Opcode::kWrite;
  while (!shared.stop.is_set()) {
    if (shared.engine.TransferSync(FLAGS_segment_id, {local, remote, lengths}, opcode) != 0) {
      shared.failed = true;
      shared.stop.Set();
      return;
    }
    shared.batches += 1;
  }
}

int Initiate(TransferEngine& engine, Stop& stop, Clock& clock) {
  Shared shared{engine, stop};
  shared.local = Begin(engine);
  if (shared.local == 0 || engine.OpenSegment(FLAGS_segment_id) != 0) return 1;
  shared.remote = engine.FirstBufferAddress(FLAGS_segment_id);
  if (shared.remote == 0) {
    Say("{} has registered no memory: is it a transfer_engine_bench --mode=target?",
        FLAGS_segment_id);
    return 1;
  }
  const Instant begin = clock.Now();
  std::vector<std::thread> threads;
  for (int i = 0; i < FLAGS_threads; ++i)
    threads.emplace_back(Transfer, std::ref(shared), static_cast<std::uint64_t>(i));
  stop.WaitFor(std::chrono::seconds(FLAGS_duration));
  stop.Set();
  for (std::thread& thread : threads) thread.join();
  if (shared.failed) return 1;
  const double seconds = std::chrono::duration<double>(clock.Now() - begin).count();
  const double bytes = static_cast<double>(shared.batches.load()) *
                       static_cast<double>(FLAGS_batch_size) *
                       static_cast<double>(FLAGS_block_size);
  Say("Test completed: duration {:.2f}, batch count {}, throughput {:.{}f} {}/s", seconds,
      shared.batches.load(), bytes / seconds / *BytesOf(FLAGS_report_unit),
      std::min(FLAGS_report_precision, 15u), FLAGS_report_unit);
  return 0;
}

}  // namespace
}  // namespace mooncake

int main(int argc, char** argv) {
  using namespace mooncake;
  gflags::SetUsageMessage(
      "measures how fast memory of a target is read or written\n"
      "Example: transfer_engine_bench --mode=target --local_server_name=192.168.0.137\n"
      "and, with the name that it prints, there or on another host:\n"
      "  transfer_engine_bench --segment_id=192.168.0.137:15624 --operation=write\n"
      "Exit codes: 0 done, 1 failed, 2 a flag cannot be used");
  gflags::SetVersionString(MOONCAKE_VERSION);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  const std::optional<std::string> wrong =
      argc > 1 ? fmt::format("\"{}\" is no flag", argv[1]) : Wrong();
  if (wrong) {
    Say("transfer_engine_bench: {}", *wrong);
    return kUsage;
  }
  RealWorld real;
  Stop stop;
  real.OnStopSignal([&stop] { stop.Set(); });
  TransferEngine engine;
  const int code =
      FLAGS_mode == "target" ? Serve(engine, stop) : Initiate(engine, stop, real.world().clock);
  real.Stop();
  return code;
}
