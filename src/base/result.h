// Result<T>: a value, or an Error that tells its reader what to do.
//
// An error has a stable id ("E005") from the one catalogue in error_catalogue.cc, which holds its
// title and its remedy; the place that decides which error it is adds the context only it knows.
// MC_TRY passes errors up.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace mooncake {

/// What a caller does about an error. Callers branch on this, never on text.
enum class Errc : std::uint8_t {
  kInvalidArgument,  ///< A bug or bad input: never retry.
  kNotFound,         ///< An answer rather than a failure.
  kNoSpace,          ///< An answer rather than a failure: free something, or refuse.
  kTryAgain,         ///< Busy: make progress, repeat the same call.
  kPeerGone,         ///< This peer is dead or unreachable: reconnect; others are fine.
  kUnavailable,  ///< A service that we depend on does not answer: keep what is known, retry later.
  kUnknownOutcome,  ///< Timed out: the remote write may still land, so quarantine its target.
  kCancelled,       ///< The caller asked for it; buffers are no longer touched.
  kDenied,          ///< No right to do this: never retry with the same credentials.
  kCorrupt,         ///< Checksum or format: never retry, never cache.
  kUnsupported,     ///< Not on this machine or with this peer: use another way.
  kInternal,        ///< Our own bug, caught.
};

/// Stable: a number is never reused. 0xx start and configuration, 1xx peers and connections, 2xx
/// moving bytes, 3xx memory, 5xx instances, 9xx our own faults. The catalogue has a row for each.
enum class ErrorId : std::uint16_t {
  kUnknownOption = 1,
  kBadOptionValue = 2,
  kWrongService = 3,
  kBadAddress = 4,
  kPortTaken = 5,
  kAddressNotOurs = 6,
  kDirectoryUnreachable = 7,
  kBadConfigFile = 8,
  kDirectoryRefused = 9,
  kDirectoryIsUs = 10,
  kDirectoryTimeout = 11,
  kDirectoryGarbage = 12,
  kUsage = 13,
  kFileAccess = 14,
  kBadTrace = 15,
  kListenFailed = 16,
  kUnknownModel = 17,
  kDirectoryDenied = 18,
  kBadCredentials = 19,
  kNotInitialized = 20,
  kPeerGone = 101,
  kConnectRefused = 102,
  kConnectTimeout = 103,
  kConnectionClosed = 104,
  kBadFrame = 105,
  kFrameTooLarge = 106,
  kVersionMismatch = 107,
  kDeadline = 108,
  kPeerBusy = 109,
  kNotFound = 110,
  kWrongPeer = 111,
  kUnknownMethod = 112,
  kNetwork = 113,
  kBadHttp = 114,
  kClosed = 115,
  kTlsFailed = 116,
  kNotProven = 117,
  kNoDescriptors = 118,
  kCancelled = 201,
  kNoPath = 202,
  kPathFailed = 203,
  kPathUnusable = 204,
  kChecksum = 205,
  kNoRdma = 206,
  kRdmaDevice = 207,
  kRdmaCall = 208,
  kQueuePairBudget = 209,
  kGpuCall = 210,
  kBadRegionKey = 301,
  kOutOfRegion = 302,
  kRegionExists = 303,
  kRegionUnknown = 304,
  kMemoryShortage = 305,
  kMapFailed = 306,
  kNotRegistered = 307,
  kBadRange = 308,
  kMemoryKind = 309,
  kMemoryLock = 310,
  kNoPartner = 501,
  kQueueFull = 502,
  kKvFull = 503,
  kBadRequest = 504,
  kPrefillFailed = 505,
  kDraining = 506,
  kWrongAnswer = 507,
  kClientGone = 508,
  kNoInstance = 509,
  kNotAnInstance = 510,
  kInternal = 901,
};

/// One row of the catalogue.
struct ErrorEntry {
  ErrorId id;
  Errc code;
  std::string_view title;   ///< What failed, a clause without a full stop.
  std::string_view remedy;  ///< One thing to do, an imperative sentence.
};

/// The row of `id`. Total: every enumerator has one (a test walks them).
[[nodiscard]] const ErrorEntry& FindError(ErrorId id) noexcept;

struct Error {
  ErrorId id = ErrorId::kInternal;
  std::string context;  ///< What failed, between whom, the cause found, how we know.
  int os_error = 0;     ///< errno where there was one, else 0.

  [[nodiscard]] Errc code() const noexcept { return FindError(id).code; }
  /// "E005 port is taken: 0.0.0.0:7700 is held by pid 4121 (mooncake). Do: …"
  [[nodiscard]] std::string Text() const;
  /// As a part of another error's context: "E005 0.0.0.0:7700 is held by …", without the rest.
  [[nodiscard]] std::string Brief() const;
};

/// "E005".
[[nodiscard]] std::string ErrorName(ErrorId id);

template <class T>
struct [[nodiscard]] Result : tl::expected<T, Error> {
  using tl::expected<T, Error>::expected;
};

using Status = Result<void>;

// Cold: what leads to them lies apart from the code that runs every time.
[[nodiscard, gnu::cold]] inline tl::unexpected<Error> Fail(ErrorId id, std::string context,
                                                           int os_error = 0) {
  return tl::unexpected<Error>(Error{id, std::move(context), os_error});
}
[[nodiscard, gnu::cold]] inline tl::unexpected<Error> Fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}
/// The same error with "`prefix`: " before its context.
[[nodiscard]] Error Within(std::string_view prefix, Error error);
/// "Connection refused [111]".
[[nodiscard]] std::string ErrnoText(int os_error);

}  // namespace mooncake

#define MC_CONCAT_INNER(a, b) a##b
#define MC_CONCAT(a, b) MC_CONCAT_INNER(a, b)

/// MC_TRY(const int x, F());  or  MC_TRY_STATUS(F());  The only macros that hide a `return`. In
/// coroutines: MC_CO_TRY.
#define MC_TRY_IMPL(ret, tmp, declaration, ...)           \
  auto tmp = (__VA_ARGS__);                               \
  if (!tmp) ret ::mooncake::Fail(std::move(tmp).error()); \
  declaration = std::move(tmp).value()
#define MC_TRY(declaration, ...) \
  MC_TRY_IMPL(return, MC_CONCAT(mc_try_, __COUNTER__), declaration, __VA_ARGS__)
#define MC_CO_TRY(declaration, ...) \
  MC_TRY_IMPL(co_return, MC_CONCAT(mc_try_, __COUNTER__), declaration, __VA_ARGS__)
#define MC_TRY_STATUS_IMPL(ret, tmp, ...) \
  if (auto tmp = (__VA_ARGS__); !tmp) ret ::mooncake::Fail(std::move(tmp).error())
#define MC_TRY_STATUS(...) MC_TRY_STATUS_IMPL(return, MC_CONCAT(mc_try_, __COUNTER__), __VA_ARGS__)
#define MC_CO_TRY_STATUS(...) \
  MC_TRY_STATUS_IMPL(co_return, MC_CONCAT(mc_try_, __COUNTER__), __VA_ARGS__)
