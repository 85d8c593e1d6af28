// SPDX-License-Identifier: Apache-2.0
// What the mounted tree tells about itself: what to mount where, which distribution, processor and firmware.
#pragma once

#include "libconvert/guest/filesystem.h"
#include "libconvert/guest/guest.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

struct FstabEntry {
  std::string spec, path, type, options;
  std::size_t line = 0; ///< from 1
};

std::vector<FstabEntry> parse_fstab(std::string_view text);
/// Whether a filesystem holds anything that the conversion looks at; data filesystems are left alone.
bool needed_mount(const FstabEntry& entry);
/// The options that mounting needs ("subvol=@"), free of those that only the running guest means.
std::string mount_options(const FstabEntry& entry);

/// Where an EFI system partition that fstab doesn't name is mounted: where systemd would, or in an empty directory;
/// empty: no place.
std::string place_for_esp(const GuestFilesystem& guest, const std::vector<Mount>& mounts);
bool is_esp(const BlockDevice& device);
bool is_extended_boot(const BlockDevice& device); ///< XBOOTLDR partition
bool is_bios_boot(const BlockDevice& device);
/// True when the ESP mounted at `path` holds a boot loader.
bool has_efi_loader(const GuestFilesystem& guest, const std::string& path);

/// distro, version, pretty_name, like, arch and packages of a mounted tree.
void read_identity(const GuestFilesystem& guest, GuestInfo& info);
/// boot_loaders of a mounted tree, by their configuration; wants esp_path.
void read_boot_loaders(const GuestFilesystem& guest, GuestInfo& info);
/// Gives opened LUKS devices the names of /etc/crypttab. `underlying` finds the source name of the device below.
std::string crypttab_name(const GuestFilesystem& guest, const GuestInfo& info, const BlockDevice& container);

} // namespace kvmport
