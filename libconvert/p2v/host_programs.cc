// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/host_programs.h"

#include "base/error.h"
#include "base/process.h"

#include <sstream>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr const char* linker = "/lib64/ld-linux-x86-64.so.2";

std::string place_of(const fs::path& library) {
  const std::string name = library.lexically_normal().string().substr(1);
  return name.starts_with("lib") ? "usr/" + name : name;
}

} // namespace

std::set<fs::path> libraries_of(const fs::path& program) {
  // As ldd asks first: 1 is a static program, which --list would run into.
  if (run_process({linker, "--verify", program}, std::chrono::minutes(1)).exit_code == 1)
    return {};
  // No variant of a library for this host's own processor: the medium runs on another.
  const ProcessResult r =
      run_process({linker, "--glibc-hwcaps-mask", "none", "--list", program}, std::chrono::minutes(1));
  if (r.exit_code != 0)
    throw Error("PROGRAM_MISSING", program.string() + ": its libraries can't be found", r.err.substr(0, 300));
  std::set<fs::path> out;
  std::istringstream text(r.out);
  // "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "\t/lib64/ld-linux-x86-64.so.2 (0x…)", "\tlinux-vdso.so.1
  // (0x…)"
  for (std::string line; std::getline(text, line);) {
    if (line.find("=> not found") != line.npos)
      throw Error("PROGRAM_MISSING", program.string() + ": a library is missing", line);
    const auto begin = line.find('/'), end = line.rfind(" (0x");
    if (begin != line.npos && end != line.npos && begin < end)
      out.emplace(line.substr(begin, end - begin));
  }
  if (!out.empty())
    out.emplace(linker);
  return out;
}

void add_program(InitramfsTreeWriter& tree, const fs::path& program, const std::string& name) {
  tree.copy("usr/bin/" + name, program, 0755);
  for (const auto& library : libraries_of(program))
    tree.copy(place_of(library), library, 0755);
}

void add_library_if_there(InitramfsTreeWriter& tree, const fs::path& library) {
  if (!fs::exists(library))
    return;
  tree.copy(place_of(library), library, 0755);
  for (const auto& other : libraries_of(library))
    tree.copy(place_of(other), other, 0755);
}

} // namespace kvmport
