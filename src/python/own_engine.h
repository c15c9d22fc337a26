// The part of the extension module that mooncake.Engine is made of: as TransferEngine, but
// failures are exceptions, and what is under way can be awaited.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "drop_in/transfer_engine.h"

namespace mooncake::python {

using InnerPtr = std::shared_ptr<drop_in::TransferEngine>;

/// An engine that may be dropped with the interpreter's lock or without.
[[nodiscard]] InnerPtr MakeInner();

void BindOwnEngine(pybind11::module_& module);

}  // namespace mooncake::python
