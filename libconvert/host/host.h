// SPDX-License-Identifier: Apache-2.0
// Is this host fit for KVM? What its kernel says of itself, judged line by line. Facts are read below a root, as the
// inventory of a physical machine is; whether /dev/kvm is really fast is the probe's word (kvmboot/probe.h), which runs
// instructions on it: processor flags of nested and software KVMs can't be trusted.
#pragma once

#include "kvmboot/probe.h"
#include "libconvert/p2v/inventory.h"

#include <filesystem>
#include <string>
#include <vector>

namespace kvmport {

struct HugePages {
  std::uint64_t size = 0; ///< bytes of one
  std::uint64_t total = 0, free = 0;
};

struct HostFacts {
  CpuInventory cpu;
  std::string extension;                             ///< "VT-x", "AMD-V"; empty: the processor shows none
  std::string paging;                                ///< "EPT", "NPT"; empty: none
  bool paging_off = false;                           ///< the kernel was told not to use it
  std::vector<std::string> kvm_modules;              ///< "kvm_intel", "kvm_amd", or of other implementations
  bool guest = false;                                ///< this host is a virtual machine itself
  std::string hypervisor;                            ///< whose; may be empty
  std::uint64_t memory = 0, available = 0, swap = 0; ///< bytes
  std::vector<HugePages> huge_pages;                 ///< of each size that the kernel keeps
  std::string transparent_huge_pages;                ///< "always", "madvise", "never"; empty: unknown
};

/// Errors: NOT_FOUND as read_inventory().
HostFacts read_host(const std::filesystem::path& root = "/");

enum class Verdict { ok, warning, bad };
/// "ok", "warning", and for `bad` what the table calls it.
const char* to_string(Verdict verdict, const char* bad);

struct HostCheck {
  std::string name; ///< "processor", "paging", "kvm", …
  Verdict verdict = Verdict::ok;
  std::string text; ///< what was found
  std::string hint; ///< what to do; empty: nothing
};

/// Processor, paging, KVM, nesting, topology, memory, huge pages.
std::vector<HostCheck> check_hardware(const HostFacts& facts, const Probe& probe);

/// Programs, firmware, libguestfs (its library; no appliance is started), and the connection to libvirt. With `libvirt`
/// empty nobody is connected to.
std::vector<HostCheck> check_software(const std::string& libvirt);

/// A filesystem, for a directory that may not be there yet.
struct FilesystemSpace {
  std::string mount; ///< where it is mounted
  std::uint64_t size = 0, free = 0;
};
/// Error NOT_FOUND when not even a parent is there.
FilesystemSpace filesystem_of(const std::filesystem::path& path);

/// Free space of the filesystem for results and of that for temporary files.
std::vector<HostCheck> check_space(const std::filesystem::path& output, const std::filesystem::path& temporary);

} // namespace kvmport
