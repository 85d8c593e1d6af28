// SPDX-License-Identifier: Apache-2.0
// Functions of a shared library that is loaded when the first of them is called. For libraries that only some runs need
// and that bring dozens of others along: loading those costs each start more than many a run's work.
#pragma once

#include <string>

namespace kvmport {

/// The address of `function` in `library` ("libguestfs.so.0"), which stays loaded. Error LIBRARY_MISSING when either is
/// not there. Safe from several threads.
void* late_symbol(const char* library, const char* function);

} // namespace kvmport

/// A function that the library's header declares, by its name alone, ready to be called.
#define KVMPORT_LATE(library, function)                                                                                \
  (reinterpret_cast<decltype(&::function)>(kvmport::late_symbol(library, #function)))
