// SPDX-License-Identifier: Apache-2.0
// What on a machine's disks bears a UUID, and the giving of new ones, and of new names to volume groups, inside the
// libguestfs appliance: partition tables, LVM, LUKS, filesystems and swap. Inner part of new_uuids.
#pragma once

#include "formats/image.h"
#include "libconvert/clone/group_text.h"
#include "libconvert/guest/inspect_devices.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// One thing that bears a UUID.
struct UuidHolder {
  enum class Kind { gpt_disk, gpt_partition, mbr_disk, mbr_partition, ext, xfs, btrfs, swap, fat, luks, lvm };
  Kind kind = Kind::ext;
  std::string device;     ///< in the appliance; of LVM: the physical volume, empty for groups and logical volumes
  unsigned partition = 0; ///< of a table's entry
  std::string volume{};   ///< of LVM: "vg0", "vg0/root"; empty for a physical volume
  UuidChange change;
};

/// What survey_devices() doesn't tell.
struct UuidSurvey {
  std::vector<FoundDevice> devices;
  std::map<std::string, std::string> tables; ///< a disk's appliance name → UUID of its partition table
  struct Lvm {
    std::string uuid, device, volume;
    bool hidden = false; ///< a part of another volume
  };
  std::vector<Lvm> lvm;
};
/// Asks the appliance.
UuidSurvey survey_uuids(const ApplianceHandle& appliance, const Machine& machine);
/// The script that it runs, and what it makes of the answer (devices left out).
std::string uuid_survey_script();
UuidSurvey parse_uuid_survey(std::string_view text);

/// All that bear a UUID, each with the new one. Error UUID_UNSUPPORTED names the first that can't get one.
std::vector<UuidHolder> uuid_holders(const UuidSurvey& survey, const std::string& seed);

/// All volume groups, each with its new name. A warning for one that can't get one.
std::vector<GroupChange> group_changes(const UuidSurvey& survey, const std::string& seed,
                                       std::vector<std::string>& warnings);

/// Without what GRUB's core image for BIOS may have built in: the volume group and volume, or the LUKS header, that
/// /boot lies in, and what its load.cfg looks for. Each is a warning. `guest`: the mounted tree.
std::vector<UuidHolder> without_those_in_grub(std::vector<UuidHolder> holders, const GuestInfo& info,
                                              const GuestFilesystem& guest, std::vector<std::string>& warnings);

/// The same for the names of groups: of the one that /boot lies in, and what its load.cfg names.
std::vector<GroupChange> without_those_in_grub(std::vector<GroupChange> groups, const GuestInfo& info,
                                               const GuestFilesystem& guest, std::vector<std::string>& warnings);

/// Error PROGRAM_MISSING when the appliance lacks a tool for one of these.
void check_uuid_tools(const ApplianceHandle& appliance, const std::vector<UuidHolder>& holders);
/// Changes the disks; nothing of the guest may be mounted. Volumes may stay active: the next kernel that sees the disks
/// knows them by their new UUIDs. Errors: UUID_NOT_CHANGED names what.
void change_uuids(const ApplianceHandle& appliance, const std::vector<UuidHolder>& holders,
                  const std::vector<GroupChange>& groups);
/// Error UUID_NOT_CHANGED when a survey shows an old UUID or name of a group, or not a new one.
void check_changed(const UuidSurvey& survey, const std::vector<UuidHolder>& holders,
                   const std::vector<GroupChange>& groups);

/// "ABCD-1234" into a FAT filesystem's boot sector and the backup of that (Microsoft, "FAT: General Overview of On-Disk
/// Format" 1.03). Error UUID_UNSUPPORTED when it has no place for one.
void set_fat_serial(WritableImage& volume, const std::string& serial);
/// "12345678" as the disk signature of an MBR.
void set_mbr_signature(WritableImage& disk, const std::string& signature);

} // namespace kvmport
