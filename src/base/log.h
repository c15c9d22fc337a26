// Log lines: who first decides which error it is logs it, once. warn and above mean that a person
// should look.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

namespace mooncake {

enum class LogLevel : int { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3, kOff = 4 };

/// Everything below `level` is dropped. Any thread. Lines go to stderr.
void SetLogLevel(LogLevel level) noexcept;
/// "debug", "info", "warn", "error", "off"; false if it is none of them.
bool SetLogLevel(std::string_view name) noexcept;
[[nodiscard]] bool LogEnabled(LogLevel level) noexcept;
/// Use MC_LOG: it does not format what is dropped.
void LogLine(LogLevel level, std::string_view text);

/// From now on warnings and errors are kept for TakeWarnings() instead of printed. For tests.
void KeepWarnings();
/// The warnings and errors since the last call.
std::vector<std::string> TakeWarnings();

namespace log_level {
inline constexpr LogLevel debug = LogLevel::kDebug, info = LogLevel::kInfo, warn = LogLevel::kWarn,
                          error = LogLevel::kError;
}

}  // namespace mooncake

/// MC_LOG(warn, "peer {} went silent for {} s", peer, seconds);
#define MC_LOG(level, ...)                                                         \
  do {                                                                             \
    if (::mooncake::LogEnabled(::mooncake::log_level::level)) {                    \
      ::mooncake::LogLine(::mooncake::log_level::level, fmt::format(__VA_ARGS__)); \
    }                                                                              \
  } while (false)
