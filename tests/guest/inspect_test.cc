// SPDX-License-Identifier: Apache-2.0
#include "formats/kernel_image.h"
#include "libconvert/guest/inspect_devices.h"
#include "libconvert/guest/inspect_roots.h"
#include "libconvert/guest/inspect_system.h"
#include "libconvert/guest/kernels.h"
#include "tests/guest/guest_tree.h"

#include <algorithm>
#include <gmock/gmock.h>

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// --- block devices ------------------------------------------------------------------------------------------------

Machine machine_of(const std::vector<std::string>& names) {
  Machine machine;
  for (const auto& name : names)
    machine.disks.push_back(disk_named(name));
  return machine;
}

std::string line(const std::string& name, const std::string& parent, const std::string& type, const std::string& hctl,
                 const std::string& fs, const std::string& more = "") {
  const std::string kernel = type == "lvm" || type == "crypt" ? "dm-" + std::to_string(name.size()) : name;
  return "NAME=\"" + name + "\" KNAME=\"" + kernel + "\" PKNAME=\"" + parent + "\" TYPE=\"" + type +
         "\" SIZE=\"1048576\" HCTL=\"" + hctl + "\" FSTYPE=\"" + fs + "\" UUID=\"u-" + name + "\" " + more + "\n";
}

std::vector<std::string> names_of(const std::vector<FoundDevice>& devices) {
  std::vector<std::string> names;
  for (const auto& found : devices)
    names.push_back(found.device.source_name);
  return names;
}

TEST(Survey, DisksAreFoundByTheirPlaceNotTheirName) {
  // The appliance called the second disk sda; its own system disk comes last.
  const auto devices =
      parse_survey(line("sda", "", "disk", "2:0:1:0", "") + line("sda1", "sda", "part", "", "ext4") +
                       line("sdb", "", "disk", "2:0:0:0", "") + line("sdb2", "sdb", "part", "", "swap") +
                       line("sdc", "", "disk", "2:0:2:0", "ext2"),
                   machine_of({"nvme0n1", "hda"}));
  EXPECT_THAT(names_of(devices), ElementsAre("/dev/hda", "/dev/hda1", "/dev/nvme0n1", "/dev/nvme0n1p2"));
  EXPECT_EQ(devices[1].device.disk, 1);
  EXPECT_EQ(devices[1].device.partition, 1U);
  EXPECT_EQ(devices[1].appliance, "/dev/sda1");
  EXPECT_EQ(devices[1].guestfs, "/dev/sdb1") << "the kernel found the second disk first";
  EXPECT_EQ(devices[2].guestfs, "/dev/sda");
  EXPECT_EQ(devices[3].device.type, "swap");
}

TEST(Survey, VolumesArraysAndContainers) {
  const auto devices =
      parse_survey(line("sda", "", "disk", "2:0:0:0", "") +
                       line("sda1", "sda", "part", "", "linux_raid_member", R"(PARTUUID="ABCD-01" PARTTYPE="0xFD")") +
                       line("md127", "sda1", "raid1", "", "ext4") + line("md127", "sdb1", "raid1", "", "ext4") +
                       line("vg--a-root", "sda2", "lvm", "", "xfs") + line("luks-u-sda3", "sda3", "crypt", "", "ext4") +
                       "@md md127\nMD_NAME=host:0\n",
                   machine_of({"sda"}));
  EXPECT_THAT(names_of(devices),
              ElementsAre("/dev/sda", "/dev/sda1", "/dev/md0", "/dev/vg-a/root", "/dev/mapper/luks-u-sda3"));
  EXPECT_EQ(devices[1].device.part_uuid, "abcd-01");
  EXPECT_EQ(devices[1].device.part_type, "0xfd");
  EXPECT_TRUE(devices[2].device.stable_name());
}

TEST(Survey, EscapedAndBrokenLines) {
  const auto devices = parse_survey(line("sda", "", "disk", "2:0:0:0", "ext4", R"(LABEL="my\x20\x22root\x22")") +
                                        "NAME=\"sdb\nKNAME=\"\n\nnonsense\n" + line("sdz9", "sdz", "part", "", "x"),
                                    machine_of({"sda"}));
  ASSERT_THAT(devices, SizeIs(1));
  EXPECT_EQ(devices[0].device.label, "my \"root\"");
}

