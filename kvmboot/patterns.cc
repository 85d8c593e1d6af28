// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/patterns.h"

#include <array>

namespace kvmport {
namespace {

using enum Milestone;
using enum Place;
using enum Effect;

constexpr auto milestones = std::to_array<MilestoneRule>({
    {firmware, line, "SeaBIOS (version", nullptr, false, "seabios src/bootsplash.c, src/post.c"},
    {firmware, line, "Booting from ", "^Booting from (Hard Disk|ROM|DVD|Floppy|0000)", false, "seabios src/boot.c"},
    {firmware, line, "BdsDxe: ", "BdsDxe: (loading|starting|failed|No bootable)", false, "edk2 UefiBootManagerLib"},
    {firmware, line, "UEFI Interactive Shell", nullptr, false, "edk2 ShellPkg"},
    {bootloader, prompt, "GRUB loading", nullptr, false, "grub boot/i386/pc/boot.S, diskboot.S"},
    {bootloader, line, "Welcome to GRUB!", nullptr, false, "grub kern/main.c"},
    {bootloader, prompt, "GNU GRUB ", nullptr, false, "grub normal/main.c; GRUB legacy"},
    {bootloader, prompt, "grub", "^grub( rescue)?> ?", false, "grub kern/rescue_reader.c, normal/main.c"},
    {bootloader, line, "Booting `", "^ *Booting (`|a command list)", false, "grub normal/menu.c"},
    {bootloader, line, "Loading Linux ", nullptr, false, "grub util/grub.d/10_linux.in"},
    {bootloader, line, "Loading initial ramdisk", nullptr, false, "grub util/grub.d/10_linux.in"},
    {bootloader, line, "LINUX ", "\\b(SYS|EXT|ISO|PXE)LINUX \\d", false, "syslinux core/diskstart.inc, ldlinux"},
    {bootloader, line, "Loading /", "^Loading /\\S+\\.\\.\\.", false, "syslinux com32/elflink/ldlinux/kernel.c"},
    {bootloader, prompt, "LILO", "^LILO( |$)", false, "lilo second.S"},
    // What comes from the firmware's own volume (its shell, its menu) is no boot loader.
    {bootloader, line, "BdsDxe: starting Boot", "starting Boot(?!.* from Fv\\()", false,
     "edk2 UefiBootManagerLib/BmBoot.c"},
    {bootloader, line, "Reboot Into Firmware Interface", nullptr, false, "systemd src/boot/efi/boot.c"},
    {bootloader, line, "Windows Boot Manager", nullptr, false, "Windows bootmgr"},
    {kernel, line, "Linux version ", nullptr, false, "linux init/version.c linux_banner"},
    {kernel, line, "Decompressing Linux", nullptr, false, "linux arch/x86/boot/compressed/misc.c"},
    {kernel, line, "EFI stub: ", nullptr, false, "linux drivers/firmware/efi/libstub"},
    {kernel, line, "[", "^\\[ *\\d+\\.\\d{6}\\]", false, "linux kernel/printk: time stamps"},
    {kernel, line, "Kernel panic - not syncing", nullptr, false, "linux kernel/panic.c"},
    {initramfs, line, "Run /init as init process", nullptr, false, "linux init/main.c"},
    {initramfs, line, "Loading, please wait...", nullptr, false, "initramfs-tools init"},
    {initramfs, line, "Begin: ", "^Begin: .* \\.\\.\\.", false, "initramfs-tools scripts/functions log_begin_msg"},
    {initramfs, prompt, "(initramfs)", "^\\(initramfs\\)", false, "initramfs-tools scripts/functions panic"},
    {initramfs, line, "dracut", "(dracut-[a-z-]+\\[|dracut:|dracut-\\d)", false, "dracut modules.d"},
    {initramfs, line, "nitramfs)!", nullptr, false, "systemd src/core/main.c status_welcome in an initrd"},
    {initramfs, line, "unning in initrd", nullptr, false, "systemd src/core/main.c"},
    {initramfs, line, "unning in initial RAM disk", nullptr, false, "systemd src/core/main.c"},
    {initramfs, line, ":: running ", "^:: running (early |late )?(hook|cleanup hook)", false,
     "mkinitcpio init_functions"},
    {initramfs, line, "Alpine Init ", nullptr, false, "Alpine mkinitfs initramfs-init.in"},
    {initramfs, line, "Mounting boot media", nullptr, false, "Alpine mkinitfs initramfs-init.in"},
    {root, line, "-fs (", "EXT[234]-fs \\([^)]*\\): mounted filesystem", false, "linux fs/ext4/super.c"},
    {root, line, "XFS (", "XFS \\([^)]*\\): Ending (clean mount|recovery)", false, "linux fs/xfs/xfs_log.c"},
    {root, line, "BTRFS info", "first mount of filesystem|disk space caching|free space tree", false, "linux fs/btrfs"},
    {root, line, "F2FS-fs (", "Mounted with checkpoint", false, "linux fs/f2fs/super.c"},
    {root, line, "VFS: Mounted root (", nullptr, false, "linux init/do_mounts.c"},
    {root, line, "-bottom ...", "Running /scripts/(local|nfs|init)-bottom", false,
     "initramfs-tools init, after the mount"},
    {root, line, "Mounted ", "Mounted (/sysroot|sysroot\\.mount)", false, "systemd sysroot.mount"},
    {root, line, "Switching root", nullptr, false, "systemd initrd-switch-root.service"},
    {root, line, "Switch Root", "(Reached target|Starting).*Switch Root", false, "systemd initrd-switch-root.target"},
    {root, line, "dracut: Switching root", nullptr, false, "dracut 99base/init.sh"},
    {root, line, "Mounting root: ok", nullptr, false, "Alpine mkinitfs initramfs-init.in"},
    {init, line, " as init process", "Run /(usr/)?(s?bin|lib|etc)/\\S+ as init process", true, "linux init/main.c"},
    {init, line, "init started: BusyBox", nullptr, false, "busybox init/init.c"},
    {init, line, "INIT: version ", nullptr, false, "sysvinit src/init.c"},
    {init, line, "OpenRC ", "OpenRC \\d", false, "OpenRC src/rc/rc.c"},
    {init, line, "Welcome to ", "^Welcome to (?!GRUB)(?!.*(dracut-|nitramfs)).+!$", true, "systemd src/core/main.c"},
    {init, line, "systemd[1]: systemd ", "running in system mode", true, "systemd src/core/main.c"},
    {init, line, "Remount Root and Kernel File Systems", nullptr, false, "systemd systemd-remount-fs.service"},
    {init, line, "- runit: ", nullptr, false, "runit src/runit.c"},
    {login, prompt, "login:", "^(\\S{1,64} )?login: ?(\\[ *\\d+\\.\\d+\\].*)?$", false, "agetty, busybox getty, login"},
    {login, line, "Reached target", "Reached target .*(Multi-User System|Graphical Interface)", false, "systemd units"},
});

constexpr auto failures = std::to_array<FailureRule>({
    // The firmware finds nothing to start.
    {"NO_BOOTABLE_DEVICE", "", firmware, ends, 50, 4, line, "No bootable device", nullptr, "seabios src/boot.c"},
    {"", "", firmware, context, 0, 0, line, "Boot failed: ", nullptr, "seabios src/boot.c"},
    {"NO_BOOTABLE_DEVICE", "", firmware, weakens, 40, 0, line, "issing operating system", nullptr, "MBR code of fdisk"},
    {"NO_BOOTABLE_DEVICE", "", firmware, weakens, 40, 0, line, "rror loading operating system", nullptr, "MBR code"},
    {"NO_BOOTABLE_DEVICE", "", firmware, weakens, 40, 0, line, "perating system not found", nullptr, "MBR code"},
    {"NO_BOOTABLE_DEVICE", "", firmware, weakens, 40, 0, line, " is missing", "^(NTLDR|BOOTMGR) is missing",
     "Windows boot sectors"},
    {"UEFI_NO_BOOT_OPTION", "", firmware, ends, 55, 6, line, "BdsDxe: No bootable option", nullptr, "edk2 BdsDxe"},
    {"UEFI_SHELL", "", bootloader, ends, 50, 8, line, "UEFI Interactive Shell", nullptr, "edk2 ShellPkg"},
    {"UEFI_SHELL", "", bootloader, ends, 50, 8, prompt, "Shell>", "^Shell> ?", "edk2 ShellPkg"},
    {"SECURE_BOOT_REFUSED", "", firmware, weakens, 60, 0, line, "BdsDxe: failed to ",
     "Access Denied|Security Violation", "edk2 UefiBootManagerLib"},
    {"SECURE_BOOT_REFUSED", "", bootloader, weakens, 60, 0, line, "bad shim signature", nullptr,
     "grub loader/efi/linux.c"},
    {"", "", firmware, context, 0, 0, line, "BdsDxe: failed to ", nullptr, "edk2 UefiBootManagerLib"},
    // The boot loader stops.
    {"GRUB_RESCUE", "", bootloader, ends, 50, 4, prompt, "grub rescue>", nullptr, "grub kern/rescue_reader.c"},
    {"GRUB_PROMPT", "", bootloader, ends, 50, 4, prompt, "grub>", "^grub> ?", "grub normal/main.c; GRUB legacy"},
    {"GRUB_PROMPT", "", bootloader, ends, 48, 10, line, "Minimal BASH-like line editing", nullptr,
     "grub normal/main.c"},
    {"GRUB_ERROR", "", bootloader, weakens, 30, 0, line, "error: ", "^(GRUB loading.*)?error: .+", "grub kern/err.c"},
    {"GRUB_ERROR", "", bootloader, weakens, 30, 0, line, "Error ", "^ *Error \\d+: ", "GRUB legacy stage2/common.c"},
    {"GRUB_ERROR", "", bootloader, weakens, 30, 0, line, "Failed to boot both default and fallback", nullptr,
     "grub menu.c"},
    {"SYSLINUX_ERROR", "", bootloader, weakens, 30, 0, line, "Failed to load ",
     "Failed to load (ldlinux|COM32)|No DEFAULT", "syslinux core"},
    // The kernel gives up.
    {"KERNEL_PANIC", "VFS_NO_ROOT", login, ends, 75, 3, line,
     "Kernel panic - not syncing: VFS: Unable to mount root fs", nullptr, "linux init/do_mounts.c"},
    {"KERNEL_PANIC", "NO_INIT", login, ends, 75, 3, line, "Kernel panic - not syncing: ",
     "No working init found|No init found|Requested init .* failed", "linux init/main.c"},
    {"KERNEL_PANIC", "INIT_KILLED", login, ends, 72, 3, line, "Kernel panic - not syncing: Attempted to kill init",
     nullptr, "linux kernel/exit.c"},
    {"KERNEL_PANIC", "", login, ends, 70, 3, line, "Kernel panic - not syncing", nullptr, "linux kernel/panic.c"},
    {"KERNEL_PANIC", "", login, ends, 60, 5, line, "panic: ", "^panic: ", "FreeBSD kern/kern_shutdown.c"},
    {"", "", kernel, context, 0, 0, line, "VFS: Cannot open root device", nullptr, "linux init/do_mounts.c"},
    {"", "", kernel, context, 0, 0, line, "Please append a correct \"root=\"", nullptr, "linux init/do_mounts.c"},
    {"", "", initramfs, context, 0, 0, line, "Can't lookup blockdev", nullptr, "linux fs/super.c get_tree_bdev"},
    {"", "", login, context, 0, 0, line, "Failed to execute /", nullptr, "linux init/main.c"},
    {"", "", login, context, 0, 0, line, "Starting init: ", "exists but couldn't execute", "linux init/main.c"},
    {"KERNEL_OOPS", "", login, weakens, 15, 0, line, "kernel BUG at ", nullptr, "linux lib/bug.c"},
    {"KERNEL_OOPS", "", login, weakens, 15, 0, line, "BUG: ", "BUG: (unable to handle|kernel NULL|Bad page)",
     "linux mm"},
    {"KERNEL_OOPS", "", login, weakens, 15, 0, line, "Oops: ", nullptr, "linux kernel/panic.c"},
    // The initramfs does not find its root.
    {"ROOT_DEVICE_MISSING", "", initramfs, ends, 80, 8, line, "ALERT!", "ALERT! .* does not exist",
     "initramfs-tools local"},
    {"ROOT_DEVICE_MISSING", "", initramfs, ends, 80, 20, line, "Gave up waiting for root", nullptr,
     "initramfs-tools local"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 80, 0, line, "does not exist",
     "^(.*dracut.*(: | ))?Warning: .*/dev/\\S+\"? does not exist", "dracut 99base/rdsosreport, parse-root"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 80, 0, line, "No root device ",
     "No root device (specified|\".*\" found)", "initramfs-tools local; dracut 004 of RHEL 6"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 76, 0, line, "start job is running for ",
     "start job is running for (dev-.*\\.device|/dev/)", "systemd src/core/job.c: a device that is waited for"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 78, 0, line, "dracut", "Warning: dracut-initqueue.* timeout",
     "dracut initqueue"},
    {"ROOT_DEVICE_MISSING", "", initramfs, ends, 80, 8, line, "Unable to find root device", nullptr,
     "mkinitcpio init_functions"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 80, 0, line, "ERROR: device '", "ERROR: device '.*' not found",
     "mkinitcpio"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 80, 0, line, "mount: /",
     "mount: /(new_root|sysroot): (can't find |special device .* does not exist)", "mkinitcpio; util-linux mount"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 78, 0, line, "Mounting boot media",
     "Mounting boot media(: | )failed", "Alpine initramfs-init.in, without root="},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 80, 0, line, "on /sysroot failed", "mounting .* on /sysroot failed",
     "busybox mount; Alpine"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 80, 0, line, "Mounting root", "Mounting root(: | )failed",
     "Alpine initramfs-init.in"},
    {"ROOT_DEVICE_MISSING", "", initramfs, ends, 80, 5, prompt, "mountroot>", "^mountroot>",
     "FreeBSD kern/vfs_mountroot.c"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 78, 0, line, "device/start running",
     "ob dev-.*\\.device/start running", "systemd src/core/job.c: an initramfs that waits for ever"},
    {"ROOT_DEVICE_MISSING", "", initramfs, weakens, 78, 0, line, "ependency failed for",
     "ependency failed for (sysroot\\.mount|/sysroot|Initrd Root|File System Check on /dev.*sysroot)",
     "systemd in an initrd"},
    {"ROOT_MOUNT_FAILED", "", initramfs, weakens, 77, 0, line, "ailed to mount ",
     "ailed to mount (/sysroot|sysroot\\.mount)", "systemd sysroot.mount"},
    {"ROOT_MOUNT_FAILED", "", initramfs, weakens, 77, 0, line, " on /root failed", "mounting .* on /root failed",
     "busybox mount; initramfs-tools"},
    {"ROOT_MOUNT_FAILED", "", initramfs, weakens, 77, 0, line, "Failed to mount ",
     "Failed to mount ('.*' on real root|the real root device|.* as root file system)",
     "mkinitcpio init_functions, init; initramfs-tools local"},
    {"ROOT_MOUNT_FAILED", "", root, weakens, 77, 0, line, " as /", "Failed to mount .* as /\\S+ file system",
     "initramfs-tools local: /usr of its own"},
    {"ROOT_MOUNT_FAILED", "", initramfs, weakens, 77, 0, line, "mount: /",
     "mount: /(new_root|sysroot): (wrong fs type|no (valid )?filesystem type|unknown filesystem)",
     "mkinitcpio; util-linux mount"},
    {"ROOT_MOUNT_FAILED", "", root, weakens, 77, 0, line, "requires a manual fsck", nullptr,
     "initramfs-tools functions _checkfs_once"},
    // A mounted root is no end of the initramfs: what follows may still be its last words.
    {"NO_INIT", "", root, weakens, 79, 0, line, "No init found", nullptr, "initramfs-tools init"},
    {"NO_INIT", "", root, weakens, 79, 0, line, "Target filesystem doesn't have requested ", nullptr,
     "initramfs-tools init"},
    {"NO_INIT", "", root, weakens, 79, 0, line, "run-init: ", "run-init: (/|can't execute )",
     "klibc, busybox run-init"},
    {"NO_INIT", "", root, weakens, 79, 0, line, "Root device mounted successfully, but ", nullptr, "mkinitcpio init"},
    {"NO_INIT", "", root, ends, 79, 8, line, "not found in new root. Launching emergency", nullptr,
     "Alpine initramfs-init.in"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, prompt, "(initramfs)", "^\\(initramfs\\)", "initramfs-tools panic"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, line, "Something went badly wrong in the initramfs", nullptr,
     "initramfs-tools init"},
    {"", "", root, context, 0, 0, line, "due to panic= boot argument", nullptr, "initramfs-tools panic"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, prompt, ":/", "^(dracut|switch_root):/.*# ?",
     "dracut 98dracut-systemd, 99base emergency_shell"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 8, line, "Dropping to debug shell.", nullptr,
     "dracut 99base emergency_shell"},
    {"INITRAMFS_PROMPT", "", root, weakens, 49, 0, line, "/run/initramfs/rdsosreport.txt", "^Generating ",
     "dracut 99base/rdsosreport.sh"},
    {"INITRAMFS_PROMPT", "", root, weakens, 52, 0, line, "dracut: FATAL: ", nullptr, "dracut 99base die"},
    {"INITRAMFS_PROMPT", "", root, weakens, 48, 0, line, "arning: ", "Warning: (Could not boot\\.|Boot has failed)",
     "dracut initqueue, 99base emergency_shell"},
    {"", "", root, context, 0, 0, line, "Not all disks have been found", nullptr, "dracut 98dracut-systemd initqueue"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, line, "You are now being dropped into an emergency shell", nullptr,
     "mkinitcpio init_functions"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, line, "You are being dropped ", nullptr, "mkinitcpio init_functions"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, line, "Bailing out, you are on your own.", nullptr, "mkinitcpio init"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, prompt, "fs ", "^\\[(rootfs|ramfs) [^\\]]*\\][#$]",
     "mkinitcpio launch_interactive_shell"},
    {"INITRAMFS_PROMPT", "", root, ends, 50, 5, line, "initramfs emergency recovery shell launched", nullptr,
     "Alpine initramfs-init.in"},
    {"INITRAMFS_PROMPT", "", root, ends, 45, 10, line, "can't access tty; job control turned off", nullptr,
     "shell of busybox, dash and klibc on a console"},
    // The system comes up only in part.
    {"EMERGENCY_MODE", "", init, ends, 60, 5, line, "ou are in emergency mode", nullptr, "systemd emergency.service"},
    {"EMERGENCY_MODE", "", init, ends, 60, 5, line, "ou are in rescue mode", nullptr, "systemd rescue.service"},
    {"EMERGENCY_MODE", "", init, ends, 60, 10, line, "Reached target ", "Reached target .*Emergency Mode",
     "systemd emergency.target"},
    {"EMERGENCY_MODE", "", init, ends, 58, 10, line, "*** Dropping you to a shell", nullptr,
     "initscripts rc.sysinit of RHEL 5 and 6"},
    {"", "", init, context, 0, 0, line, "*** An error occurred during the ", nullptr,
     "initscripts rc.sysinit of RHEL 5 and 6"},
    {"EMERGENCY_MODE", "", init, ends, 60, 8, line, "Entering emergency mode", nullptr, "dracut emergency.service"},
    {"EMERGENCY_MODE", "", init, ends, 60, 5, line, "Cannot open access to console, the root account is locked",
     nullptr, "util-linux sulogin"},
    {"EMERGENCY_MODE", "", init, ends, 60, 5, prompt, "Give root password for", nullptr,
     "util-linux, sysvinit sulogin"},
    {"EMERGENCY_MODE", "", init, ends, 60, 5, prompt, "Press Enter for maintenance", nullptr, "util-linux sulogin"},
    {"INIT_FAILED", "", login, ends, 68, 5, line, "[!!!!!!] ", "^\\[!!!!!!\\] ", "systemd src/core/main.c"},
    {"INIT_FAILED", "", login, ends, 67, 5, line, "reezing",
     "systemd\\[1\\]: (Freezing execution|.*[,.] [Ff]reezing\\.)", "systemd src/core/crash-handler.c, main.c"},
    {"SYSTEM_INCOMPLETE", "", login, weakens, 20, 0, line, "ependency failed for ", nullptr, "systemd job.c"},
    {"SYSTEM_INCOMPLETE", "", login, weakens, 20, 0, line, "imed out waiting for device", nullptr, "systemd job.c"},
    {"SYSTEM_INCOMPLETE", "", login, weakens, 18, 0, line, "tart job is running for ", nullptr, "systemd job.c"},
    // Somebody must type something.
    {"PASSPHRASE_PROMPT", "", login, waits, 65, 60, prompt, "assphrase for ",
     "([Ee]nter|unlock|[Uu]nlocking).*assphrase for |^[Pp]assphrase for ", "cryptsetup; systemd-cryptsetup; dracut"},
    {"PASSPHRASE_PROMPT", "", login, waits, 65, 60, prompt, "lease unlock disk ", nullptr, "cryptsetup-initramfs"},
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
