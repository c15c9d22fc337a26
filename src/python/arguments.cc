#include "python/arguments.h"

#include <string_view>

namespace mooncake::python {
namespace {

namespace py = pybind11;

enum class Reading { kValue, kOutOfRange, kNoInteger };

Reading Read(PyObject* item, std::uint64_t& value) {
  PyObject* integer = item;
  py::object owned;
  if (!PyLong_CheckExact(item)) {
    owned = py::reinterpret_steal<py::object>(PyNumber_Index(item));
    if (!owned) {
      PyErr_Clear();
      return Reading::kNoInteger;
    }
    integer = owned.ptr();
  }
  value = PyLong_AsUnsignedLongLong(integer);
  if (value != ~std::uint64_t{0} || PyErr_Occurred() == nullptr) return Reading::kValue;
  PyErr_Clear();
  return Reading::kOutOfRange;
}

// 64-bit integers in the machine's own byte order; the sign makes no difference for an address.
bool IsWords(const py::buffer_info& array) {
  std::string_view format = array.format;
  if (!format.empty() && (format.front() == '@' || format.front() == '=' || format.front() == '<'))
    format.remove_prefix(1);
  return array.ndim == 1 && array.itemsize == sizeof(std::uint64_t) && format.size() == 1 &&
         std::string_view("QqLlNn").find(format.front()) != std::string_view::npos &&
         (array.size <= 1 || array.strides[0] == sizeof(std::uint64_t));
}

}  // namespace

bool Numbers::Load(py::handle source) {
  if (PyList_Check(source.ptr()) || PyTuple_Check(source.ptr())) return LoadSequence(source);
  return LoadArray(source) || LoadSequence(source);
}

bool Numbers::LoadArray(py::handle source) {
  if (!PyObject_CheckBuffer(source.ptr())) return false;
  try {
    py::buffer_info array = py::reinterpret_borrow<py::buffer>(source).request();
    if (!IsWords(array)) return false;
    array_ = std::move(array);
  } catch (const py::error_already_set&) {
    return false;  // a buffer that cannot be shown as an array: perhaps it is a sequence
  }
  values_ = {static_cast<const std::uint64_t*>(array_->ptr),
             static_cast<std::size_t>(array_->size)};
  return true;
}

bool Numbers::LoadSequence(py::handle source) {
  if (!PySequence_Check(source.ptr()) || PyUnicode_Check(source.ptr()) ||
      PyBytes_Check(source.ptr()))
    return false;
  const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(source.ptr(), ""));
  if (!items) {
    PyErr_Clear();
    return false;
  }
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.ptr());
  copied_.reserve(static_cast<std::size_t>(count));
  // Asked anew each time: an element's __index__ may change the list.
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.ptr()); ++i) {
    if (!Add(PySequence_Fast_GET_ITEM(items.ptr(), i))) return false;
  }
  values_ = copied_;
  return true;
}

bool Numbers::Add(PyObject* item) {
  const auto held = pybind11::reinterpret_borrow<pybind11::object>(item);
  std::uint64_t value = 0;
  const Reading reading = Read(held.ptr(), value);
  if (reading == Reading::kOutOfRange) out_of_range_ = true;
  copied_.push_back(value);
  return reading != Reading::kNoInteger;
}

}  // namespace mooncake::python

namespace pybind11::detail {

bool type_caster<mooncake::python::Number>::load(handle source, bool) {
  std::uint64_t number = 0;
  switch (mooncake::python::Read(source.ptr(), number)) {
    case mooncake::python::Reading::kValue:
      value.value = number;
      return true;
    case mooncake::python::Reading::kOutOfRange:
      return true;
    case mooncake::python::Reading::kNoInteger:
      break;
  }
  return false;
}

}  // namespace pybind11::detail
