#include "base/log.h"

#include <pthread.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "base/assert.h"

namespace mooncake {
namespace {

constexpr std::size_t kKeptMax = 1000;

// The process has one stderr, so it has one logger: the only state of base that is not an argument.
struct Sink {
  Sink() : logger("mooncake", std::make_shared<spdlog::sinks::stderr_sink_st>()) {
    logger.set_level(spdlog::level::trace);
    logger.set_pattern("%H:%M:%S.%e %L %v");
  }
  spdlog::logger logger;  // guarded by mutex
  std::atomic<int> level{static_cast<int>(LogLevel::kInfo)};
  std::atomic<bool> keep{false};
  std::mutex mutex;
  std::vector<std::string> kept;  // guarded by mutex
};

Sink& TheSink() {
  // Never destroyed: threads may log while the process exits. A child is forked with the lock free,
  // whatever other threads of its parent were about to say.
  static Sink* sink = [] {
    ::pthread_atfork([] { TheSink().mutex.lock(); }, [] { TheSink().mutex.unlock(); },
                     [] { TheSink().mutex.unlock(); });
    return new Sink;
  }();
  return *sink;
}

constexpr std::array<std::string_view, 5> kNames = {"debug", "info", "warn", "error", "off"};

}  // namespace

void SetLogLevel(LogLevel level) noexcept { TheSink().level = static_cast<int>(level); }

bool SetLogLevel(std::string_view name) noexcept {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) {
      SetLogLevel(static_cast<LogLevel>(i));
      return true;
    }
  }
  return false;
}

bool LogEnabled(LogLevel level) noexcept {
  return static_cast<int>(level) >= TheSink().level.load(std::memory_order_relaxed);
}

void LogLine(LogLevel level, std::string_view text) {
  Sink& sink = TheSink();
  const std::lock_guard lock(sink.mutex);
  if (level >= LogLevel::kWarn && sink.keep) {
    if (sink.kept.size() < kKeptMax) sink.kept.emplace_back(text);
    return;
  }
  constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                  spdlog::level::err};
  sink.logger.log(kLevels.at(static_cast<std::size_t>(level)), "{}", text);
}

void KeepWarnings() { TheSink().keep = true; }

std::vector<std::string> TakeWarnings() {
  Sink& sink = TheSink();
  const std::lock_guard lock(sink.mutex);
  return std::exchange(sink.kept, {});
}

void AssertionFailed(const char* expression, const char* file, int line) noexcept {
  Sink& sink = TheSink();
  const std::unique_lock lock(sink.mutex, std::try_to_lock);  // the assertion may be its holder's
  sink.logger.critical("assertion failed: {} at {}:{}", expression, file, line);
  std::abort();
}

}  // namespace mooncake
