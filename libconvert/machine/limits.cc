// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/limits.h"

namespace kvmport {

std::uint64_t checked_memory(std::optional<std::uint64_t> bytes, const std::string& name) {
  if (!bytes || *bytes == 0)
    throw Error("MEMORY_MISSING", name + " does not say how much memory the machine has", {},
                "add the memory to the description");
  if (*bytes > max_memory || *bytes < (1U << 20))
    throw Error("DESCRIPTION_INVALID", name + " gives the machine an impossible amount of memory",
                std::to_string(*bytes) + " bytes");
  return *bytes;
}

MachineCpu checked_cpu(std::uint64_t count, std::uint64_t cores, std::uint64_t threads, const std::string& name,
                       std::vector<std::string>& notes) {
  if (count == 0 || count > max_cpus)
    throw Error("DESCRIPTION_INVALID", name + " gives the machine an impossible number of processors",
                std::to_string(count));
  cores = cores == 0 ? 1 : cores;
  threads = threads == 0 ? 1 : threads;
  MachineCpu cpu;
  if (cores > count || threads > count || count % (cores * threads) != 0) {
    notes.push_back("processor topology dropped: " + std::to_string(count) + " processors are not a multiple of " +
                    std::to_string(cores) + " cores of " + std::to_string(threads) + " threads");
    cpu.sockets = static_cast<unsigned>(count);
    return cpu;
  }
  cpu.cores = static_cast<unsigned>(cores);
  cpu.threads = static_cast<unsigned>(threads);
  cpu.sockets = static_cast<unsigned>(count / (cores * threads));
  return cpu;
}

} // namespace kvmport
