// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/steps.h"

namespace kvmport {

std::vector<Step> linux_steps(const PlanOptions& options) {
  using namespace linux_guest;
  std::vector<Step> steps{
      {"fstab", fstab_step},
      {"crypttab", crypttab_step},
      {"resume", resume_step},
      {"mdadm", mdadm_step},
      {"lvm", lvm_step},
      {"blkid-cache", blkid_cache_step},
      {"boot-entries", boot_entries_step},
      {"kernel-cmdline", cmdline_sources_step},
      {"device-map", device_map_step},
      {"initramfs", initramfs_step},
      {"initramfs-config", initramfs_config_step},
      {"modprobe", modprobe_step},
      {"module-lists", module_lists_step},
      {"uefi-fallback", uefi_fallback_step},
      {"network-names", network_names_step},
      {"hypervisor-tools", hypervisor_tools_step},
      {"old-devices", old_devices_step},
      {"leftovers", leftovers_step},
  };
  if (options.serial_console)
    steps.push_back({"serial-console", serial_console_step});
  return steps;
}

std::vector<Step> instrument_steps() {
  return {{"instrument", linux_guest::instrument_step}};
}

} // namespace kvmport
