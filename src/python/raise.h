// Errors of ours as exceptions of mooncake.errors: the one place where they become that.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "base/result.h"
#include "drop_in/report.h"
#include "python/without_gil.h"

namespace mooncake::python {

[[nodiscard]] pybind11::object ToException(const Error& error);
[[noreturn]] void Raise(const Error& error);

/// What `call` returns, called without the interpreter's lock; what it reports is raised.
template <class Call>
auto Checked(Call&& call) {
  std::optional<Error> failure;
  const auto run = [&] {
    const WithoutGil waiting;
    const drop_in::CaughtError caught;
    auto outcome = call();
    failure = caught.error();
    return outcome;
  };
  auto outcome = run();
  if (failure) Raise(*failure);
  return outcome;
}

}  // namespace mooncake::python
