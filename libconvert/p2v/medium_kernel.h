// SPDX-License-Identifier: Apache-2.0
// The boot medium's kernel: Debian's own package for real hardware (not "-cloud", which has no drivers for it), and
// which of its modules the medium takes: everything that may stand between a machine and its disks, its network cards
// or its keyboard; no graphics, sound, radio.
#pragma once

#include "libconvert/guest/linux/module_indexes.h"

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// What the user named; all empty: find one.
struct KernelChoice {
  std::filesystem::path image;      ///< vmlinuz
  std::filesystem::path modules;    ///< /lib/modules/VERSION; goes with image
  std::filesystem::path package;    ///< a .deb of linux-image-VERSION-amd64
  std::filesystem::path root = "/"; ///< where boot, lib/modules and var/cache/apt/archives are looked for
};

struct MediumKernel {
  std::string version;
  std::filesystem::path image, modules;
  std::string origin; ///< for people: "installed", or the package's file
};

/// The named kernel, else the newest that is installed and readable, else the newest package in apt's cache, which is
/// unpacked into `scratch`. Errors: KERNEL_MISSING, PROGRAM_MISSING (dpkg-deb, depmod).
MediumKernel find_medium_kernel(const KernelChoice& choice, const std::filesystem::path& scratch);

/// Whether the medium takes the module at this path ("kernel/drivers/ata/ahci.ko") for its own sake.
bool wanted_on_medium(std::string_view path);

struct MediumModules {
  std::map<std::string, std::string> chosen; ///< name → path below the modules directory; dependencies included
  linux_guest::ModuleIndexes indexes;        ///< modules.dep and so on for these
};
/// Errors: MODULES_UNREADABLE, KERNEL_MISSING when drivers are missing that every kernel for real hardware has.
MediumModules choose_medium_modules(const MediumKernel& kernel);

/// Names of firmware files that a module may ask for: the "firmware=" entries of its .modinfo section, read by their
/// form from the bytes of an uncompressed module.
std::set<std::string> firmware_of_module(std::string_view module);

} // namespace kvmport
