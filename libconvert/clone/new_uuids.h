// SPDX-License-Identifier: Apache-2.0
// New UUIDs for everything on the disks of a clone: partition tables and partitions, LVM, LUKS, filesystems, swap;
// together with all that names them in the guest. Volume groups get new names as well, since LVM activates none of two
// groups of one name. Original and clone can then be attached to one host, or one of them to the other. A group that
// GRUB for BIOS starts from keeps its name, with a warning.
//
// All or nothing: the disks are overlays, and after an Error the caller throws them away. Only a boot shows that the
// guest agrees, so the overlays are to be merged after one. UUIDs of partitions inside a guest's own images, btrfs
// device UUIDs (UUID_SUB), subvolume UUIDs and earlier texts in LVM's metadata areas stay. One thread at a time.
#pragma once

#include "base/events.h"
#include "formats/overlay.h"
#include "libconvert/clone/group_text.h"
#include "libconvert/guest/appliance.h"
#include "libconvert/guest/plan.h"

#include <filesystem>
#include <string>
#include <vector>

namespace kvmport {

struct UuidRenewal {
  std::vector<UuidChange> changes; ///< on the disks
  std::vector<GroupChange> groups; ///< volume groups that got another name
  Plan plan; ///< what changed in the guest's files; warnings tell what keeps or still names an old UUID or name
};

/// Changes the disks, one overlay per machine.disks. New UUIDs and names follow from the old ones and `seed` (the
/// clone's own UUID serves; empty: a random one). What lies in encrypted devices changes as far as options.keys open
/// them. Takes one appliance: seconds with KVM, else about a minute. Errors: UUID_UNSUPPORTED (before anything
/// changes), UUID_NOT_CHANGED, PROGRAM_MISSING, those of Appliance.
UuidRenewal renew_uuids(const Machine& machine, const std::vector<Overlay*>& disks, const ApplianceOptions& options,
                        const std::string& seed, EventSink& sink, const StopToken& stop);

/// Partition GUIDs in the boot entries of a UEFI variable store (raw, as OVMF's), which name the EFI system partition
/// by them; returns how many were replaced. No checksum covers them. Error NVRAM_UNSUPPORTED for a qcow2 file.
std::size_t renew_in_nvram(const std::filesystem::path& variables, const std::vector<UuidChange>& changes);

} // namespace kvmport
