// SPDX-License-Identifier: Apache-2.0
// The steps that convert a Linux guest, one function each. A step looks at the guest through the draft and writes down
// what it wants changed, with reasons; a step that finds nothing to do writes nothing. steps.cc puts them in order.
#pragma once

#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

namespace kvmport::linux_guest {

// --- device names that change with the bus -------------------------------------------------------------------------

/// /etc/fstab, systemd mount and swap units.
void fstab_step(const GuestInfo& info, Draft& draft);
/// /etc/crypttab.
void crypttab_step(const GuestInfo& info, Draft& draft);
/// The device that initramfs tools are told to resume from.
void resume_step(const GuestInfo& info, Draft& draft);
/// mdadm.conf.
void mdadm_step(const GuestInfo& info, Draft& draft);
/// LVM's devices file and filters.
void lvm_step(const GuestInfo& info, Draft& draft);
/// Caches of device names that would be believed.
void blkid_cache_step(const GuestInfo& info, Draft& draft);

// --- boot loaders --------------------------------------------------------------------------------------------------

/// What boot loaders read: grub.cfg, grubenv, menu.lst, loader entries, syslinux, rEFInd, unified kernels.
void boot_entries_step(const GuestInfo& info, Draft& draft);
/// What the guest's tools write these from: /etc/default/grub, /etc/kernel/cmdline, ….
void cmdline_sources_step(const GuestInfo& info, Draft& draft);
/// GRUB's device.map.
void device_map_step(const GuestInfo& info, Draft& draft);
/// EFI/BOOT/BOOT*.EFI on the EFI system partition, when there is none.
void uefi_fallback_step(const GuestInfo& info, Draft& draft);
/// Serial console in every boot entry, for good.
void serial_console_step(const GuestInfo& info, Draft& draft);
/// Serial console in every boot entry, for the boot proof's throw-away overlay only.
void instrument_step(const GuestInfo& info, Draft& draft);

// --- drivers -------------------------------------------------------------------------------------------------------

/// Virtio drivers in the initramfs of every kernel, or hardware that the kernels can drive.
void initramfs_step(const GuestInfo& info, Draft& draft);
/// The initramfs frameworks' own configuration, so that the guest's next kernel update keeps the drivers.
void initramfs_config_step(const GuestInfo& info, Draft& draft);

/// Module aliases and blacklists (modprobe.d), SUSE's list of initramfs modules. After initramfs_step.
void modprobe_step(const GuestInfo& info, Draft& draft);
/// Modules that are loaded at start and only work under the old hypervisor.
void module_lists_step(const GuestInfo& info, Draft& draft);

// --- everything else -----------------------------------------------------------------------------------------------

/// Interfaces keep their names, and by them their addresses.
void network_names_step(const GuestInfo& info, Draft& draft);
/// Services of the hypervisor that the guest comes from.
void hypervisor_tools_step(const GuestInfo& info, Draft& draft);
/// The old hypervisor's console and graphics driver.
void old_devices_step(const GuestInfo& info, Draft& draft);
/// Notes of places that name old devices and don't matter for the boot.
void leftovers_step(const GuestInfo& info, Draft& draft);

} // namespace kvmport::linux_guest
