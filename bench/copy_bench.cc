// Every copy kernel against memcpy in the same run, and the table that CopyEngine made of this
// machine.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "base/real_world.h"
#include "memory/copy.h"

namespace mooncake {
namespace {

constexpr std::size_t kWindowBytes = 64 << 20;

struct Buffers {
  std::vector<std::byte> source = std::vector<std::byte>(kWindowBytes, std::byte{1});
  std::vector<std::byte> target = std::vector<std::byte>(kWindowBytes, std::byte{2});
};

// GB/s of copies of `size` bytes, offsets rotating through a window that no cache holds.
template <class Copy>
void Measure(benchmark::State& state, Buffers& buffers, Copy copy) {
  const auto size = static_cast<std::size_t>(state.range(0));
  const auto run = [&](auto call, std::size_t bytes) {
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t at = 0; at < bytes; at += size)
      call(buffers.target.data() + at, buffers.source.data() + at, size);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  double ours = 0;
  double plain = 0;
  double copied = 0;
  for (auto _ : state) {
    const std::size_t bytes = kWindowBytes / 4 / size * size;
    const double seconds = run(copy, bytes);
    state.SetIterationTime(seconds);
    ours += seconds;
    plain +=
        run([](std::byte* to, const std::byte* from, std::size_t n) { std::memcpy(to, from, n); },
            bytes);
    copied += static_cast<double>(bytes);
  }
  state.counters["GBps"] = copied / ours / 1e9;
  state.counters["of_memcpy"] = plain / ours;
}

void RegisterAll(Buffers& buffers) {
  const auto add = [](const std::string& name, auto body) {
    benchmark::RegisterBenchmark(name.c_str(), body)
        ->Arg(4 << 10)
        ->Arg(64 << 10)
        ->Arg(1 << 20)
        ->Arg(8 << 20)
        ->UseManualTime();
  };
  for (const auto& kernel : internal::CopyKernels()) {
    add(fmt::format("copy/{}", kernel.name),
        [&buffers, kernel](benchmark::State& state) { Measure(state, buffers, kernel.copy); });
  }
  for (const auto& kernel : internal::CopyCrcKernels()) {
    add(fmt::format("copy_crc/{}", kernel.name), [&buffers, kernel](benchmark::State& state) {
      Measure(state, buffers, [kernel](std::byte* to, const std::byte* from, std::size_t n) {
        benchmark::DoNotOptimize(kernel.copy(to, from, n, 0));
      });
    });
  }
}

void PrintTable() {
  RealWorld world;
  const auto begin = std::chrono::steady_clock::now();
  const CopyEngine engine = CopyEngine::Measure(world.world().clock);
  const double milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("measured in {:.1f} ms\n", milliseconds);
  for (const CopyEngine::Row& row : engine.Describe()) {
    fmt::print(
        "up to {:>20} bytes: {:<14} {:6.1f} GB/s   of many: {:<14} with CRC32C: {:<20} {:6.1f} "
        "GB/s\n",
        row.size_bytes_max, row.kernel, row.gigabytes_per_second, row.bulk_kernel, row.crc_kernel,
        row.crc_gigabytes_per_second);
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace mooncake

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  mooncake::PrintTable();
  mooncake::Buffers buffers;
  mooncake::RegisterAll(buffers);
  benchmark::RunSpecifiedBenchmarks();
}
