// SPDX-License-Identifier: Apache-2.0
// UUIDs and volume groups that GRUB for BIOS has built in. Its core image lies behind the MBR, compressed and guarded
// by Reed-Solomon codes (GRUB 2, util/mkimage.c), so what it names must stay.
#include "libconvert/clone/uuid_disks.h"

#include <algorithm>

namespace kvmport {
namespace {

using Kind = UuidHolder::Kind;

const Mount* boot_mount(const GuestInfo& info) {
  for (const char* path : {"/boot", "/"})
    for (const Mount& mount : info.mounts)
      if (mount.path == path)
        return &mount;
  return nullptr;
}

/// What grub-install put into the core image beside the path of /boot.
bool named_in_load_cfg(const Renaming& renaming, const GuestInfo& info, const GuestFilesystem& guest) {
  if (info.firmware != Firmware::bios)
    return false;
  for (const char* path : {"/boot/grub/i386-pc/load.cfg", "/boot/grub2/i386-pc/load.cfg"})
    if (const auto text = guest.try_read(path); text && renamed_text(path, *text, renaming) != *text)
      return true;
  return false;
}

/// The device of /boot when GRUB's core image has to find it inside of LVM, LUKS or the like; else empty.
std::string inner_boot_device(const GuestInfo& info) {
  const Mount* boot = boot_mount(info);
  const bool grub = std::ranges::find(info.boot_loaders, "grub2") != info.boot_loaders.end();
  const auto device = std::ranges::find_if(
      info.devices, [&](const BlockDevice& d) { return boot != nullptr && d.source_name == boot->source_name; });
  const bool plain = device == info.devices.end() || device->disk >= 0;
  return info.firmware != Firmware::bios || !grub || plain ? std::string() : device->source_name;
}

/// `volume`: "vg0", "vg0/root".
bool lies_on(const std::string& device, const std::string& volume) {
  return !volume.empty() && (device + "/").starts_with("/dev/" + volume + "/");
}

/// GRUB's core image for BIOS lies compressed outside of every filesystem and may have UUIDs built in: of the volume
/// group or the LUKS header that /boot lies in, or of the filesystem that its load.cfg looks for.
bool grub_needs(const UuidHolder& holder, const GuestInfo& info, const GuestFilesystem& guest) {
  if (named_in_load_cfg({{holder.change}, {}}, info, guest))
    return true;
  const std::string boot = inner_boot_device(info);
  return !boot.empty() && (holder.kind == Kind::luks || (holder.kind == Kind::lvm && lies_on(boot, holder.volume)));
}

} // namespace

std::vector<UuidHolder> without_those_in_grub(std::vector<UuidHolder> holders, const GuestInfo& info,
                                              const GuestFilesystem& guest, std::vector<std::string>& warnings) {
  std::erase_if(holders, [&](const UuidHolder& holder) {
    const bool kept = grub_needs(holder, info, guest);
    if (kept)
      warnings.push_back(holder.change.what + " keeps its UUID " + holder.change.before +
                         ": GRUB's core image for BIOS may have it built in");
    return kept;
  });
  return holders;
}

std::vector<GroupChange> without_those_in_grub(std::vector<GroupChange> groups, const GuestInfo& info,
                                               const GuestFilesystem& guest, std::vector<std::string>& warnings) {
  std::erase_if(groups, [&](const GroupChange& group) {
    const bool kept = named_in_load_cfg({{}, {group}}, info, guest) || lies_on(inner_boot_device(info), group.before);
    if (kept)
      warnings.push_back("volume group " + group.before +
                         " keeps its name: GRUB's core image for BIOS may have it built in; the clone does not start "
                         "while it sees the original's disk as well");
    return kept;
  });
  return groups;
}

} // namespace kvmport
