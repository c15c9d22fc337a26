// Calls that may wait let other Python threads run meanwhile.
#pragma once

#include <cxxabi.h>
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
/// to end meanwhile, or does so while this thread waits for the lock, there is nothing to come back
/// to: CPython ends the thread by unwinding it, through frames that do not allow that, so it rests
/// until the process is gone. pybind11::gil_scoped_release does not know of that.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    if (InterpreterEnds()) Rest();
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      Rest();  // leaving this handler would end the process
    }
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  [[noreturn]] static void Rest() noexcept {
    for (;;) ::pause();
  }
  PyThreadState* state_;
};

/// For destructors, which run with the lock or without, also while the interpreter ends.
template <class Call>
void RunWithoutGil(Call&& call) {
  if (PyGILState_Check() == 0 || InterpreterEnds()) {
    call();
    return;
  }
  const WithoutGil waiting;
  call();
}

}  // namespace mooncake::python
