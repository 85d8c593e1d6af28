// SPDX-License-Identifier: Apache-2.0
// Where boot loaders keep their configuration, and the kernel command lines inside it: one way to find and edit them in
// GRUB 2, GRUB legacy, Boot Loader Specification entries (systemd-boot, Fedora), syslinux/extlinux and rEFInd, and in
// the files that the guest's own tools make these from.
#pragma once

#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::linux_guest {

enum class BootConfigKind {
  grub2,        ///< grub.cfg and what it may source
  grub_env,     ///< grubenv: a block of fixed size with NAME=value lines
  grub_legacy,  ///< menu.lst, grub.conf
  loader_entry, ///< loader/entries/*.conf
  syslinux,     ///< extlinux.conf, syslinux.cfg and what they include
  refind,       ///< refind.conf, refind_linux.conf
  cmdline_file, ///< /etc/kernel/cmdline: the file is the command line
  shell_vars,   ///< /etc/default/grub and the like: NAME="…"
};

struct BootConfig {
  BootConfigKind kind;
  std::string path; ///< links resolved
};

/// A kernel command line inside a configuration.
struct KernelArgs {
  enum class Where {
    entry,    ///< of a menu entry
    variable, ///< a variable that entries, or the tools that write entries, put in
  };
  Where where = Where::entry;
  std::string name;       ///< of the variable
  bool has_initrd = true; ///< the entry loads an initramfs
  std::size_t line = 0;   ///< from 1
};

/// What boot loaders read, in the order in which they were looked for.
std::vector<BootConfig> find_boot_configs(const GuestInfo& info, const Draft& draft);
/// What the guest's tools read when they write boot loader configuration anew.
std::vector<BootConfig> find_cmdline_sources(const Draft& draft);
/// Where find_boot_configs() looks, for people.
std::string boot_config_places();
/// Unified kernel images: kernel, initramfs and command line in one signed EFI program.
std::vector<std::string> find_unified_kernels(const GuestInfo& info, const Draft& draft);
/// Directories where an EFI system partition is mounted, `info.esp_path` first.
std::vector<std::string> esp_directories(const GuestInfo& info, const Draft& draft);
/// The path of `relative` below `directory` as it is really spelled, compared without regard to case (FAT); empty:
/// none.
std::string find_nocase(const Draft& draft, const std::string& directory, std::string_view relative);

/// Calls `edit` for every kernel command line in `text`; what it leaves in `args` replaces it. All else stays byte for
/// byte, grubenv keeps its size (Error GUEST_UNSUPPORTED when the new values don't fit).
using ArgsEdit = std::function<void(std::string& args, const KernelArgs& about)>;
std::string edit_kernel_args(BootConfigKind kind, std::string_view text, const ArgsEdit& edit);

/// The same for a file of the guest: reads, edits and writes it when something changed.
void edit_boot_config(const BootConfig& config, Draft& draft, const std::string& reason, const ArgsEdit& edit);

} // namespace kvmport::linux_guest
