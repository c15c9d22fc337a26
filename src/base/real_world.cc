#include "base/real_world.h"

#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "base/dynamic_library.h"
#include "base/real_network.h"
#include "base/worker.h"

namespace mooncake {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

class RealTimer final : public Timer {
 public:
  explicit RealTimer(const Executor& executor) : timer_(executor) {}
  ~RealTimer() override { *generation_ += 1; }

  void At(Instant when, std::function<void()> call) override {
    const std::uint64_t mine = *generation_ += 1;
    timer_.expires_at(when);
    timer_.async_wait(
        [mine, generation = generation_, call = std::move(call)](const error_code& code) {
          if (!code && *generation == mine) call();
        });
  }
  void Cancel() override {
    *generation_ += 1;
    timer_.cancel();
  }

 private:
  asio::steady_timer timer_;
  // Shared with the handler: an expired timer's handler may already be queued when the timer dies.
  std::shared_ptr<std::uint64_t> generation_ = std::make_shared<std::uint64_t>(0);
};

using ClockGetTime = int (*)(clockid_t, timespec*);

// The kernel's code in this process, vdso(7), without the calls of libc around it.
ClockGetTime FindClockGetTime() noexcept {
  const DynamicLibrary vdso{::dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD)};
  ClockGetTime found = nullptr;
  const bool is_there = vdso.handle != nullptr && vdso.Take(found, "__vdso_clock_gettime");
  return is_there ? found : &::clock_gettime;
}

class RealClock final : public Clock {
 public:
  // std::chrono::steady_clock without its calls: a short transfer looks at the clock twice.
  [[gnu::hot]] Instant Now() override {
    timespec now{};
    clock_get_time_(CLOCK_MONOTONIC, &now);
    return Instant(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
  }
  WallTime WallNow() override { return std::chrono::system_clock::now(); }
  std::unique_ptr<Timer> MakeTimer(const Executor& executor) override {
    return std::make_unique<RealTimer>(executor);
  }

 private:
  const ClockGetTime clock_get_time_ = FindClockGetTime();
};

class RealRandom final : public Random {
 public:
  std::uint64_t Next() override {
    std::uint64_t bits = 0;
    if (::getrandom(&bits, sizeof bits, 0) != sizeof bits)
      AssertionFailed("getrandom", __FILE__, __LINE__);
    return bits;
  }
};

class RealFiles final : public Files {
 public:
  Result<std::string> Read(const std::string& path, std::uint64_t bytes_max) override {
    std::ifstream file(path, std::ios::binary);
    if (!file) return Fail(ErrorId::kFileAccess, "cannot open " + path, errno);
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored))
      return Fail(ErrorId::kFileAccess, path + " is a directory");
    std::string content;
    std::array<char, 65536> block{};
    while (file.read(block.data(), block.size()) || file.gcount() > 0) {
      content.append(block.data(), static_cast<std::size_t>(file.gcount()));
      if (content.size() > bytes_max) {
        return Fail(ErrorId::kFileAccess,
                    fmt::format("{} is larger than {} bytes", path, bytes_max));
      }
    }
    return content;
  }
  Status Write(const std::string& path, std::string_view content) override {
    const std::string beside = fmt::format("{}.{}.tmp", path, ::getpid());
    {
      std::ofstream file(beside, std::ios::binary | std::ios::trunc);
      file.write(content.data(), static_cast<std::streamsize>(content.size()));
      file.flush();
      if (!file) {
        const int cause = errno;
        ::unlink(beside.c_str());
        return Fail(ErrorId::kFileAccess, "cannot write " + path, cause);
      }
    }
    if (::rename(beside.c_str(), path.c_str()) != 0) {
      const int cause = errno;
      ::unlink(beside.c_str());
      return Fail(ErrorId::kFileAccess, "cannot replace " + path, cause);
    }
    return {};
  }
};

class RealThreads final : public Threads {
 public:
  std::unique_ptr<Worker> MakeWorker(WorkerUrgency urgency) override {
    return std::make_unique<ThreadWorker>(urgency);
  }
};

// A loop and its thread; the work guard keeps it waiting while there is nothing to do.
class LoopThread {
 public:
  LoopThread() : guard_(context_.get_executor()), thread_([this] { context_.run(); }) {}
  ~LoopThread() { Join(); }
  void Stop() { context_.stop(); }
  void Join() {
    Stop();
    if (thread_.joinable()) thread_.join();
  }
  /// After Join(): runs what is ready, on the calling thread, and tells whether there was anything.
  bool RunReady() {
    constexpr int kOnceMax = 1000;  // the other loop gets its turn
    context_.restart();
    int count = 0;
    while (count < kOnceMax && context_.poll_one() > 0) ++count;
    return count > 0;
  }
  asio::io_context& context() { return context_; }

 private:
  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::thread thread_;
};

// Of both loops at the end. One that is not quiet by then has a coroutine that never sleeps.
constexpr int kLastTurnsMax = 1000;

}  // namespace

struct RealWorld::Impl {
  bool stopped = false;
  RealClock clock;
  RealRandom random;
  std::unique_ptr<Network> network = MakeRealNetwork(clock);
  RealFiles files;
  RealThreads threads;
  LoopThread control;
  LoopThread data;
  asio::signal_set signals{control.context()};
  World world{clock,
              random,
              *network,
              files,
              threads,
              control.context().get_executor(),
              data.context().get_executor()};

  void WaitForSignal(std::function<void()> call) {
    signals.async_wait([this, call = std::move(call)](const error_code& code, int) {
      if (code) return;
      call();
      WaitForSignal(call);
    });
  }
};

RealWorld::RealWorld() : impl_(std::make_unique<Impl>()) {}
RealWorld::~RealWorld() { Stop(); }

World& RealWorld::world() noexcept { return impl_->world; }

void RealWorld::OnStopSignal(std::function<void()> call) {
  std::promise<void> set;
  Post(impl_->world.control, [impl = impl_.get(), call = std::move(call), &set]() mutable {
    error_code ignored;
    impl->signals.add(SIGINT, ignored);
    impl->signals.add(SIGTERM, ignored);
    impl->WaitForSignal(std::move(call));
    set.set_value();
  });
  set.get_future().wait();  // whoever hears that the process is ready may send one
}

void RealWorld::Stop() {
  impl_->data.Join();
  impl_->control.Join();
  if (std::exchange(impl_->stopped, true)) return;
  // What was asked of the loops before, above all to close: a coroutine that waits for another one
  // is freed by nobody else.
  for (int turns = kLastTurnsMax; turns > 0; --turns) {
    const bool data = impl_->data.RunReady();
    const bool control = impl_->control.RunReady();
    if (!data && !control) break;
  }
}

void YieldToEverybody() noexcept {
  // Not SCHED_IDLE: on a busy machine that may mean seconds without a look at whether to stop.
  constexpr int kNicest = 19;
  static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNicest));
}

Duration ProcessCpuTime() noexcept {
  timespec spent{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
}

std::string ReadEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

}  // namespace mooncake
