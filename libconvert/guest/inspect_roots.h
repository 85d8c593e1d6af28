// SPDX-License-Identifier: Apache-2.0
// Which filesystems hold an operating system: one script in the appliance mounts each read-only, looks, and goes on.
#pragma once

#include "libconvert/guest/inspect_devices.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

struct RootCandidate {
  std::string appliance;     ///< device in the appliance
  std::string source_name;   ///< of the device
  std::string subvolume;     ///< of btrfs; empty: the default one
  std::string name;          ///< PRETTY_NAME, for lists
  std::string fstab_root;    ///< the device that its own fstab has for "/"; empty: none
  std::string fstab_options; ///< and the options
};

struct RootSearch {
  std::vector<RootCandidate> roots;
  std::vector<std::string> windows;  ///< source names of Windows system volumes
  std::vector<std::string> problems; ///< filesystems that could not be looked at, with the reason
};

RootSearch find_roots(const ApplianceHandle& appliance, const std::vector<FoundDevice>& devices);
/// The script that find_roots() runs, and what it makes of the answer.
std::string root_script(const std::vector<FoundDevice>& devices);
RootSearch parse_roots(std::string_view text, const std::vector<FoundDevice>& devices);

} // namespace kvmport
