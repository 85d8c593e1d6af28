// SPDX-License-Identifier: Apache-2.0
// UUIDs that GRUB for BIOS has built in. Its core image lies behind the MBR, compressed and guarded by Reed-Solomon
// codes (GRUB 2, util/mkimage.c), so what it names must keep its UUID.
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

/// GRUB's core image for BIOS lies compressed outside of every filesystem and may have UUIDs built in: of the volume
/// group or the LUKS header that /boot lies in, or of the filesystem that its load.cfg looks for.
bool grub_needs(const UuidHolder& holder, const GuestInfo& info, const GuestFilesystem& guest) {
  if (info.firmware != Firmware::bios)
    return false;
  for (const char* path : {"/boot/grub/i386-pc/load.cfg", "/boot/grub2/i386-pc/load.cfg"})
    if (const auto text = guest.try_read(path); text && replace_uuids(*text, {holder.change}) != *text)
      return true;
  const Mount* boot = boot_mount(info);
  const bool grub = std::ranges::find(info.boot_loaders, "grub2") != info.boot_loaders.end();
  const auto device = std::ranges::find_if(
      info.devices, [&](const BlockDevice& d) { return boot != nullptr && d.source_name == boot->source_name; });
  if (!grub || device == info.devices.end() || device->disk >= 0)
    return false;
  if (holder.kind == Kind::luks)
    return true;
  const std::string on = device->source_name + "/";
  return holder.kind == Kind::lvm && !holder.volume.empty() && on.starts_with("/dev/" + holder.volume + "/");
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

} // namespace kvmport
