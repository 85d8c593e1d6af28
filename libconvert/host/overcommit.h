// SPDX-License-Identifier: Apache-2.0
// Do the machines of this host, and those that are about to come, fit? What they may take at most against what is
// there: processors, memory, and for each filesystem what thin-provisioned disks may still grow by.
#pragma once

#include "libconvert/host/host.h"
#include "libconvert/machine/machine.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

struct DiskDemand {
  std::filesystem::path file;
  std::uint64_t virtual_size = 0;
  std::uint64_t allocated = 0; ///< bytes that it takes already
  /// How much larger it may still become.
  std::uint64_t growth() const { return virtual_size > allocated ? virtual_size - allocated : 0; }
};

/// What one machine may take at most.
struct Demand {
  std::string name;
  bool planned = false; ///< not here yet
  unsigned processors = 1;
  std::uint64_t memory = 0; ///< bytes
  std::vector<DiskDemand> disks;
  std::vector<std::string> notes; ///< what could not be counted
};

/// Of a domain that libvirt describes. Its disks are looked at; blocks and network disks are not counted: they don't
/// grow on a filesystem. Error DESCRIPTION_INVALID.
Demand domain_demand(const std::string& xml);
/// Of a machine that a conversion would write to `output`.
Demand planned_demand(const Machine& machine, const std::filesystem::path& output);

/// What the host has.
struct HostCapacity {
  unsigned processors = 1;  ///< threads that are online
  std::uint64_t memory = 0; ///< bytes
  /// The filesystem of a file that may not be there yet; nothing: not to be found.
  std::function<std::optional<FilesystemSpace>(const std::filesystem::path&)> filesystem;
};

struct OvercommitRow {
  std::string resource;                ///< "processors", "memory", "disk"
  std::string where;                   ///< mount point of a filesystem, name of a machine that is too large; else empty
  std::uint64_t wanted = 0, there = 0; ///< threads, or bytes
  Verdict verdict = Verdict::ok;
  std::string text; ///< why
};

/// Processors: ok up to one a thread, "over" from four on, or when one machine has more than the host. Memory: ok up to
/// what leaves the host 5 % and at least 1 GiB, over beyond all of it. Disk: ok while what disks may grow by is at most
/// four fifths of what is free, over when it is more than that.
std::vector<OvercommitRow> judge_overcommit(const std::vector<Demand>& demands, const HostCapacity& capacity);

} // namespace kvmport
