// SPDX-License-Identifier: Apache-2.0
// Device names that change with the bus (sdX, hdX, xvdX, vdX, nvmeXnY, by-path, by-id of the old controller) and what
// takes their place: the UUID of the filesystem or container, else that of the partition. Names that stay (LVM, md,
// mapper, UUID=, LABEL=) are never touched.
#pragma once

#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::linux_guest {

/// How the place that names a device wants it written.
enum class NameStyle {
  tag,         ///< UUID=… or PARTUUID=…: fstab, crypttab, root= with an initramfs
  kernel_tag,  ///< PARTUUID=…: root= that the kernel itself resolves, without an initramfs
  path,        ///< /dev/disk/by-uuid/… or by-partuuid/…: options such as device= that want a path
  stable_path, ///< as path, but by partition: members of an array or volume group share their UUID
};

struct DeviceName {
  enum class Verdict {
    not_a_device, ///< stays as it is: stable already, or no disk's name
    translated,   ///< `text` replaces it
    unknown,      ///< would change with the bus, but which device it was isn't known
  };
  Verdict verdict = Verdict::not_a_device;
  std::string text;
  const BlockDevice* device = nullptr; ///< what it meant, when known
  std::string doubt;                   ///< why the translation may be wrong; empty: certain
};

/// Built once per step; borrows `info`.
class DeviceTranslator {
 public:
  explicit DeviceTranslator(const GuestInfo& info);
  /// Also reads the guest's fstab as it was: which disk the guest itself called the one that "/" is on.
  DeviceTranslator(const GuestInfo& info, const GuestFilesystem& guest);

  /// One whole device name, such as "/dev/sda1" or "/dev/disk/by-path/pci-…-part1".
  DeviceName translate(std::string_view name, NameStyle style = NameStyle::tag) const;

  /// Every device name inside `text` ("root=/dev/sda1 resume=/dev/sda2"): whole names only. Warnings name `where`.
  std::string rewrite(std::string_view text, NameStyle style, const std::string& where, Draft& draft) const;

  /// The device that `name` means (any of the notations above, or UUID=… and the like), if known.
  const BlockDevice* find(std::string_view name) const;

  /// Whether `name` is the name of a whole disk or partition that depends on the bus.
  static bool depends_on_bus(std::string_view name);

 private:
  struct Found {
    const BlockDevice* device = nullptr;
    std::string doubt;
  };
  Found by_kernel_name(std::string_view name) const;
  Found by_link_name(std::string_view name) const;
  const BlockDevice* of_disk(int disk, unsigned partition) const;
  std::string stable_text(const BlockDevice& device, NameStyle style) const;

  void learn_from_root(const GuestFilesystem& guest);

  const GuestInfo& info_;
  /// Disks that the guest called otherwise than the machine's order lets expect: "sdb" → index.
  std::map<std::string, int, std::less<>> learned_;
};

} // namespace kvmport::linux_guest
