// SPDX-License-Identifier: Apache-2.0
// Block devices as the appliance sees them, under the names that the guest knows them by. One call into the appliance
// finds them all.
#pragma once

#include "libconvert/guest/appliance_handle.h"
#include "libconvert/guest/guest.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

struct FoundDevice {
  BlockDevice device;
  std::string appliance; ///< what the appliance's kernel calls it: "/dev/sda1", "/dev/dm-0"; for scripts
  std::string guestfs;   ///< what libguestfs's calls want: disks have the letters in which they were added, which the
                         ///< kernel may have mixed up
  std::string kind;      ///< "disk", "part", "lvm", "crypt", "raid1", …
};

/// Asks the appliance. Its own system disk is left out.
std::vector<FoundDevice> survey_devices(const ApplianceHandle& appliance, const Machine& machine);
/// The script that survey_devices() runs, and what it makes of the answer.
std::string survey_script();
std::vector<FoundDevice> parse_survey(std::string_view text, const Machine& machine);
/// What the guest calls a partition of a disk called "/dev/sda", and an md array that is called "host:0", or
/// "host:data".
std::string partition_name(const std::string& disk, unsigned partition);
std::string array_name(const std::string& md_name);
/// "vg--a-root" of device-mapper as "/dev/vg-a/root".
std::string volume_name(std::string_view mapper_name);

} // namespace kvmport
