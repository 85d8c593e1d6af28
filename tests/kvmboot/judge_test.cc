// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/judge.h"
#include "kvmboot/patterns.h"

#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace kvmport {
namespace {

using std::chrono::milliseconds;
using testing::Contains;
using testing::HasSubstr;
using Kind = Evidence::Kind;
using End = EngineOutcome::End;

constexpr std::array<std::string_view, 9> kind_names{"serial", "firmware", "screen", "disk_write", "disk",
                                                     "reset",  "shutdown", "fault",  "tick"};

/// The evidence of a boot that was recorded: one JSON object a line.
std::vector<Evidence> recorded(const std::string& name) {
  std::ifstream file("tests/kvmboot/data/" + name + ".jsonl");
  EXPECT_TRUE(file) << "tests run in the source tree";
  std::vector<Evidence> all;
  for (std::string line; std::getline(file, line);) {
    const auto j = nlohmann::json::parse(line);
    const auto kind = std::find(kind_names.begin(), kind_names.end(), j.at("kind").get<std::string>());
    all.push_back({static_cast<Kind>(kind - kind_names.begin()), milliseconds(j.at("at").get<long>()),
                   j.at("text").get<std::string>()});
  }
  return all;
}

/// Feeds until the judge has seen enough, as an engine does.
Verdict judge(const std::vector<Evidence>& evidence, Milestone until, End at_the_end = End::timeout) {
  Judge judge(until);
  EngineOutcome outcome;
  outcome.end = at_the_end;
  for (const Evidence& e : evidence)
    if (!judge.feed(e)) {
      outcome.end = End::judged;
      break;
    }
  return judge.verdict(outcome);
}

/// Lines on the serial console, one a second, then silence until somebody gives up.
std::vector<Evidence> serial(const std::vector<std::string>& lines, int ticks = 30) {
  std::vector<Evidence> all;
  long at = 0;
  for (const auto& line : lines)
    all.push_back({Kind::serial, milliseconds(at += 1000), line});
  for (int i = 0; i < ticks; i++)
    all.push_back({Kind::tick, milliseconds(at += 1000), ""});
  return all;
}

std::vector<Milestone> reached(const Verdict& v) {
  std::vector<Milestone> all;
  for (const auto& hit : v.reached)
    all.push_back(hit.milestone);
  return all;
}

// --- boots that were recorded ------------------------------------------------------------------------------------

struct Recorded {
  const char *file, *code, *detail, *line;
  Milestone last;
};

class RecordedBoots : public testing::TestWithParam<Recorded> {};

TEST_P(RecordedBoots, AreDiagnosed) {
  const Verdict v = judge(recorded(GetParam().file), Milestone::login);
  EXPECT_FALSE(v.proven);
  ASSERT_TRUE(v.diagnosis);
  EXPECT_EQ(v.diagnosis->code, GetParam().code);
  EXPECT_EQ(v.diagnosis->detail, GetParam().detail);
  EXPECT_THAT(v.diagnosis->lines, Contains(HasSubstr(GetParam().line)));
  EXPECT_FALSE(v.diagnosis->text.empty());
  ASSERT_FALSE(v.reached.empty());
  EXPECT_EQ(v.reached.back().milestone, GetParam().last);
}

INSTANTIATE_TEST_SUITE_P(
    All, RecordedBoots,
    testing::Values(Recorded{"no_root_on_virtio", "ROOT_DEVICE_MISSING", "", "/dev/sda1 does not exist",
                             Milestone::initramfs},
                    Recorded{"no_initrd", "KERNEL_PANIC", "VFS_NO_ROOT", "Unable to mount root fs", Milestone::kernel},
                    Recorded{"init_killed", "KERNEL_PANIC", "INIT_KILLED", "Attempted to kill init", Milestone::kernel},
                    Recorded{"uefi_empty_disk", "UEFI_SHELL", "", "UEFI Interactive Shell", Milestone::firmware},
                    Recorded{"grub_rescue", "GRUB_RESCUE", "", "normal.mod' not found", Milestone::bootloader},
                    Recorded{"grub_prompt", "GRUB_PROMPT", "", "grub>", Milestone::bootloader},
                    Recorded{"grub_no_device", "GRUB_ERROR", "", "no such device", Milestone::bootloader},
                    Recorded{"empty_disk", "NO_BOOTABLE_DEVICE", "", "No bootable device", Milestone::firmware}),
    [](const auto& param_info) { return param_info.param.file; });

TEST(Judge, GoodBootIsProvenToEachMilestone) {
  const auto evidence = recorded("good");
  const Verdict v = judge(evidence, Milestone::login);
  EXPECT_TRUE(v.proven);
  EXPECT_FALSE(v.diagnosis);
  // GRUB wrote to the screen alone, which is not in this recording; a milestone that left no line is not told.
  EXPECT_THAT(reached(v), testing::ElementsAre(Milestone::firmware, Milestone::kernel, Milestone::initramfs,
                                               Milestone::root, Milestone::login));
  for (std::size_t i = 1; i < v.reached.size(); i++)
    EXPECT_LE(v.reached[i - 1].at, v.reached[i].at);
  for (const Milestone until : {Milestone::kernel, Milestone::root}) {
    const Verdict early = judge(evidence, until);
    EXPECT_TRUE(early.proven);
    EXPECT_EQ(early.reached.back().milestone, until) << "the run ends there";
  }
}

TEST(Judge, CutOffGoodBootIsNotProven) {
  auto evidence = recorded("good");
  std::erase_if(evidence, [](const Evidence& e) { return e.text.find("login:") != std::string::npos; });
  const Verdict v = judge(evidence, Milestone::login);
  EXPECT_FALSE(v.proven);
  EXPECT_EQ(v.diagnosis.value().code, "BOOT_TIMEOUT");
  EXPECT_EQ(v.reached.back().milestone, Milestone::root);
}

// --- lines -------------------------------------------------------------------------------------------------------

struct Failure {
  const char* name;
  std::vector<std::string> lines;
  const char *code, *detail;
};

class FailureLines : public testing::TestWithParam<Failure> {};

TEST_P(FailureLines, AreNamed) {
  const Verdict v = judge(serial(GetParam().lines, 100), Milestone::login);
  EXPECT_FALSE(v.proven);
  EXPECT_EQ(v.diagnosis.value().code, GetParam().code);
  EXPECT_EQ(v.diagnosis->detail, GetParam().detail);
  EXPECT_FALSE(v.diagnosis->lines.empty());
}

const std::string kernel_line = "[    0.000000] Linux version 6.1.0 (gcc)\n";

INSTANTIATE_TEST_SUITE_P(
    All, FailureLines,
    testing::Values(
        Failure{"dracut_warning",
                {kernel_line, "[  190.1] dracut-initqueue[300]: Warning: dracut-initqueue: timeout\n",
                 "Warning: /dev/disk/by-uuid/1234 does not exist\n",
                 "\nGenerating \"/run/initramfs/rdsosreport.txt\"\n",
                 "Entering emergency mode. Exit the shell to continue.\n", "dracut:/# "},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"systemd_waits_for_ever",
                {kernel_line, "[    6.0] systemd[1]: Running in initrd.\n",
                 "[ ***  ] Job dev-sda1.device/start running (3min 2s / no limit)\n"},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"mkinitcpio",
                {kernel_line, ":: running hook [udev]\n", "ERROR: device 'UUID=12' not found. Skipping fsck.\n",
                 "ERROR: Unable to find root device 'UUID=12'.\n", "You are being dropped to a recovery shell\n",
                 "[rootfs ]# "},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"alpine",
                {kernel_line, "Alpine Init 3.8.1-r0\n", "mount: mounting /dev/sda3 on /sysroot failed: No such file\n",
                 "Mounting root: failed.\n", "initramfs emergency recovery shell launched. Type 'exit'\n", "sh: ~# "},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"initramfs_prompt_alone", {kernel_line, "BusyBox v1.35\n\n(initramfs) "}, "INITRAMFS_PROMPT", ""},
        Failure{"wrong_fstab",
                {kernel_line, "[    5.0] EXT4-fs (vda1): mounted filesystem with ordered data mode\n",
                 "[ TIME ] Timed out waiting for device dev-sdb1.device - /dev/sdb1.\n",
                 "[DEPEND] Dependency failed for data.mount - /data.\n",
                 "You are in emergency mode. After logging in,\n",
                 "Give root password for maintenance\n(or press Control-D to continue): "},
                "EMERGENCY_MODE",
                ""},
        Failure{
            "locked_root",
            {kernel_line, "Cannot open access to console, the root account is locked.\n", "Press Enter to continue.\n"},
            "EMERGENCY_MODE",
            ""},
        Failure{"no_working_init",
                {kernel_line, "[    2.000000] Kernel panic - not syncing: No working init found.  Try passing init=\n"},
                "KERNEL_PANIC",
                "NO_INIT"},
        Failure{"no_init_on_the_root",
                {kernel_line, "mount: mounting /dev/vda1 on /root failed: Invalid argument\n",
                 "No init found. Try passing init= bootarg.\n", "(initramfs) "},
                "NO_INIT",
                ""},
        Failure{"other_panic",
                {kernel_line, "[    2.0] Kernel panic - not syncing: Fatal exception\n"},
                "KERNEL_PANIC",
                ""},
        Failure{"passphrase_initramfs", {kernel_line, "Please unlock disk sda3_crypt: "}, "PASSPHRASE_PROMPT", ""},
        Failure{"passphrase_systemd",
                {kernel_line, "Please enter passphrase for disk data (luks-12)! "},
                "PASSPHRASE_PROMPT",
                ""},
        Failure{"uefi_nothing", {"BdsDxe: No bootable option or device was found.\r\n"}, "UEFI_NO_BOOT_OPTION", ""},
        Failure{"uefi_shell", {"UEFI Interactive Shell v2.2\r\n", "Shell> "}, "UEFI_SHELL", ""},
        Failure{
            "secure_boot",
            {"BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x3,0x0): Access Denied\n"},
            "SECURE_BOOT_REFUSED",
            ""},
        Failure{"grub_legacy",
                {"GNU GRUB  version 0.97\n", "Error 17: Cannot mount selected partition\n"},
                "GRUB_ERROR",
                ""},
        Failure{"freebsd_mountroot", {kernel_line, "mountroot> "}, "ROOT_DEVICE_MISSING", ""},
        Failure{"systemd_waits",
                {kernel_line, "[DEPEND] Dependency failed for data.mount - /data.\n"},
                "SYSTEM_INCOMPLETE",
                ""}),
    [](const auto& param_info) { return param_info.param.name; });

// --- what initramfses say when they give up, as it was recorded or as their scripts print it -------------------------

const std::string root_is_mounted =
    "[    5.0] EXT4-fs (vda1): mounted filesystem with ordered data mode. Quota mode: none.\n";

INSTANTIATE_TEST_SUITE_P(
    Initramfs, FailureLines,
    testing::Values(
        Failure{"mkinitcpio_device",
                {kernel_line, ":: running early hook [udev]\n", "Starting version 249.6-3-arch\n",
                 ":: running hook [udev]\n", ":: Triggering uevents...\n",
                 "Waiting 10 seconds for device /dev/sda3 ...\n",
                 "ERROR: device '/dev/sda3' not found. Skipping fsck.\n", ":: mounting '/dev/sda' on real root\n",
                 "mount: /new_root: no filesystem type specified.\n",
                 "You are now being dropped into an emergency shell.\n",
                 "sh: can't access tty; job control turned off\n", "[rootfs ]# "},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"mkinitcpio_uuid",
                {kernel_line, "mount: /new_root: can't find UUID=9d4e74d8-8046-4f12-9ac9-624b8f306343.\n",
                 "You are now being dropped into an emergency shell.\n"},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"mkinitcpio_filesystem",
                {kernel_line, ":: performing fsck on '/dev/vda2'\n", ":: mounting '/dev/vda2' on real root\n",
                 "mount: /new_root: wrong fs type, bad option, bad superblock on /dev/vda2, missing codepage or helper "
                 "program, or other error.\n",
                 "You are now being dropped into an emergency shell.\n", "[rootfs ]#"},
                "ROOT_MOUNT_FAILED",
                ""},
        Failure{"mkinitcpio_no_mount",
                {kernel_line, "ERROR: Failed to mount the real root device.\n",
                 "Bailing out, you are on your own. Good luck.\n", "[rootfs ~]# "},
                "ROOT_MOUNT_FAILED",
                ""},
        Failure{"mkinitcpio_no_init",
                {kernel_line, root_is_mounted,
                 "ERROR: Root device mounted successfully, but /sbin/init does not exist.\n",
                 "Bailing out, you are on your own. Good luck.\n", "[rootfs ]# "},
                "NO_INIT",
                ""},
        Failure{"mkinitcpio_prompt_alone", {kernel_line, "[ramfs /]# "}, "INITRAMFS_PROMPT", ""},
        Failure{"alpine_recorded",
                {kernel_line, "[ 6.630967] /dev/ram0: Can't lookup blockdev\n",
                 "mount: mounting /dev/ram0 on /sysroot failed: No such file or directory\n",
                 "Mounting root: failed. \n",
                 "initramfs emergency recovery shell launched. Type 'exit' to continue boot\n",
                 "sh: can't access tty; job control turned off\n", "~ # "},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"alpine_no_init",
                {kernel_line, root_is_mounted, "/sbin/init not found in new root. Launching emergency recovery shell\n",
                 "Type exit to continue boot.\n", "sh: can't access tty; job control turned off\n", "/ # "},
                "NO_INIT",
                ""},
        Failure{"alpine_boot_media", {kernel_line, " * Mounting boot media: failed. \n"}, "ROOT_DEVICE_MISSING", ""},
        Failure{"dracut_recorded",
                {kernel_line, "[  205.095282] dracut-initqueue[669]: Warning: Could not boot.\n",
                 "         Starting Dracut Emergency Shell...\n", "Warning: /dev/mapper/rootvg-rootlv does not exist\n",
                 "\nGenerating \"/run/initramfs/rdsosreport.txt\"\n", "dracut:/# "},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"dracut_rhel6",
                {kernel_line, "dracut Warning: No root device \"block:/dev/disk/by-uuid/12\" found\n",
                 "dracut Warning: Boot has failed. To debug this issue add \"rdshell\" to the kernel command line.\n",
                 "dracut Warning: Signal caught!\n", "Kernel panic - not syncing: Attempted to kill init!\n"},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"dracut_dies",
                {kernel_line, "[    1.9] dracut: FATAL: No or empty root= argument\n",
                 "[    1.9] dracut: Refusing to continue\n"},
                "INITRAMFS_PROMPT",
                ""},
        Failure{"dracut_before_the_switch", {kernel_line, root_is_mounted, "switch_root:/# "}, "INITRAMFS_PROMPT", ""},
        Failure{"systemd_waits_in_the_initrd",
                {kernel_line, "[***   ] A start job is running for dev-sdb1.device (31s / 1min 30s)\n"},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"initramfs_tools_fsck",
                {kernel_line, "/dev/sda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n",
                 "fsck exited with status code 4\n", "The root filesystem on /dev/sda1 requires a manual fsck\n",
                 "\n\nBusyBox v1.22.1 (Ubuntu) built-in shell (ash)\n", "(initramfs) "},
                "ROOT_MOUNT_FAILED",
                ""},
        Failure{"initramfs_tools_no_init",
                {kernel_line, root_is_mounted, "Target filesystem doesn't have requested /sbin/init.\n",
                 "run-init: /sbin/init: No such file or directory\n", "No init found. Try passing init= bootarg.\n",
                 "(initramfs) "},
                "NO_INIT",
                ""},
        Failure{"initramfs_tools_no_usr",
                {kernel_line, root_is_mounted, "Failed to mount /dev/sda2 as /usr file system.\n", "(initramfs) "},
                "ROOT_MOUNT_FAILED",
                ""},
        Failure{"initramfs_tools_no_root",
                {kernel_line, "No root device specified. Boot arguments must include a root= parameter.\n"},
                "ROOT_DEVICE_MISSING",
                ""},
        Failure{"shell_alone",
                {kernel_line, "/bin/sh: 0: can't access tty; job control turned off\n# "},
                "INITRAMFS_PROMPT",
                ""},
        Failure{"rescue",
                {kernel_line, root_is_mounted, "[  OK  ] Reached target Rescue Mode.\n",
                 "You are in rescue mode. After logging in, type \"journalctl -xb\" to view\n"},
                "EMERGENCY_MODE",
                ""},
        Failure{"emergency_target", {kernel_line, "[  OK  ] Reached target Emergency Mode.\n"}, "EMERGENCY_MODE", ""},
        Failure{"rhel6_fsck",
                {kernel_line, root_is_mounted, "*** An error occurred during the file system check.\n",
                 "*** Dropping you to a shell; the system will reboot\n", "*** when you leave the shell.\n"},
                "EMERGENCY_MODE",
                ""},
        Failure{"systemd_freezes",
                {kernel_line, root_is_mounted, "[!!!!!!] Failed to mount API filesystems.\n",
                 "[   23.914562] systemd[1]: Freezing execution.\n"},
                "INIT_FAILED",
                ""},
        Failure{"selinux",
                {kernel_line, root_is_mounted, "systemd[1]: Failed to load SELinux policy. Freezing.\n"},
                "INIT_FAILED",
                ""},
        Failure{"systemd_job",
                {kernel_line, root_is_mounted,
                 "[***   ] A start job is running for Raise network interfaces (2min 1s / 5min 3s)\n"},
                "SYSTEM_INCOMPLETE",
                ""}),
    [](const auto& param_info) { return param_info.param.name; });

struct Hit {
  const char* name;
  std::vector<std::string> lines;
  Milestone milestone;
};

class MilestoneLines : public testing::TestWithParam<Hit> {};

TEST_P(MilestoneLines, AreReached) {
  const Verdict v = judge(serial(GetParam().lines), GetParam().milestone);
  EXPECT_TRUE(v.proven);
  ASSERT_FALSE(v.reached.empty());
  EXPECT_EQ(v.reached.back().milestone, GetParam().milestone);
  EXPECT_EQ(v.reached.back().source, "serial");
}

const std::string root_line = "[    5.0] XFS (dm-0): Ending clean mount\n";

INSTANTIATE_TEST_SUITE_P(
    All, MilestoneLines,
    testing::Values(
        Hit{"uefi", {"BdsDxe: loading Boot0001 \"debian\"\n"}, Milestone::firmware},
        Hit{"uefi_loader", {"BdsDxe: starting Boot0001 \"debian\"\n"}, Milestone::bootloader},
        Hit{"extlinux", {"EXTLINUX 6.04 20191223 Copyright (C)\n"}, Milestone::bootloader},
        Hit{"systemd_boot", {"Reboot Into Firmware Interface\n"}, Milestone::bootloader},
        Hit{"quiet_kernel", {"[    1.234567] ACPI BIOS Error (bug)\n"}, Milestone::kernel},
        Hit{"dracut", {"[    3.1] dracut-cmdline[231]: dracut-057\n"}, Milestone::initramfs},
        Hit{"systemd_initrd", {"Welcome to Fedora Linux 39 dracut-059 (Initramfs)!\n"}, Milestone::initramfs},
        Hit{"btrfs", {"[    4.0] BTRFS info (device vda2): first mount of filesystem 12\n"}, Milestone::root},
        Hit{"sysroot", {"[  OK  ] Mounted sysroot.mount - /sysroot.\n"}, Milestone::root},
        Hit{"systemd", {root_line, "\x1b[1mWelcome to Debian GNU/Linux 12 (bookworm)!\x1b[0m\n"}, Milestone::init},
        Hit{"sysvinit", {"INIT: version 3.06 booting\n"}, Milestone::init},
        Hit{"openrc", {"   OpenRC 0.48 is starting up Linux\n"}, Milestone::init},
        Hit{"getty", {"\r\nDebian GNU/Linux 12 host ttyS0\r\n\r\nhost login: "}, Milestone::login},
        Hit{"getty_and_kernel", {"host login: [   30.123456] random: crng init done\n"}, Milestone::login},
        Hit{"multi_user", {"[  OK  ] Reached target multi-user.target - Multi-User System.\n"}, Milestone::login}),
    [](const auto& param_info) { return param_info.param.name; });

class NotLogin : public testing::TestWithParam<const char*> {};

TEST_P(NotLogin, IsNoProof) {
  EXPECT_FALSE(judge(serial({GetParam()}), Milestone::login).proven);
}

INSTANTIATE_TEST_SUITE_P(All, NotLogin,
                         testing::Values("Last login: Mon Jan  1 on tty1\n", "systemd-logind: New seat\n",
                                         "please login: use ssh\n", "Welcome to GRUB!\n", "no login: here\n"));

TEST(Judge, SystemdInTheInitramfsIsNotInit) {
  EXPECT_FALSE(judge(serial({kernel_line, "[    2.0] systemd[1]: systemd 252 running in system mode (+PAM)\n",
                             "Welcome to Arch Linux!\n"}),
                     Milestone::init)
                   .proven);
}

// --- the course of a run -----------------------------------------------------------------------------------------

TEST(Judge, AFailureThatIsOvertakenIsForgotten) {
  const Verdict v = judge(serial({"Boot failed: not a bootable disk\n", "error: no such device: 12.\n", kernel_line,
                                  "[    9.0] EXT4-fs (vda1): mounted filesystem\n"}),
                          Milestone::login);
  EXPECT_EQ(v.diagnosis.value().code, "BOOT_TIMEOUT");
}

TEST(Judge, TerminalFailureEndsTheRunOnlyWhenItIsStable) {
  Judge judge(Milestone::login);
  EXPECT_TRUE(
      judge.feed({Kind::serial, milliseconds(1000), "Kernel panic - not syncing: VFS: Unable to mount root fs\n"}));
  EXPECT_TRUE(judge.feed({Kind::tick, milliseconds(2000), ""}));
  EXPECT_FALSE(judge.feed({Kind::tick, milliseconds(5000), ""}));
}

TEST(Judge, SilenceIsAHangUnlessTheDisksAreUsed) {
  for (const bool busy : {false, true}) {
    Judge judge(Milestone::login, [] { return std::chrono::seconds(30); });
    judge.feed({Kind::serial, milliseconds(0), kernel_line});
    bool more = true;
    for (int second = 1; second < 60 && more; second++)
      more = judge.feed({Kind::tick, std::chrono::seconds(second), busy ? "disk" : ""});
    EXPECT_EQ(more, busy);
    const Verdict v = judge.verdict({more ? End::timeout : End::judged, "", {}, {}});
    EXPECT_EQ(v.diagnosis.value().code, busy ? "BOOT_TIMEOUT" : "BOOT_HANG");
    EXPECT_THAT(v.diagnosis->lines, Contains(HasSubstr("Linux version")));
  }
}

TEST(Judge, ThreeRestartsAreALoop) {
  Judge judge(Milestone::login);
  long at = 0;
  bool more = true;
  int restarts = 0;
  while (more && restarts < 10) {
    judge.feed({Kind::firmware, milliseconds(at += 1000), "SeaBIOS (version 1.16.2)\n"});
    judge.feed({Kind::serial, milliseconds(at += 1000), kernel_line});
    more = judge.feed({Kind::reset, milliseconds(at += 1000), ""});
    restarts++;
  }
  EXPECT_EQ(restarts, 3);
  EXPECT_EQ(judge.verdict({End::judged, "", {}, {}}).diagnosis.value().code, "BOOT_LOOP");
}

TEST(Judge, ALoopOfPanicsIsNamedAfterThePanic) {
  Judge judge(Milestone::login);
  for (long at = 0; at < 12000; at += 4000) {
    judge.feed({Kind::serial, milliseconds(at + 1000), kernel_line});
    judge.feed(
        {Kind::serial, milliseconds(at + 2000), "Kernel panic - not syncing: VFS: Unable to mount root fs on x\n"});
    judge.feed({Kind::reset, milliseconds(at + 3000), ""});
  }
  const Verdict v = judge.verdict({End::judged, "", {}, {}});
  EXPECT_EQ(v.diagnosis.value().code, "KERNEL_PANIC");
  EXPECT_THAT(v.diagnosis->text, HasSubstr("over and over"));
  EXPECT_THAT(v.diagnosis->lines, Contains(HasSubstr("Unable to mount root fs")));
}

TEST(Judge, ScreenTextIsEvidence) {
  Judge judge(Milestone::login);
  EXPECT_TRUE(judge.feed({Kind::screen, milliseconds(1000), "GRUB loading.\nLinux version 6.1\n"}));
  EXPECT_FALSE(
      judge.feed({Kind::screen, milliseconds(9000), "GRUB loading.\nDebian GNU/Linux 12 host tty1\n\nhost login:\n"}));
  const Verdict v = judge.verdict({End::judged, "", {}, {}});
  EXPECT_TRUE(v.proven);
  EXPECT_EQ(v.reached.back().source, "screen");
  EXPECT_EQ(v.reached.back().evidence, "host login:");
}

TEST(Judge, CutsLinesOfAScreenThatNoScreenHas) { // a machine's process that its guest took over may send them
  Judge judge(Milestone::login);
  const std::string line = "Linux version 6.1 " + std::string(30000, 'x');
  EXPECT_TRUE(judge.feed({Kind::screen, milliseconds(1000), line + "\nWelcome to GRUB!"}));
  ASSERT_EQ(judge.reached().size(), 2U);
  EXPECT_EQ(judge.reached().back().evidence, line.substr(0, 512));
}

TEST(Judge, DisksProveWhatNoConsoleShows) {
  Judge judge(Milestone::login);
  EXPECT_TRUE(judge.feed({Kind::firmware, milliseconds(100), "SeaBIOS (version 1.16.2)\n"}));
  EXPECT_TRUE(judge.feed({Kind::disk, milliseconds(9000), "root: partition 1 was mounted"}));
  EXPECT_TRUE(judge.feed({Kind::disk, milliseconds(9500), "nonsense: x"}));
  EXPECT_TRUE(judge.feed({Kind::disk, milliseconds(9600), ""}));
  EXPECT_FALSE(judge.feed({Kind::disk, milliseconds(9700), "login: /sbin/agetty was read"}));
  const Verdict v = judge.verdict({End::judged, "", {}, {}});
  EXPECT_TRUE(v.proven);
  EXPECT_THAT(reached(v), testing::ElementsAre(Milestone::firmware, Milestone::root, Milestone::login));
  EXPECT_EQ(v.reached.back().source, "disk");
  EXPECT_EQ(v.reached.back().evidence, "/sbin/agetty was read");
}

/// The console's words stand against the disks'.
TEST(Judge, AFailureThatAConsoleShowedOutweighsTheDisks) {
  for (const std::string failure : {"[    9.0] Kernel panic - not syncing: Attempted to kill init!\n",
                                    "No init found. Try passing init= bootarg.\n(initramfs) "}) {
    Judge judge(Milestone::login);
    judge.feed({Kind::serial, milliseconds(1000), kernel_line});
    judge.feed({Kind::disk, milliseconds(2000), "root: partition 1 was mounted"});
    judge.feed({Kind::serial, milliseconds(3000), failure});
    judge.feed({Kind::disk, milliseconds(3500), "login: /var/log/wtmp says that a login waits"});
    EXPECT_FALSE(judge.feed({Kind::tick, milliseconds(30000), ""}));
    const Verdict v = judge.verdict({End::judged, "", {}, {}});
    EXPECT_FALSE(v.proven);
    EXPECT_EQ(v.reached.back().milestone, Milestone::root);
    EXPECT_EQ(v.diagnosis.value().code, failure.front() == '[' ? "KERNEL_PANIC" : "NO_INIT");
    EXPECT_THAT(v.diagnosis->lines, Contains(HasSubstr("against this, the disks show login: /var/log/wtmp")));
  }
}

TEST(Judge, DisksMakeNoFailureForgottenThatOnlyWeakens) {
  Judge judge(Milestone::login);
  judge.feed({Kind::serial, milliseconds(1000), kernel_line});
  judge.feed({Kind::serial, milliseconds(2000), "Warning: /dev/disk/by-uuid/12 does not exist\n"});
  judge.feed({Kind::disk, milliseconds(3000), "root: partition 1 was mounted"});
  EXPECT_EQ(judge.verdict({End::timeout, "", {}, {}}).diagnosis.value().code, "ROOT_DEVICE_MISSING");
  EXPECT_FALSE(judge.feed({Kind::disk, milliseconds(4000), "login: /sbin/agetty was read"}));
}

TEST(Judge, ARestartForgetsWhatTheDisksShowed) {
  Judge judge(Milestone::init);
  judge.feed({Kind::disk, milliseconds(2000), "root: partition 1 was mounted"});
  judge.feed({Kind::reset, milliseconds(3000), ""});
  EXPECT_TRUE(judge.feed({Kind::serial, milliseconds(4000), "Welcome to Arch Linux!\n"})) << "an initramfs says it too";
  judge.feed({Kind::disk, milliseconds(5000), "root: partition 1 was mounted"});
  EXPECT_FALSE(judge.feed({Kind::serial, milliseconds(6000), "Welcome to Debian GNU/Linux 12 (bookworm)!\n"}));
}

TEST(Judge, EngineAndGuestFailuresAreToldApart) {
  const auto code = [](EngineOutcome outcome) { return Judge(Milestone::login).verdict(outcome).diagnosis.value(); };
  EXPECT_EQ(code({End::engine_failed, "qemu: no", {}, {}}).code, "ENGINE_FAILED");
  EXPECT_THAT(code({End::engine_failed, "qemu: no", {}, {}}).lines, Contains("qemu: no"));
  EXPECT_EQ(code({End::shutdown, "", {}, {}}).code, "POWERED_OFF");
  EXPECT_EQ(code({End::interrupted, "", {}, {}}).code, "INTERRUPTED");
  EXPECT_THAT(code({End::timeout, "a disk failed: DISK_TRUNCATED", {}, {}}).lines,
              Contains(HasSubstr("DISK_TRUNCATED")));
}

TEST(Judge, HostileOutputIsQuotedHarmlessly) {
  const Verdict v = judge(serial({"error: \x1b]0;evil\x07 \xff\xfe no such device: 12.\n"}), Milestone::login);
  EXPECT_EQ(v.diagnosis.value().lines.at(0), "error:  ?? no such device: 12.");
}

TEST(Milestones, NamesGoBothWays) {
  EXPECT_EQ(parse_milestone("root"), Milestone::root);
  EXPECT_EQ(to_string(Milestone::initramfs), "initramfs");
  try {
    parse_milestone("desktop");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "MILESTONE_UNKNOWN");
    EXPECT_THAT(e.hint(), HasSubstr("bootloader"));
  }
}

TEST(Patterns, EveryRowNamesItsSourceAndEveryCodeIsExplained) {
  for (const auto& rule : milestone_rules())
    EXPECT_FALSE(rule.source.empty()) << rule.needle;
  for (const auto& rule : failure_rules()) {
    EXPECT_FALSE(rule.source.empty()) << rule.needle;
    EXPECT_EQ(rule.code.empty(), rule.effect == Effect::context) << rule.needle;
    EXPECT_EQ(rule.code.empty(), explain(rule.code).empty()) << rule.code;
  }
}

} // namespace
} // namespace kvmport