TEST(Survey, VolumeNames) {
  EXPECT_EQ(volume_name("vg0-root"), "/dev/vg0/root");
  EXPECT_EQ(volume_name("my--vg-my--lv"), "/dev/my-vg/my-lv");
  EXPECT_EQ(volume_name("plain"), "/dev/mapper/plain");
}

// --- systems ------------------------------------------------------------------------------------------------------

std::vector<FoundDevice> two_roots() {
  return parse_survey(line("sda", "", "disk", "2:0:0:0", "") + line("sda1", "sda", "part", "", "ext4") +
                          line("sda2", "sda", "part", "", "btrfs") + line("sda3", "sda", "part", "", "ntfs"),
                      machine_of({"sda"}));
}

TEST(Roots, AnswersAreRead) {
  const auto search = parse_roots("@root /dev/sda1 \n@name PRETTY_NAME=\"Debian @root /dev/sda2\"\n"
                                  "@fstab UUID=x defaults\n@root /dev/sda2 @/snap\n@name CentOS release 6\n@fstab \n"
                                  "@windows /dev/sda3\n@error /dev/sda1 mount: wrong fs type\n@root /dev/sdq1 x\n",
                                  two_roots());
  ASSERT_THAT(search.roots, SizeIs(2));
  EXPECT_EQ(search.roots[0].name, "Debian @root /dev/sda2");
  EXPECT_EQ(search.roots[0].fstab_root, "UUID=x");
  EXPECT_EQ(search.roots[1].subvolume, "@/snap");
  EXPECT_EQ(search.roots[1].name, "CentOS release 6");
  EXPECT_THAT(search.windows, ElementsAre("/dev/sda3"));
  EXPECT_THAT(search.problems, ElementsAre("/dev/sda1 (ext4): mount: wrong fs type"));
}

TEST(Roots, TheScriptLooksAtEveryKindOnce) {
  const std::string script = root_script(two_roots());
  EXPECT_THAT(script, HasSubstr("\nlinux '/dev/sda1' ext4"));
  EXPECT_THAT(script, HasSubstr("\nbtrfs_all '/dev/sda2'"));
  EXPECT_THAT(script, HasSubstr("\nwindows '/dev/sda3'"));
}

// --- fstab --------------------------------------------------------------------------------------------------------

TEST(Fstab, EntriesAndOptions) {
  const auto entries = parse_fstab("# c\nUUID=\"a\" / ext4 rw 0 1\n\n/dev/sda2 /boot\\040x btrfs ro,subvol=@b,x 0 0\n"
                                   "broken\n/dev/sda3 /usr xfs\n");
  ASSERT_THAT(entries, SizeIs(3));
  EXPECT_EQ(entries[0].spec, "UUID=a");
  EXPECT_EQ(entries[1].path, "/boot x");
  EXPECT_EQ(entries[1].line, 4U);
  EXPECT_EQ(mount_options(entries[1]), "noatime,subvol=@b");
  EXPECT_EQ(mount_options(entries[2]), "noatime,nouuid");
}

struct Needed {
  const char* line;
  bool needed;
};
class NeededMounts : public testing::TestWithParam<Needed> {};
TEST_P(NeededMounts, OnlyWhatTheConversionLooksAt) {
  EXPECT_EQ(needed_mount(parse_fstab(GetParam().line).at(0)), GetParam().needed) << GetParam().line;
}
INSTANTIATE_TEST_SUITE_P(Lines, NeededMounts,
                         testing::Values(Needed{"/dev/a /boot ext4 defaults", true},
                                         Needed{"/dev/a /boot/efi vfat umask=0077", true},
                                         Needed{"/dev/a /usr ext4 ro", true}, Needed{"/dev/a /home ext4", false},
                                         Needed{"/dev/a /bootstrap ext4", false}, Needed{"/dev/a none swap sw", false},
                                         Needed{"host:/x /usr/local nfs", false}, Needed{"/a /boot none bind", false},
                                         Needed{"/dev/a / ext4", false}));

// --- what the tree says -------------------------------------------------------------------------------------------

