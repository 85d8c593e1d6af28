// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/patterns.h"

#include <array>

namespace kvmport {
namespace {

using enum Milestone;
using enum Place;
using enum Effect;

constexpr auto milestones = std::to_array<MilestoneRule>({
    {firmware, "SeaBIOS (version", "seabios src/bootsplash.c, src/post.c"},
    {firmware, "Booting from ", "seabios src/boot.c", "^Booting from (Hard Disk|ROM|DVD|Floppy|0000)"},
    {firmware, "BdsDxe: ", "edk2 UefiBootManagerLib", "BdsDxe: (loading|starting|failed|No bootable)"},
    {firmware, "UEFI Interactive Shell", "edk2 ShellPkg"},
    {bootloader, "GRUB loading", "grub boot/i386/pc/boot.S, diskboot.S", nullptr, prompt},
    {bootloader, "Welcome to GRUB!", "grub kern/main.c"},
    {bootloader, "GNU GRUB ", "grub normal/main.c; GRUB legacy", nullptr, prompt},
    {bootloader, "grub", "grub kern/rescue_reader.c, normal/main.c", "^grub( rescue)?> ?", prompt},
    {bootloader, "Booting `", "grub normal/menu.c", "^ *Booting (`|a command list)"},
    {bootloader, "Loading Linux ", "grub util/grub.d/10_linux.in"},
    {bootloader, "Loading initial ramdisk", "grub util/grub.d/10_linux.in"},
    {bootloader, "LINUX ", "syslinux core/diskstart.inc, ldlinux", "\\b(SYS|EXT|ISO|PXE)LINUX \\d"},
    {bootloader, "Loading /", "syslinux com32/elflink/ldlinux/kernel.c", "^Loading /\\S+\\.\\.\\."},
    {bootloader, "LILO", "lilo second.S", "^LILO( |$)", prompt},
    // What comes from the firmware's own volume (its shell, its menu) is no boot loader.
    {bootloader, "BdsDxe: starting Boot", "edk2 UefiBootManagerLib/BmBoot.c", "starting Boot(?!.* from Fv\\()"},
    {bootloader, "Reboot Into Firmware Interface", "systemd src/boot/efi/boot.c"},
    {bootloader, "Windows Boot Manager", "Windows bootmgr"},
    {kernel, "Linux version ", "linux init/version.c linux_banner"},
    {kernel, "Decompressing Linux", "linux arch/x86/boot/compressed/misc.c"},
    {kernel, "EFI stub: ", "linux drivers/firmware/efi/libstub"},
    {kernel, "[", "linux kernel/printk: time stamps", "^\\[ *\\d+\\.\\d{6}\\]"},
    {kernel, "Kernel panic - not syncing", "linux kernel/panic.c"},
    {initramfs, "Run /init as init process", "linux init/main.c"},
    {initramfs, "Loading, please wait...", "initramfs-tools init"},
    {initramfs, "Begin: ", "initramfs-tools scripts/functions log_begin_msg", "^Begin: .* \\.\\.\\."},
    {initramfs, "(initramfs)", "initramfs-tools scripts/functions panic", "^\\(initramfs\\)", prompt},
    {initramfs, "dracut", "dracut modules.d", "(dracut-[a-z-]+\\[|dracut:|dracut-\\d)"},
    {initramfs, "nitramfs)!", "systemd src/core/main.c status_welcome in an initrd"},
    {initramfs, "unning in initrd", "systemd src/core/main.c"},
    {initramfs, "unning in initial RAM disk", "systemd src/core/main.c"},
    {initramfs, ":: running ", "mkinitcpio init_functions", "^:: running (early |late )?(hook|cleanup hook)"},
    {initramfs, "Alpine Init ", "Alpine mkinitfs initramfs-init.in"},
    {initramfs, "Mounting boot media", "Alpine mkinitfs initramfs-init.in"},
    {root, "-fs (", "linux fs/ext4/super.c", "EXT[234]-fs \\([^)]*\\): mounted filesystem"},
    {root, "XFS (", "linux fs/xfs/xfs_log.c", "XFS \\([^)]*\\): Ending (clean mount|recovery)"},
    {root, "BTRFS info", "linux fs/btrfs", "first mount of filesystem|disk space caching|free space tree"},
    {root, "F2FS-fs (", "linux fs/f2fs/super.c", "Mounted with checkpoint"},
    {root, "VFS: Mounted root (", "linux init/do_mounts.c"},
    {root, "-bottom ...", "initramfs-tools init, after the mount", "Running /scripts/(local|nfs|init)-bottom"},
    {root, "Mounted ", "systemd sysroot.mount", "Mounted (/sysroot|sysroot\\.mount)"},
    {root, "Switching root", "systemd initrd-switch-root.service"},
    {root, "Switch Root", "systemd initrd-switch-root.target", "(Reached target|Starting).*Switch Root"},
    {root, "dracut: Switching root", "dracut 99base/init.sh"},
    {root, "Mounting root: ok", "Alpine mkinitfs initramfs-init.in"},
    {init, " as init process", "linux init/main.c", "Run /(usr/)?(s?bin|lib|etc)/\\S+ as init process", line, true},
    {init, "init started: BusyBox", "busybox init/init.c"},
    {init, "INIT: version ", "sysvinit src/init.c"},
    {init, "OpenRC ", "OpenRC src/rc/rc.c", "OpenRC \\d"},
    {init, "Welcome to ", "systemd src/core/main.c", "^Welcome to (?!GRUB)(?!.*(dracut-|nitramfs)).+!$", line, true},
    {init, "systemd[1]: systemd ", "systemd src/core/main.c", "running in system mode", line, true},
    {init, "Remount Root and Kernel File Systems", "systemd systemd-remount-fs.service"},
    {init, "- runit: ", "runit src/runit.c"},
    {login, "login:", "agetty, busybox getty, login", "^(\\S{1,64} )?login: ?(\\[ *\\d+\\.\\d+\\].*)?$", prompt},
    {login, "Reached target", "systemd units", "Reached target .*(Multi-User System|Graphical Interface)"},
});

constexpr auto failures = std::to_array<FailureRule>({
    // The firmware finds nothing to start.
    {"NO_BOOTABLE_DEVICE", firmware, ends, 50, 4, "No bootable device", "seabios src/boot.c"},
    {"", firmware, context, 0, 0, "Boot failed: ", "seabios src/boot.c"},
    {"NO_BOOTABLE_DEVICE", firmware, weakens, 40, 0, "issing operating system", "MBR code of fdisk"},
    {"NO_BOOTABLE_DEVICE", firmware, weakens, 40, 0, "rror loading operating system", "MBR code"},
    {"NO_BOOTABLE_DEVICE", firmware, weakens, 40, 0, "perating system not found", "MBR code"},
    {"NO_BOOTABLE_DEVICE", firmware, weakens, 40, 0, " is missing", "Windows boot sectors",
     "^(NTLDR|BOOTMGR) is missing"},
    {"UEFI_NO_BOOT_OPTION", firmware, ends, 55, 6, "BdsDxe: No bootable option", "edk2 BdsDxe"},
    {"UEFI_SHELL", bootloader, ends, 50, 8, "UEFI Interactive Shell", "edk2 ShellPkg"},
    {"UEFI_SHELL", bootloader, ends, 50, 8, "Shell>", "edk2 ShellPkg", "^Shell> ?", prompt},
    {"SECURE_BOOT_REFUSED", firmware, weakens, 60, 0, "BdsDxe: failed to ", "edk2 UefiBootManagerLib",
     "Access Denied|Security Violation"},
    {"SECURE_BOOT_REFUSED", bootloader, weakens, 60, 0, "bad shim signature", "grub loader/efi/linux.c"},
    {"", firmware, context, 0, 0, "BdsDxe: failed to ", "edk2 UefiBootManagerLib"},
    // The boot loader stops.
    {"GRUB_RESCUE", bootloader, ends, 50, 4, "grub rescue>", "grub kern/rescue_reader.c", nullptr, prompt},
    {"GRUB_PROMPT", bootloader, ends, 50, 4, "grub>", "grub normal/main.c; GRUB legacy", "^grub> ?", prompt},
    {"GRUB_PROMPT", bootloader, ends, 48, 10, "Minimal BASH-like line editing", "grub normal/main.c"},
    {"GRUB_ERROR", bootloader, weakens, 30, 0, "error: ", "grub kern/err.c", "^(GRUB loading.*)?error: .+"},
    {"GRUB_ERROR", bootloader, weakens, 30, 0, "Error ", "GRUB legacy stage2/common.c", "^ *Error \\d+: "},
    {"GRUB_ERROR", bootloader, weakens, 30, 0, "Failed to boot both default and fallback", "grub menu.c"},
    {"SYSLINUX_ERROR", bootloader, weakens, 30, 0, "Failed to load ", "syslinux core",
     "Failed to load (ldlinux|COM32)|No DEFAULT"},
    // The kernel gives up.
    {"KERNEL_PANIC", login, ends, 75, 3, "Kernel panic - not syncing: VFS: Unable to mount root fs",
     "linux init/do_mounts.c", nullptr, line, "VFS_NO_ROOT"},
    {"KERNEL_PANIC", login, ends, 75, 3, "Kernel panic - not syncing: ", "linux init/main.c",
     "No working init found|No init found|Requested init .* failed", line, "NO_INIT"},
    {"KERNEL_PANIC", login, ends, 72, 3, "Kernel panic - not syncing: Attempted to kill init", "linux kernel/exit.c",
     nullptr, line, "INIT_KILLED"},
    {"KERNEL_PANIC", login, ends, 70, 3, "Kernel panic - not syncing", "linux kernel/panic.c"},
    {"KERNEL_PANIC", login, ends, 60, 5, "panic: ", "FreeBSD kern/kern_shutdown.c", "^panic: "},
    {"", kernel, context, 0, 0, "VFS: Cannot open root device", "linux init/do_mounts.c"},
    {"", kernel, context, 0, 0, "Please append a correct \"root=\"", "linux init/do_mounts.c"},
    {"", initramfs, context, 0, 0, "Can't lookup blockdev", "linux fs/super.c get_tree_bdev"},
    {"", login, context, 0, 0, "Failed to execute /", "linux init/main.c"},
    {"", login, context, 0, 0, "Starting init: ", "linux init/main.c", "exists but couldn't execute"},
    {"KERNEL_OOPS", login, weakens, 15, 0, "kernel BUG at ", "linux lib/bug.c"},
    {"KERNEL_OOPS", login, weakens, 15, 0, "BUG: ", "linux mm", "BUG: (unable to handle|kernel NULL|Bad page)"},
    {"KERNEL_OOPS", login, weakens, 15, 0, "Oops: ", "linux kernel/panic.c"},
    // The initramfs does not find its root.
    {"ROOT_DEVICE_MISSING", initramfs, ends, 80, 8, "ALERT!", "initramfs-tools local", "ALERT! .* does not exist"},
    {"ROOT_DEVICE_MISSING", initramfs, ends, 80, 20, "Gave up waiting for root", "initramfs-tools local"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 80, 0, "does not exist", "dracut 99base/rdsosreport, parse-root",
     "^(.*dracut.*(: | ))?Warning: .*/dev/\\S+\"? does not exist"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 80, 0, "No root device ", "initramfs-tools local; dracut 004 of RHEL 6",
     "No root device (specified|\".*\" found)"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 76, 0, "start job is running for ",
     "systemd src/core/job.c: a device that is waited for", "start job is running for (dev-.*\\.device|/dev/)"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 78, 0, "dracut", "dracut initqueue",
     "Warning: dracut-initqueue.* timeout"},
    {"ROOT_DEVICE_MISSING", initramfs, ends, 80, 8, "Unable to find root device", "mkinitcpio init_functions"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 80, 0, "ERROR: device '", "mkinitcpio", "ERROR: device '.*' not found"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 80, 0, "mount: /", "mkinitcpio; util-linux mount",
     "mount: /(new_root|sysroot): (can't find |special device .* does not exist)"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 78, 0, "Mounting boot media",
     "Alpine initramfs-init.in, without root=", "Mounting boot media(: | )failed"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 80, 0, "on /sysroot failed", "busybox mount; Alpine",
     "mounting .* on /sysroot failed"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 80, 0, "Mounting root", "Alpine initramfs-init.in",
     "Mounting root(: | )failed"},
    {"ROOT_DEVICE_MISSING", initramfs, ends, 80, 5, "mountroot>", "FreeBSD kern/vfs_mountroot.c", "^mountroot>",
     prompt},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 78, 0, "device/start running",
     "systemd src/core/job.c: an initramfs that waits for ever", "ob dev-.*\\.device/start running"},
    {"ROOT_DEVICE_MISSING", initramfs, weakens, 78, 0, "ependency failed for", "systemd in an initrd",
     "ependency failed for (sysroot\\.mount|/sysroot|Initrd Root|File System Check on /dev.*sysroot)"},
    {"ROOT_MOUNT_FAILED", initramfs, weakens, 77, 0, "ailed to mount ", "systemd sysroot.mount",
     "ailed to mount (/sysroot|sysroot\\.mount)"},
    {"ROOT_MOUNT_FAILED", initramfs, weakens, 77, 0, " on /root failed", "busybox mount; initramfs-tools",
     "mounting .* on /root failed"},
    {"ROOT_MOUNT_FAILED", initramfs, weakens, 77, 0, "Failed to mount ",
     "mkinitcpio init_functions, init; initramfs-tools local",
     "Failed to mount ('.*' on real root|the real root device|.* as root file system)"},
    {"ROOT_MOUNT_FAILED", root, weakens, 77, 0, " as /", "initramfs-tools local: /usr of its own",
     "Failed to mount .* as /\\S+ file system"},
    {"ROOT_MOUNT_FAILED", initramfs, weakens, 77, 0, "mount: /", "mkinitcpio; util-linux mount",
     "mount: /(new_root|sysroot): (wrong fs type|no (valid )?filesystem type|unknown filesystem)"},
    {"ROOT_MOUNT_FAILED", root, weakens, 77, 0, "requires a manual fsck", "initramfs-tools functions _checkfs_once"},
    // A mounted root is no end of the initramfs: what follows may still be its last words.
    {"NO_INIT", root, weakens, 79, 0, "No init found", "initramfs-tools init"},
    {"NO_INIT", root, weakens, 79, 0, "Target filesystem doesn't have requested ", "initramfs-tools init"},
    {"NO_INIT", root, weakens, 79, 0, "run-init: ", "klibc, busybox run-init", "run-init: (/|can't execute )"},
    {"NO_INIT", root, weakens, 79, 0, "Root device mounted successfully, but ", "mkinitcpio init"},
    {"NO_INIT", root, ends, 79, 8, "not found in new root. Launching emergency", "Alpine initramfs-init.in"},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "(initramfs)", "initramfs-tools panic", "^\\(initramfs\\)", prompt},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "Something went badly wrong in the initramfs", "initramfs-tools init"},
    {"", root, context, 0, 0, "due to panic= boot argument", "initramfs-tools panic"},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, ":/", "dracut 98dracut-systemd, 99base emergency_shell",
     "^(dracut|switch_root):/.*# ?", prompt},
    {"INITRAMFS_PROMPT", root, ends, 50, 8, "Dropping to debug shell.", "dracut 99base emergency_shell"},
    {"INITRAMFS_PROMPT", root, weakens, 49, 0, "/run/initramfs/rdsosreport.txt", "dracut 99base/rdsosreport.sh",
     "^Generating "},
    {"INITRAMFS_PROMPT", root, weakens, 52, 0, "dracut: FATAL: ", "dracut 99base die"},
    {"INITRAMFS_PROMPT", root, weakens, 48, 0, "arning: ", "dracut initqueue, 99base emergency_shell",
     "Warning: (Could not boot\\.|Boot has failed)"},
    {"", root, context, 0, 0, "Not all disks have been found", "dracut 98dracut-systemd initqueue"},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "You are now being dropped into an emergency shell",
     "mkinitcpio init_functions"},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "You are being dropped ", "mkinitcpio init_functions"},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "Bailing out, you are on your own.", "mkinitcpio init"},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "fs ", "mkinitcpio launch_interactive_shell",
     "^\\[(rootfs|ramfs) [^\\]]*\\][#$]", prompt},
    {"INITRAMFS_PROMPT", root, ends, 50, 5, "initramfs emergency recovery shell launched", "Alpine initramfs-init.in"},
    {"INITRAMFS_PROMPT", root, ends, 45, 10, "can't access tty; job control turned off",
     "shell of busybox, dash and klibc on a console"},
    // The system comes up only in part.
    {"EMERGENCY_MODE", init, ends, 60, 5, "ou are in emergency mode", "systemd emergency.service"},
    {"EMERGENCY_MODE", init, ends, 60, 5, "ou are in rescue mode", "systemd rescue.service"},
    {"EMERGENCY_MODE", init, ends, 60, 10, "Reached target ", "systemd emergency.target",
     "Reached target .*Emergency Mode"},
    {"EMERGENCY_MODE", init, ends, 58, 10, "*** Dropping you to a shell", "initscripts rc.sysinit of RHEL 5 and 6"},
    {"", init, context, 0, 0, "*** An error occurred during the ", "initscripts rc.sysinit of RHEL 5 and 6"},
    {"EMERGENCY_MODE", init, ends, 60, 8, "Entering emergency mode", "dracut emergency.service"},
    {"EMERGENCY_MODE", init, ends, 60, 5, "Cannot open access to console, the root account is locked",
     "util-linux sulogin"},
    {"EMERGENCY_MODE", init, ends, 60, 5, "Give root password for", "util-linux, sysvinit sulogin", nullptr, prompt},
    {"EMERGENCY_MODE", init, ends, 60, 5, "Press Enter for maintenance", "util-linux sulogin", nullptr, prompt},
    {"INIT_FAILED", login, ends, 68, 5, "[!!!!!!] ", "systemd src/core/main.c", "^\\[!!!!!!\\] "},
    {"INIT_FAILED", login, ends, 67, 5, "reezing", "systemd src/core/crash-handler.c, main.c",
     "systemd\\[1\\]: (Freezing execution|.*[,.] [Ff]reezing\\.)"},
    {"SYSTEM_INCOMPLETE", login, weakens, 20, 0, "ependency failed for ", "systemd job.c"},
    {"SYSTEM_INCOMPLETE", login, weakens, 20, 0, "imed out waiting for device", "systemd job.c"},
    {"SYSTEM_INCOMPLETE", login, weakens, 18, 0, "tart job is running for ", "systemd job.c"},
    // Somebody must type something.
    {"PASSPHRASE_PROMPT", login, waits, 65, 60, "assphrase for ", "cryptsetup; systemd-cryptsetup; dracut",
     "([Ee]nter|unlock|[Uu]nlocking).*assphrase for |^[Pp]assphrase for ", prompt},
    {"PASSPHRASE_PROMPT", login, waits, 65, 60, "lease unlock disk ", "cryptsetup-initramfs", nullptr, prompt},
});

