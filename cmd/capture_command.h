// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v capture`: sends the disks of this machine to a server.
#pragma once

#include "cmd/cli.h"
#include "libconvert/p2v/capture.h"
#include "libconvert/p2v/inventory.h"

namespace kvmport {

struct CaptureArguments {
  CaptureOptions options;
  std::string to, host_key, identity, remote_program;
  std::vector<std::string> disks;               ///< kernel names
  std::vector<std::filesystem::path> paths;     ///< devices or raw images instead
  unsigned retry_for = 1800, freeze_limit = 10; ///< seconds
  bool rescue = false, no_compress = false, no_convert = false, no_boot = false;
};

/// Takes the disks of these kernel names and no others; all that an inventory selects when there are none. Errors:
/// DISK_MISSING for a name that the machine does not have, DISK_SET_INCOMPLETE when an array or volume group would be
/// torn apart.
void select_disks(Inventory& inventory, const std::vector<std::string>& names);

CLI::App* add_capture_command(CLI::App& app, CaptureArguments& arguments);
int run_capture(const CaptureArguments& arguments, Console& console, const StopToken& stop);

} // namespace kvmport