TEST(Identity, OfOsReleaseAndOlderFiles) {
  GuestTree alma, centos6;
  alma.file("/usr/lib/os-release",
            "ID=\"almalinux\"\nVERSION_ID=\"9.3\"\nID_LIKE=\"rhel centos fedora\"\nPRETTY_NAME=\"AlmaLinux 9\"\n")
      .link("../usr/lib/os-release", "/etc/os-release")
      .file("/bin/sh", std::string("\x7f"
                                   "ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0\xb7\0",
                                   20));
  GuestInfo info;
  read_identity(alma.filesystem(), info);
  EXPECT_EQ(info.distro + " " + info.version + " " + info.pretty_name, "almalinux 9.3 AlmaLinux 9");
  EXPECT_TRUE(info.is("rhel") && info.is("almalinux") && !info.is("debian"));
  EXPECT_EQ(info.arch, "aarch64");
  centos6.file("/etc/redhat-release", "CentOS release 6.10 (Final)\n");
  GuestInfo old;
  read_identity(centos6.filesystem(), old);
  EXPECT_EQ(old.distro + " " + old.version, "centos 6.10");
}

TEST(Esp, IsMountedWhereItBelongsOrWhereNothingIs) {
  GuestTree tree;
  tree.directory("/boot/efi").file("/boot/vmlinuz", "x").directory("/mnt");
  EXPECT_EQ(place_for_esp(tree.filesystem(), {}), "/boot/efi");
  EXPECT_EQ(place_for_esp(tree.filesystem(), {{"/boot/efi", "/dev/sda1", "vfat", ""}}), "/mnt");
  EXPECT_FALSE(has_efi_loader(tree.filesystem(), "/boot/efi"));
  tree.file("/boot/efi/efi/Debian/SHIMX64.EFI", "MZ");
  EXPECT_TRUE(has_efi_loader(tree.filesystem(), "/boot/efi"));
}

TEST(Crypttab, NamesOpenedContainers) {
  GuestTree tree;
  tree.file("/etc/crypttab", "# x\nsecret UUID=" + fs_uuid(0, 3) + " none luks\n");
  const GuestInfo info = one_disk_guest();
  EXPECT_EQ(crypttab_name(tree.filesystem(), info, info.devices.at(3)), "secret");
  EXPECT_EQ(crypttab_name(tree.filesystem(), info, info.devices.at(1)), "");
}

// --- kernels ------------------------------------------------------------------------------------------------------

/// The beginning of an x86 kernel that calls itself `version`.
std::string bzimage(const std::string& version) {
  std::string head(0x400, '\0');
  head.replace(0x202, 4, "HdrS");
  head[0x20e] = '\0';
  head[0x20f] = '\1'; // at 0x100 + 0x200
  return head.replace(0x300, version.size() + 1, version + " ").append(1000, 'k');
}