constexpr auto texts = std::to_array<Explanation>({
    {"NO_BOOTABLE_DEVICE",
     "the firmware found no disk that it can boot from: the boot sector is damaged or was never written, or the "
     "guest wants UEFI (try --firmware uefi)"},
    {"UEFI_NO_BOOT_OPTION",
     "the firmware found nothing to boot: no EFI/BOOT/BOOTX64.EFI on an EFI system partition and no entry in the "
     "variables. Give the source's variables with --nvram, or boot by BIOS (--firmware bios)"},
    {"UEFI_SHELL",
     "the firmware went to its own shell because nothing could be booted: the EFI system partition has no "
     "EFI/BOOT/BOOTX64.EFI and the variables have no entry for this disk"},
    {"SECURE_BOOT_REFUSED",
     "secure boot refused a boot loader or kernel that is not signed by a key the firmware knows"},
    {"GRUB_RESCUE",
     "GRUB's first part does not find its own files: /boot/grub is damaged, or lies on a disk or partition that has "
     "another number now"},
    {"GRUB_PROMPT",
     "GRUB found no usable configuration and waits for commands: grub.cfg is missing, or names a device that does not "
     "exist"},
    {"GRUB_ERROR", "GRUB could not load what its configuration names; see the quoted errors"},
    {"SYSLINUX_ERROR", "syslinux could not load what its configuration names"},
    {"KERNEL_PANIC", "the kernel gave up"},
    {"KERNEL_OOPS", "the kernel hit an error of its own and came no further"},
    {"ROOT_DEVICE_MISSING",
     "the initramfs did not find the root device: its name has changed with the disk's bus, or the initramfs has no "
     "driver for the new disk"},
    {"ROOT_MOUNT_FAILED",
     "the root file system is there but could not be mounted: it is damaged, or its driver is missing"},
    {"NO_INIT", "the root file system was mounted but holds no init program"},
    {"INITRAMFS_PROMPT",
     "the boot stopped in the initramfs, at a prompt or with an error of the initramfs's own; see the "
     "quoted lines"},
    {"EMERGENCY_MODE",
     "the system stopped in emergency mode, most often because a file system of /etc/fstab is not there"},
    {"INIT_FAILED",
     "init itself gave up right after its start; see the quoted lines (most often the SELinux policy or a missing "
     "kernel feature)"},
    {"SYSTEM_INCOMPLETE", "the system waits for devices or services that failed"},
    {"PASSPHRASE_PROMPT", "the guest waits for the passphrase of an encrypted disk"},
    {"BOOT_LOOP", "the machine restarts over and over"},
    {"BOOT_HANG", "nothing more was seen and the disks were not used any more: the guest hangs, or its further "
                  "messages go to a console "
                  "that is not watched (add console=ttyS0 to the kernel's command line)"},
    {"BOOT_TIMEOUT",
     "the time ran out before the milestone was seen; give more with --timeout, or see whether the guest writes to a "
     "serial console"},
    {"POWERED_OFF", "the guest switched the machine off before it reached the milestone"},
    {"GUEST_FAULT", "the guest stopped the machine by a fault"},
    {"ENGINE_FAILED", "the engine that runs the machine failed; this says nothing about the guest"},
    {"INTERRUPTED", "the proof was stopped before its verdict"},
});

} // namespace

std::span<const MilestoneRule> milestone_rules() {
  return milestones;
}
std::span<const FailureRule> failure_rules() {
  return failures;
}
std::span<const Explanation> explanations() {
  return texts;
}
std::string_view explain(std::string_view code) {
  for (const auto& e : texts)
    if (e.code == code)
      return e.text;
  return {};
}

} // namespace kvmport
