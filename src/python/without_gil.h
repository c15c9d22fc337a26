// Calls that may wait let other Python threads run meanwhile.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace mooncake::python {

[[nodiscard]] inline bool InterpreterEnds() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

/// Gives the interpreter's lock away and takes it back at the end. Where the interpreter has begun
/// to end meanwhile, there is nothing to come back to: CPython would unwind this thread, through
/// frames that do not allow it, so it rests until the process is gone. pybind11::gil_scoped_release
/// does not know of that.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    while (InterpreterEnds()) ::pause();
    PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace mooncake::python