struct Layout {
  const char* name;
  std::vector<std::pair<std::string, std::string>> files;
  std::vector<std::string> kernels; ///< version|image|initramfs|modules
};
class Kernels : public testing::TestWithParam<Layout> {};
TEST_P(Kernels, AreFoundWhereverTheDistributionPutsThem) {
  GuestTree tree;
  tree.directory("/usr/lib").link("usr/lib", "/lib");
  for (const auto& [path, content] : GetParam().files)
    tree.file(path, content);
  std::vector<std::string> found;
  for (const auto& kernel : find_kernels(tree.filesystem(), {"/efi"}))
    found.push_back(kernel.version + "|" + kernel.image + "|" + kernel.initramfs + "|" + kernel.modules_dir);
  EXPECT_THAT(found, testing::ElementsAreArray(GetParam().kernels));
}
const std::string dep = "/modules.dep", lib = "/usr/lib/modules/";
INSTANTIATE_TEST_SUITE_P(
    Layouts, Kernels,
    testing::Values(
        Layout{"debian",
               {{lib + "6.1.0-9-amd64" + dep, ""},
                {lib + "6.1.0-10-amd64" + dep, ""},
                {"/boot/vmlinuz-6.1.0-9-amd64", "k"},
                {"/boot/vmlinuz-6.1.0-10-amd64", "k"},
                {"/boot/initrd.img-6.1.0-9-amd64", "i"},
                {"/boot/initrd.img-6.1.0-10-amd64", "i"},
                {"/boot/initrd.img-6.1.0-9-amd64.before-kvmport", "i"}},
               {"6.1.0-10-amd64|/boot/vmlinuz-6.1.0-10-amd64|/boot/initrd.img-6.1.0-10-amd64|" + lib + "6.1.0-10-amd64",
                "6.1.0-9-amd64|/boot/vmlinuz-6.1.0-9-amd64|/boot/initrd.img-6.1.0-9-amd64|" + lib + "6.1.0-9-amd64"}},
        Layout{"rhel",
               {{lib + "5.14.0-1.el9.x86_64" + dep, ""},
                {"/boot/vmlinuz-5.14.0-1.el9.x86_64", "k"},
                {"/boot/initramfs-5.14.0-1.el9.x86_64.img", "i"},
                {"/boot/initramfs-5.14.0-1.el9.x86_64kdump.img", "i"},
                {"/boot/loader/entries/x.conf",
                 "title x\nversion 5.14.0-1.el9.x86_64\nlinux /vmlinuz-5.14.0-1.el9.x86_64\n"
                 "initrd /initramfs-5.14.0-1.el9.x86_64.img $tuned_initrd\n"}},
               {"5.14.0-1.el9.x86_64|/boot/vmlinuz-5.14.0-1.el9.x86_64|/boot/initramfs-5.14.0-1.el9.x86_64.img|" + lib +
                "5.14.0-1.el9.x86_64"}},
        Layout{"suse",
               {{lib + "6.4.0-150600-default" + dep, ""},
                {"/boot/vmlinuz-6.4.0-150600-default", "k"},
                {"/boot/initrd-6.4.0-150600-default", "i"}},
               {"6.4.0-150600-default|/boot/vmlinuz-6.4.0-150600-default|/boot/initrd-6.4.0-150600-default|" + lib +
                "6.4.0-150600-default"}},
        Layout{"alpine",
               {{lib + "6.6.7-0-lts" + dep, ""}, {"/boot/vmlinuz-lts", "k"}, {"/boot/initramfs-lts", "i"}},
               {"6.6.7-0-lts|/boot/vmlinuz-lts|/boot/initramfs-lts|" + lib + "6.6.7-0-lts"}},
        Layout{"arch",
               {{lib + "6.7.0-arch1-1/pkgbase", "linux\n"},
                {"/boot/vmlinuz-linux", "k"},
                {"/boot/initramfs-linux.img", "i"},
                {"/boot/initramfs-linux-fallback.img", "i"}},
               {"6.7.0-arch1-1|/boot/vmlinuz-linux|/boot/initramfs-linux-fallback.img|" + lib + "6.7.0-arch1-1",
                "6.7.0-arch1-1|/boot/vmlinuz-linux|/boot/initramfs-linux.img|" + lib + "6.7.0-arch1-1"}},
        Layout{"systemd_boot",
               {{lib + "6.1.0-1" + dep, ""},
                {"/efi/abc/6.1.0-1/linux", "k"},
                {"/efi/abc/6.1.0-1/microcode.img", "i"},
                {"/efi/abc/6.1.0-1/initrd.img", "iiii"},
                {"/efi/loader/entries/abc-6.1.0-1.conf",
                 "version 6.1.0-1\nlinux /abc/6.1.0-1/linux\ninitrd /abc/6.1.0-1/microcode.img\n"
                 "initrd /abc/6.1.0-1/initrd.img\n"}},
               {"6.1.0-1|/efi/abc/6.1.0-1/linux|/efi/abc/6.1.0-1/initrd.img|" + lib + "6.1.0-1"}},
        Layout{"unversioned",
               {{lib + "3.2.1-own" + dep, ""}, {"/boot/vmlinuz", bzimage("3.2.1-own")}, {"/boot/initrd.img", "i"}},
               {"3.2.1-own|/boot/vmlinuz|/boot/initrd.img|" + lib + "3.2.1-own"}},
        Layout{"monolithic", {{"/boot/bzImage", bzimage("4.9.0")}}, {"4.9.0|/boot/bzImage||"}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(KernelImage, SaysItsVersionOrNothing) {
  EXPECT_EQ(kernel_image_version(bzimage("6.1.0-9-amd64")), "6.1.0-9-amd64");
  EXPECT_EQ(kernel_image_version("MZ"), "");
  std::string beyond = bzimage("1");
  beyond[0x20f] = '\x7f';
  EXPECT_EQ(kernel_image_version(beyond), "");
}

} // namespace
} // namespace kvmport::test
