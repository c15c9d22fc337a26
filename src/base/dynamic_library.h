// Functions of a library that is opened at run time, so that the program runs where it is absent.
#pragma once

#include <dlfcn.h>

namespace mooncake {

/// The library stays loaded: drivers keep threads and handlers.
struct DynamicLibrary {
  void* handle = nullptr;  ///< As dlopen() gives it.

  /// False: the library has no such function; dlerror() says so in words.
  template <class Function>
  [[nodiscard]] bool Take(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    return function != nullptr;
  }
};

}  // namespace mooncake
