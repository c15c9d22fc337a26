#include "python/raise.h"

namespace mooncake::python {
namespace {

namespace py = pybind11;

// Keys of mooncake.errors._CLASSES.
const char* NameOf(Errc code) {
  switch (code) {
    case Errc::kInvalidArgument:
      return "invalid argument";
    case Errc::kNotFound:
      return "not found";
    case Errc::kNoSpace:
      return "no space";
    case Errc::kTryAgain:
      return "try again";
    case Errc::kPeerGone:
      return "peer gone";
    case Errc::kUnavailable:
      return "unavailable";
    case Errc::kUnknownOutcome:
      return "unknown outcome";
    case Errc::kCancelled:
      return "cancelled";
    case Errc::kDenied:
      return "denied";
    case Errc::kCorrupt:
      return "corrupt";
    case Errc::kUnsupported:
      return "unsupported";
    case Errc::kInternal:
      break;
  }
  return "internal";
}

}  // namespace

py::object ToException(const Error& error) {
  const ErrorEntry& entry = FindError(error.id);
  return py::module_::import("mooncake.errors")
      .attr("_make")(NameOf(entry.code), ErrorName(error.id), entry.title, error.context,
                     entry.remedy, error.Text());
}

void Raise(const Error& error) {
  const py::object exception = ToException(error);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw py::error_already_set();
}

}  // namespace mooncake::python
