// Where a failed call of the facade says why: in the log, or to whoever catches it.
#pragma once

#include <optional>
#include <string_view>

#include "base/result.h"

namespace mooncake::drop_in {

/// While one lives, what calls of its thread fail of is kept here instead of being logged. Lives on
/// the stack; the innermost one catches.
class CaughtError {
 public:
  CaughtError() noexcept;
  ~CaughtError();
  CaughtError(const CaughtError&) = delete;
  CaughtError& operator=(const CaughtError&) = delete;

  /// The first: later ones come from cleaning up after it.
  [[nodiscard]] const std::optional<Error>& error() const noexcept { return error_; }

 private:
  friend int Report(std::string_view what, const Error& error);
  CaughtError* const outer_;
  std::optional<Error> error_;
};

/// For the facade: says why a call has failed, once. Returns kFailed.
int Report(std::string_view what, const Error& error);

}  // namespace mooncake::drop_in
