// SPDX-License-Identifier: Apache-2.0
// Programs of this host with the shared libraries that they load, for the boot medium. The dynamic linker itself is
// asked (its --list, which ldd calls): so what a program gets there is what it gets here.
#pragma once

#include "libconvert/p2v/initramfs_writer.h"

#include <filesystem>
#include <set>
#include <string>

namespace kvmport {

/// Paths of the libraries and of the dynamic linker, as the program names them; none for a static program. The program
/// must be one of this host that is trusted. Errors: PROGRAM_MISSING (a library is missing).
std::set<std::filesystem::path> libraries_of(const std::filesystem::path& program);

/// Puts `program` at usr/bin/NAME and its libraries where it looks for them ("/lib…" becomes "usr/lib…": the tree has
/// links as a merged /usr has them).
void add_program(InitramfsTreeWriter& tree, const std::filesystem::path& program, const std::string& name);
/// The same for a library that is loaded by name at run time; nothing when it is not there.
void add_library_if_there(InitramfsTreeWriter& tree, const std::filesystem::path& library);

} // namespace kvmport
