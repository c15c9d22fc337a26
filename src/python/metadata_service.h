// The part of the extension module that mooncake.http_metadata_server is made of.
#pragma once

#include <pybind11/pybind11.h>

namespace mooncake::python {

void BindMetadataService(pybind11::module_& module);

}  // namespace mooncake::python
