// SPDX-License-Identifier: Apache-2.0
#include "base/late_library.h"

#include "base/error.h"

#include <dlfcn.h>

namespace kvmport {

void* late_symbol(const char* library, const char* function) {
  void* const handle = ::dlopen(library, RTLD_LAZY | RTLD_LOCAL); // counts, and is never closed
  void* const symbol = handle != nullptr ? ::dlsym(handle, function) : nullptr;
  if (symbol == nullptr) {
    const char* why = ::dlerror();
    throw Error("LIBRARY_MISSING", std::string(library) + " can't be used", why != nullptr ? why : "",
                "install the package that holds it");
  }
  return symbol;
}

} // namespace kvmport
