// SPDX-License-Identifier: Apache-2.0
// What is appended to an initramfs: a cpio archive with kernel modules, fresh indexes over old and new modules (cut
// from the guest's, or made by depmod on a staged directory, never in the guest) and what the initramfs' own scripts
// read to load them.
#pragma once

#include "libconvert/guest/linux/initramfs_image.h"
#include "libconvert/guest/linux/modules.h"

#include <string>
#include <utility>
#include <vector>

namespace kvmport::linux_guest {

/// Who made an initramfs, as far as its loading of drivers differs.
enum class InitramfsFramework {
  initramfs_tools, ///< Debian: conf/modules and udev
  dracut,          ///< udev
  mkinitcpio,      ///< Arch: config and udev
  mkinitfs,        ///< Alpine: nlplug-findfs loads by modalias
  coldplug,        ///< another one with udev or mdev: loads by modalias
  unknown,         ///< nothing that would load a driver that its script doesn't name
};
InitramfsFramework initramfs_framework(const InitramfsTree& tree);
std::string to_string(InitramfsFramework framework);

/// Where an initramfs keeps the modules of a version ("usr/lib/modules/6.1.0"), links resolved.
std::string initramfs_modules_directory(const InitramfsTree& tree, const std::string& version);
/// The names of the modules that it holds.
std::set<std::string> initramfs_modules(const InitramfsTree& tree, const std::string& directory);

struct InitramfsAddition {
  std::vector<std::string> modules;                       ///< names, dependencies included
  std::vector<std::pair<std::string, std::string>> files; ///< name in the initramfs, content
};

/// The cpio archive. `image` is the whole initramfs, for its modules. Errors: PROGRAM_MISSING (depmod),
/// INITRAMFS_UNREADABLE, MODULES_UNREADABLE.
std::string build_initramfs_part(const InitramfsTree& tree, std::string_view image, const Draft& draft,
                                 const Kernel& kernel, const KernelModules& modules, const InitramfsAddition& addition);

/// Appends `part` to the initramfs `path`, whose bytes are `image` and which a kernel of `version` unpacks. Nothing of
/// the old file is changed, unless that kernel takes nothing after an lz4 stream: then a copy is put beside it and the
/// last part packed anew.
void append_to_initramfs(const std::string& path, const std::string& version, const std::string& image,
                         const std::vector<InitramfsPart>& parts, const std::string& part, const std::string& reason,
                         Draft& draft);

/// The framework's list of modules to load, with `names` added: file name and new content; empty: it needs none.
std::vector<std::pair<std::string, std::string>>
initramfs_loader_files(const InitramfsTree& tree, InitramfsFramework framework, const std::vector<std::string>& names);
/// Whose contents these functions need.
bool is_loader_file(const std::string& name);

} // namespace kvmport::linux_guest
