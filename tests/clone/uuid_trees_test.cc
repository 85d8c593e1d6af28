// SPDX-License-Identifier: Apache-2.0
// What names a UUID or a volume group in guests' trees and initramfs images, renamed.
#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "libconvert/clone/uuid_files.h"
#include "libconvert/guest/linux/initramfs_image.h"
#include "tests/clone/clone_tree.h"
#include "tests/clone/uuid_support.h"

#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// --- trees -------------------------------------------------------------------------------------------------------

std::string grubenv(const std::string& lines) {
  std::string block = "# GRUB Environment Block\n" + lines;
  block.resize(1024, '#');
  return block;
}

Plan renew(CloneTree& tree, const GuestInfo& info = {}) {
  const Step step{"new-uuids", [](const GuestInfo& i, Draft& draft) { renew_uuids_in_files(i, renaming, draft); }};
  Plan plan = make_plan(info, tree.filesystem(), {step});
  apply_plan(plan, tree.filesystem());
  return plan;
}

constexpr const char* old_swap = "5ac81070-7957-5beb-983a-c73dacaaa0d3";
constexpr const char* new_swap = "d758a155-df03-4512-8cc1-2a0cb829ed74";

std::string cpio(const std::map<std::string, std::string>& files) {
  linux_guest::CpioWriter writer;
  for (const auto& [name, content] : files)
    writer.file(name, content);
  return writer.finish();
}

std::string efi_program(const std::string& text, bool is_signed) {
  std::string image(0x400, '\0');
  image.replace(0, 2, "MZ");
  image[0x3c] = '\x40';
  image.replace(0x40, 2, "PE");
  image[0x58] = '\x0b'; // PE32+
  image[0x59] = '\x02';
  image[0x58 + 108] = 16;
  image[0x58 + 112 + 4 * 8 + 4] = is_signed ? 8 : 0;
  return image + text + std::string(64, '\0');
}

