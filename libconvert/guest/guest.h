// SPDX-License-Identifier: Apache-2.0
// What was found inside the disks: which system, its mounted filesystems, block devices and kernels. Steps read it,
// none changes it.
#pragma once

#include "kvmboot/engine.h"
#include "libconvert/guest/filesystem.h"
#include "libconvert/machine/machine.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// A whole disk, partition, logical volume, md array or opened LUKS device that the guest can name.
struct BlockDevice {
  /// Canonical name on the source hardware: "/dev/sda1", "/dev/vg0/root", "/dev/md0", "/dev/mapper/secret".
  std::string source_name;
  int disk = -1;           ///< index into Machine::disks for disks and partitions, else -1
  unsigned partition = 0;  ///< 0: not a partition
  std::string type;        ///< "ext4", "xfs", "swap", "crypto_LUKS", "LVM2_member", "linux_raid_member", "vfat", "" …
  std::string uuid, label; ///< of the filesystem or container
  std::string part_uuid, part_label, part_type; ///< of the partition table entry; lower case
  std::string table;                            ///< of the disk that it is or lies on: "gpt", "dos", ""
  std::uint64_t size = 0;
  bool stable_name() const { return disk < 0; } ///< LVM, md and mapper names do not change with the bus
};

struct Mount {
  std::string path;        ///< "/", "/boot", …
  std::string source_name; ///< of its BlockDevice
  std::string type, options;
};

struct Kernel {
  std::string version;     ///< as in /lib/modules
  std::string image;       ///< "/boot/vmlinuz-…"; may be empty
  std::string initramfs;   ///< "/boot/initrd.img-…"; empty: none
  std::string modules_dir; ///< "/lib/modules/VERSION" with links resolved; empty: none
};

struct GuestInfo {
  Machine machine;                          ///< as the source describes it (source_name filled)
  std::string root_device;                  ///< source_name of the root filesystem
  std::string distro, version, pretty_name; ///< ID, VERSION_ID, PRETTY_NAME of os-release
  std::vector<std::string> like;            ///< ID_LIKE
  std::string arch;                         ///< "x86_64", "aarch64", …
  std::string packages;                     ///< its package database: "dpkg", "rpm", "apk", "pacman"; empty: unknown
  std::vector<std::string> boot_loaders;    ///< whose configuration is there: "grub2", "systemd-boot", "extlinux", …
  Firmware firmware = Firmware::bios;       ///< as the disks show: an ESP used by a boot chain, else BIOS
  std::string esp_path;                     ///< where the ESP is mounted ("/boot/efi", "/efi", "/boot"); empty: none
  std::vector<BlockDevice> devices;
  std::vector<Mount> mounts;   ///< what is mounted now, root first
  std::vector<Kernel> kernels; ///< newest first
  std::vector<std::string> notes;

  bool is(std::string_view id) const; ///< distro or one of like
};

} // namespace kvmport