TEST(UuidTree, DebianWithGrub) {
  CloneTree tree;
  tree.file("/etc/fstab", std::string("UUID=") + old_root + " / ext4 defaults 0 1\nUUID=ABCD-12EF /boot/efi vfat\n")
      .file("/etc/crypttab", std::string("data UUID=") + old_swap + " none luks\n", 0600)
      .file("/etc/default/grub", std::string("GRUB_CMDLINE_LINUX=\"resume=UUID=") + old_swap + "\"\n")
      .file("/etc/initramfs-tools/conf.d/resume", std::string("RESUME=UUID=") + old_swap + "\n")
      .file("/etc/lvm/backup/vg0", "id = \"oO8Nsr-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt\"\n", 0600)
      .file("/boot/grub/grub.cfg", std::string("search --fs-uuid --set=root ") + old_root + "\n")
      .file("/boot/efi/EFI/debian/grub.cfg", std::string("search.fs_uuid ") + old_root + " root\n")
      .file("/etc/hostname", "db1\n");
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/etc/fstab"),
            std::string("UUID=") + new_root + " / ext4 defaults 0 1\nUUID=9E8D-7C6B /boot/efi vfat\n");
  EXPECT_THAT(tree.read("/etc/crypttab"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/default/grub"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/initramfs-tools/conf.d/resume"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/lvm/backup/7k3"), HasSubstr("Zz9Yx8-"));
  EXPECT_THAT(tree.read("/boot/grub/grub.cfg"), HasSubstr(new_root));
  EXPECT_THAT(tree.read("/boot/efi/EFI/debian/grub.cfg"), HasSubstr(new_root));
  EXPECT_EQ(plan.changes.size(), 8U);
  EXPECT_THAT(plan.warnings, IsEmpty());
  for (const Change& change : plan.changes)
    EXPECT_EQ(change.binary, change.kind == Change::Kind::write &&
                                 (change.path == "/etc/crypttab" || change.path == "/etc/lvm/backup/vg0"))
        << change.path;
}

TEST(UuidTree, VolumeGroupsByName) {
  const std::string unit = R"(/etc/systemd/system/dev-mapper-vg0\x2dswap.swap)",
                    renamed = R"(/etc/systemd/system/dev-mapper-7k3\x2dswap.swap)";
  const std::string metadata = "vg0 {\nid = \"x\"\n}\ncontents = \"Text Format Volume Group\"\n";
  CloneTree tree;
  tree.file("/etc/fstab", "/dev/mapper/vg0-root / ext4\n/dev/vg0/swap none swap\n")
      .file("/etc/crypttab", "vg0-home_crypt /dev/vg0/home none luks\n", 0600)
      .file("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"resume=/dev/mapper/vg0-swap rd.lvm.lv=vg0/root\"\n")
      .file("/etc/lvm/backup/vg0", metadata, 0600)
      .file("/etc/lvm/archive/vg0_00000-1.vg", metadata, 0600)
      .file("/etc/hosts", "10.0.0.1 vg0\n")
      .file(unit, "[Swap]\nWhat=/dev/mapper/vg0-swap\n")
      .link("../dev-mapper-vg0\\x2dswap.swap", "/etc/systemd/system/swap.target.wants/dev-mapper-vg0\\x2dswap.swap")
      .file("/boot/grub/grub.cfg", "set root='lvm/vg0-root'\nlinux /vmlinuz root=/dev/mapper/vg0-root ro\n")
      .file("/boot/grub/grubenv", grubenv("kernelopts=root=/dev/mapper/vg0-root ro\n"))
      .file("/boot/loader/entries/a.conf", "options root=/dev/mapper/vg0-root\n")
      .file("/boot/efi/EFI/debian/grub.cfg", "set prefix=(lvm/vg0-root)/boot/grub\n")
      .file("/boot/efi/EFI/debian/grubx64.efi", efi_program("(lvm/vg0-root)/boot/grub", false))
      .file("/boot/initrd.img-6.1.0", cpio({{"conf/conf.d/resume", "RESUME=/dev/mapper/vg0-swap\n"},
                                            {"cryptroot/crypttab", "r /dev/mapper/vg0-root none luks\n"},
                                            {"etc/lvm/lvm.conf", "volume_list = [\"vg0\"]\n"}}));
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/etc/fstab"), "/dev/mapper/7k3-root / ext4\n/dev/7k3/swap none swap\n");
  EXPECT_EQ(tree.read("/etc/crypttab"), "vg0-home_crypt /dev/7k3/home none luks\n");
  EXPECT_EQ(tree.read("/etc/default/grub"), "GRUB_CMDLINE_LINUX=\"resume=/dev/mapper/7k3-swap rd.lvm.lv=7k3/root\"\n");
  EXPECT_EQ(tree.read("/etc/lvm/backup/7k3").substr(0, 5), "7k3 {");
  EXPECT_EQ(tree.read("/etc/lvm/archive/7k3_00000-1.vg").substr(0, 5), "7k3 {");
  EXPECT_FALSE(tree.exists("/etc/lvm/backup/vg0"));
  EXPECT_EQ(tree.read("/etc/hosts"), "10.0.0.1 vg0\n");
  EXPECT_EQ(tree.read(renamed), "[Swap]\nWhat=/dev/mapper/7k3-swap\n");
  EXPECT_EQ(tree.read("/etc/systemd/system/swap.target.wants/dev-mapper-7k3\\x2dswap.swap"), tree.read(renamed));
  EXPECT_EQ(tree.read("/boot/grub/grub.cfg"), "set root='lvm/7k3-root'\nlinux /vmlinuz root=/dev/mapper/7k3-root ro\n");
  EXPECT_EQ(tree.read("/boot/grub/grubenv"), grubenv("kernelopts=root=/dev/mapper/7k3-root ro\n"));
  EXPECT_EQ(tree.read("/boot/loader/entries/a.conf"), "options root=/dev/mapper/7k3-root\n");
  EXPECT_EQ(tree.read("/boot/efi/EFI/debian/grub.cfg"), "set prefix=(lvm/7k3-root)/boot/grub\n");
  EXPECT_EQ(tree.read("/boot/efi/EFI/debian/grubx64.efi"), efi_program("(lvm/7k3-root)/boot/grub", false));
  const linux_guest::InitramfsTree initramfs(tree.read("/boot/initrd.img-6.1.0"),
                                             [](const std::string&) { return true; });
  EXPECT_EQ(*initramfs.content("conf/conf.d/resume"), "RESUME=/dev/mapper/7k3-swap\n");
  EXPECT_EQ(*initramfs.content("cryptroot/crypttab"), "r /dev/mapper/7k3-root none luks\n");
  EXPECT_EQ(*initramfs.content("etc/lvm/lvm.conf"), "volume_list = [\"7k3\"]\n");
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UuidTree, DracutWithLoaderEntriesAndUnitsCalledAfterDevices) {
  const std::string old_unit =
                        R"(/etc/systemd/system/dev-disk-by\x2duuid-5ac81070\x2d7957\x2d5beb\x2d983a\x2dc73dacaaa0d3)",
                    new_unit =
                        R"(/etc/systemd/system/dev-disk-by\x2duuid-d758a155\x2ddf03\x2d4512\x2d8cc1\x2d2a0cb829ed74)";
  const std::string name(fs::path(old_unit).filename());
  CloneTree tree;
  tree.file("/boot/grub2/grubenv", grubenv(std::string("kernelopts=root=UUID=") + old_root + " ro\n"))
      .file("/boot/loader/entries/a.conf", std::string("options root=UUID=") + old_root + " ro\n")
      .file("/etc/kernel/cmdline", std::string("root=UUID=") + old_root + "\n")
      .file("/etc/dracut.conf.d/r.conf", std::string("add_device+=\" /dev/disk/by-uuid/") + old_swap + " \"\n")
      .file("/etc/lvm/devices/system.devices",
            "IDTYPE=devname IDNAME=/dev/vda3 PVID=oO8NsraB1cdE2fgH3ijK4lmN5opQ6rSt\n")
      .file(old_unit + ".swap", std::string("[Swap]\nWhat=/dev/disk/by-uuid/") + old_swap + "\n")
      .file(old_unit + ".device.d/timeout.conf", "[Unit]\nJobTimeoutSec=3000\n")
      .link("../" + name + ".swap", "/etc/systemd/system/swap.target.wants/" + name + ".swap");
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/boot/grub2/grubenv"), grubenv(std::string("kernelopts=root=UUID=") + new_root + " ro\n"));
  EXPECT_THAT(tree.read("/boot/loader/entries/a.conf"), HasSubstr(new_root));
  EXPECT_THAT(tree.read("/etc/kernel/cmdline"), HasSubstr(new_root));
  EXPECT_THAT(tree.read("/etc/dracut.conf.d/r.conf"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/lvm/devices/system.devices"), HasSubstr("PVID=Zz9Yx8Ww7VUu6TSs5RQq4POo3NMm2LkJ"));
  EXPECT_THAT(tree.read(new_unit + ".swap"), HasSubstr(new_swap));
  EXPECT_TRUE(tree.exists(new_unit + ".device.d/timeout.conf"));
  EXPECT_FALSE(tree.exists(old_unit + ".swap"));
  EXPECT_FALSE(tree.exists(old_unit + ".device.d"));
  const std::string wanted =
      "/etc/systemd/system/swap.target.wants/" + std::string(fs::path(new_unit).filename()) + ".swap";
  EXPECT_THAT(tree.read(wanted), HasSubstr(new_swap));
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UuidTree, SystemdBootAndProgramsOnTheEsp) {
  CloneTree tree;
  const std::string built_in = std::string("search.fs_uuid ") + old_root + " root ";
  GuestInfo info;
  info.esp_path = "/efi";
  info.kernels = {{"6.1.0", "/efi/id/6.1.0/linux", "/efi/id/6.1.0/initrd", ""}};
  tree.file("/efi/loader/entries/id.conf", std::string("options root=PARTUUID=612e9c80-01 resume=UUID=") + old_swap)
      .file("/efi/EFI/arch/grubx64.efi", efi_program(built_in, false))
      .file("/efi/EFI/debian/shimx64.efi", efi_program("nothing", true))
      .file("/efi/EFI/refind/refind.conf", std::string("volume ") + old_root + "\n")
      .file("/efi/id/6.1.0/initrd", cpio({{"conf/conf.d/resume", std::string("RESUME=UUID=") + old_swap}}));
  const Plan plan = renew(tree, info);
  EXPECT_EQ(tree.read("/efi/loader/entries/id.conf"),
            std::string("options root=PARTUUID=f1d8a2cf-01 resume=UUID=") + new_swap);
  EXPECT_EQ(tree.read("/efi/EFI/arch/grubx64.efi"),
            efi_program(std::string("search.fs_uuid ") + new_root + " root ", false));
  EXPECT_THAT(tree.read("/efi/EFI/refind/refind.conf"), HasSubstr(new_root));
  const linux_guest::InitramfsTree initramfs(tree.read("/efi/id/6.1.0/initrd"),
                                             [](const std::string&) { return true; });
  EXPECT_EQ(*initramfs.content("conf/conf.d/resume"), std::string("RESUME=UUID=") + new_swap);
  EXPECT_EQ(plan.changes.size(), 4U);
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UuidTree, ASignedProgramThatNamesOneIsRefused) {
  CloneTree tree;
  tree.file("/boot/efi/EFI/Linux/a.efi", efi_program(std::string("root=UUID=") + old_root, true));
  try {
    renew(tree);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "UUID_UNSUPPORTED");
  }
}

TEST(UuidTree, WhatIsNoTextStaysWithAWarning) {
  CloneTree tree;
  const std::string binary = std::string("a\0b", 3) + old_root;
  tree.file("/etc/state.db", binary);
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/etc/state.db"), binary);
  EXPECT_THAT(plan.warnings, ElementsAre(HasSubstr("/etc/state.db")));
}

TEST(UuidTree, AGuestThatNamesNoneIsLeftAlone) {
  CloneTree tree;
  tree.file("/etc/fstab", "LABEL=root / ext4 defaults 0 1\n")
      .file("/boot/initrd.img-6.1.0", cpio({{"etc/fstab", "LABEL=root / ext4\n"}}))
      .link("nowhere", "/etc/dangling");
  EXPECT_THAT(renew(tree).changes, IsEmpty());
}

// --- initramfs ---------------------------------------------------------------------------------------------------

TEST(UuidInitramfs, OfDracutWaitsForTheNewDevice) {
  const std::string hooks = "usr/lib/dracut/hooks/initqueue/finished/devexists-\\x2fdev\\x2fdisk\\x2fby-uuid\\x2f";
  const std::string wants = "etc/systemd/system/initrd.target.wants/dev-disk-by\\x2duuid-";
  const std::string old_escaped = "1a2b3c4d\\x2d0001\\x2d4002\\x2d8003\\x2daabbccddeeff.device",
                    new_escaped = "9f8e7d6c\\x2d1111\\x2d4222\\x2d9333\\x2d000102030405.device";
  linux_guest::CpioWriter writer;
  writer.directory("etc");
  writer.file("etc/cmdline.d/95resume.conf", std::string(" resume=UUID=") + old_swap);
  writer.file("usr/bin/tool", std::string("\x7f\0ELF", 5) + old_root);
  writer.file(hooks + old_root + ".sh", std::string("[ -e /dev/disk/by-uuid/") + old_root + " ]", 0755);
  writer.symlink(wants + old_escaped, "../dev-disk-by\\x2duuid-" + old_escaped);
  const std::string before = writer.finish();

  CloneTree tree;
  tree.file("/boot/initramfs-6.1.0.img", before);
  const Plan plan = renew(tree);
  ASSERT_EQ(plan.changes.size(), 1U);
  EXPECT_EQ(plan.changes[0].kind, Change::Kind::append);
  const std::string image = tree.read("/boot/initramfs-6.1.0.img");
  EXPECT_TRUE(image.starts_with(before));
  const linux_guest::InitramfsTree after(image, [](const std::string&) { return true; });
  EXPECT_EQ(*after.content("etc/cmdline.d/95resume.conf"), std::string(" resume=UUID=") + new_swap);
  EXPECT_EQ(*after.content(hooks + old_root + ".sh"), "");
  EXPECT_EQ(*after.content(hooks + new_root + ".sh"), std::string("[ -e /dev/disk/by-uuid/") + new_root + " ]");
  EXPECT_EQ(after.entries().at(hooks + new_root + ".sh").mode & 0777U, 0755U);
  EXPECT_TRUE(after.entries().at(wants + old_escaped).is_file()) << "an empty unit masks what the link asked for";
  EXPECT_EQ(*after.content(wants + new_escaped), "../dev-disk-by\\x2duuid-" + new_escaped);
  EXPECT_THAT(*after.content("usr/bin/tool"), HasSubstr(old_root));
  EXPECT_THAT(renew(tree).changes, IsEmpty()) << "once is enough";
}

TEST(UuidInitramfs, ThatIsNoneStaysWithAWarning) {
  CloneTree tree;
  tree.file("/boot/initrd.img-1", "no archive");
  const Plan plan = renew(tree);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(plan.warnings, ElementsAre(HasSubstr("/boot/initrd.img-1")));
}

} // namespace
} // namespace kvmport::test
