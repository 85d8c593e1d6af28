// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

const std::string u1 = "UUID=" + fs_uuid(0, 1), u2 = "UUID=" + fs_uuid(0, 2), u3 = "UUID=" + fs_uuid(0, 3);

TEST(Fstab, DebianWithCommentsColumnsAndTabs) {
  GuestTree tree;
  tree.file("/etc/fstab", "# /etc/fstab: static file system information.\n"
                          "# / was on /dev/sda1 during installation\n"
                          "/dev/sda1                                                /   ext4 errors=remount-ro 0 1\n"
                          "/dev/sda2\tnone\tswap\tsw\t0\t0\n"
                          "/dev/sda5 /srv xfs defaults 0 2\n"
                          "\n"
                          "/dev/mapper/vg0-home /home ext4 defaults 0 2\n"
                          "UUID=aaaa-bbbb  /boot/efi  vfat  umask=0077  0  1\n"
                          "/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0\n"
                          "/dev/hdc        /media/cdrom1   iso9660 ro,user,noauto     0       0\n"
                          "tmpfs /tmp tmpfs defaults 0 0\n"
                          "nas:/dev/sda1 /mnt nfs defaults 0 0");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::fstab_step);
  EXPECT_EQ(tree.read("/etc/fstab"), "# /etc/fstab: static file system information.\n"
                                     "# / was on /dev/sda1 during installation\n" +
                                         u1 + "                /   ext4 errors=remount-ro 0 1\n" + u2 +
                                         "\tnone\tswap\tsw\t0\t0\n" + "PARTUUID=" + part_uuid(0, 5) +
                                         " /srv xfs defaults 0 2\n"
                                         "\n"
                                         "/dev/mapper/vg0-home /home ext4 defaults 0 2\n"
                                         "UUID=aaaa-bbbb  /boot/efi  vfat  umask=0077  0  1\n"
                                         "/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0\n"
                                         "/dev/hdc        /media/cdrom1   iso9660 ro,user,noauto     0       0\n"
                                         "tmpfs /tmp tmpfs defaults 0 0\n"
                                         "nas:/dev/sda1 /mnt nfs defaults 0 0");
  ASSERT_EQ(plan.changes.size(), 1U);
  EXPECT_THAT(plan.changes[0].reason, HasSubstr("old hardware"));
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(Fstab, OptionsThatNameDevicesGetPaths) {
  GuestTree tree;
  tree.file("/etc/fstab", "/dev/sda1 / btrfs subvol=@,device=/dev/sda1,device=/dev/sda2 0 0\n"
                          "/dev/sda1 /x xfs logdev=/dev/sda2,noatime 0 0\n");
  tree.run(one_disk_guest(), linux_guest::fstab_step);
  EXPECT_EQ(tree.read("/etc/fstab"), u1 + " / btrfs subvol=@,device=/dev/disk/by-partuuid/" + part_uuid(0, 1) +
                                         ",device=/dev/disk/by-partuuid/" + part_uuid(0, 2) + " 0 0\n" + u1 +
                                         " /x xfs logdev=/dev/disk/by-uuid/" + fs_uuid(0, 2) + ",noatime 0 0\n");
}

TEST(Fstab, UnknownDeviceIsNamedByFileAndLine) {
  GuestTree tree;
  const std::string text = "# one\n/dev/sdq1 /data ext4 defaults 0 2\n";
  tree.file("/etc/fstab", text);
  const Plan plan = tree.run(one_disk_guest(), linux_guest::fstab_step);
  EXPECT_EQ(tree.read("/etc/fstab"), text);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(warnings_of(plan), HasSubstr("/etc/fstab line 2: /dev/sdq1 is a name of the old hardware"));
}

TEST(Fstab, SharedFoldersOfTheOldHypervisorAreNoLongerMounted) {
  GuestTree tree;
  tree.file("/etc/fstab", ".host:/ /mnt/hgfs fuse.vmhgfs-fuse allow_other 0 0\nshare /mnt/s vboxsf defaults 0 0\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::fstab_step);
  EXPECT_EQ(tree.read("/etc/fstab"),
            "# .host:/ /mnt/hgfs fuse.vmhgfs-fuse allow_other 0 0\n# share /mnt/s vboxsf defaults 0 0\n");
  EXPECT_EQ(plan.notes.size(), 2U);
}

TEST(Fstab, ContentsThatDoNotFitTheLineAreWarnedOf) {
  GuestTree tree;
  tree.file("/etc/fstab", "/dev/sda1 /data xfs defaults 0 2\n/dev/sda1 /old ext3 defaults 0 2\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::fstab_step);
  ASSERT_EQ(plan.warnings.size(), 1U);
  EXPECT_THAT(plan.warnings[0], HasSubstr("line 1: the line says xfs, but /dev/sda1 holds ext4"));
}

TEST(Fstab, StableFstabIsNotTouched) {
  GuestTree tree;
  tree.file("/etc/fstab", "LABEL=cloudimg-rootfs\t/\t ext4\tdiscard,errors=remount-ro\t0 1\n"
                          "/dev/disk/by-uuid/1234 /boot ext4 defaults 0 1\r\n"
                          "/dev/ubuntu-vg/swap none swap sw 0 0\n/swap.img none swap sw 0 0\n");
  EXPECT_THAT(tree.run(one_disk_guest(), linux_guest::fstab_step).changes, IsEmpty());
}

TEST(Fstab, MountUnits) {
  GuestTree tree;
  tree.file("/etc/systemd/system/data.mount", "[Mount]\nWhat=/dev/sda5\nWhere=/data\n")
      .file("/etc/systemd/system/dev-sda2.swap", "[Swap]\nWhat=/dev/sda2\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::fstab_step);
  EXPECT_EQ(tree.read("/etc/systemd/system/data.mount"),
            "[Mount]\nWhat=/dev/disk/by-partuuid/" + part_uuid(0, 5) + "\nWhere=/data\n");
  EXPECT_EQ(tree.read("/etc/systemd/system/dev-sda2.swap"), "[Swap]\nWhat=/dev/sda2\n");
  EXPECT_THAT(warnings_of(plan), HasSubstr("dev-sda2.swap line 2: a swap unit is named after its device"));
}

TEST(Crypttab, LuksByUuidRandomKeysByPartition) {
  GuestTree tree;
  tree.file("/etc/crypttab", "# <target name> <source device> <key file> <options>\n"
                             "sda3_crypt /dev/sda3 none luks,discard\n"
                             "data UUID=1234 /etc/keys/data luks\n"
                             "cswap  /dev/sda2  /dev/urandom  swap,cipher=aes-xts-plain64\n"
                             "other /dev/sda3 /dev/sda1:/key luks\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::crypttab_step);
  EXPECT_EQ(tree.read("/etc/crypttab"), "# <target name> <source device> <key file> <options>\n"
                                        "sda3_crypt " +
                                            u3 +
                                            " none luks,discard\n"
                                            "data UUID=1234 /etc/keys/data luks\n"
                                            "cswap  /dev/disk/by-partuuid/" +
                                            part_uuid(0, 2) +
                                            " /dev/urandom  swap,cipher=aes-xts-plain64\n"
                                            "other " +
                                            u3 + " /dev/disk/by-uuid/" + fs_uuid(0, 1) + ":/key luks\n");
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(Resume, InitramfsToolsAndSuspendTools) {
  GuestTree tree;
  tree.file("/etc/initramfs-tools/initramfs.conf", "MODULES=most\n# RESUME=/dev/sda2\nROOT=/dev/sda1\n")
      .file("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda2\n")
      .file("/etc/uswsusp.conf", "resume device = /dev/sda2\nsplash = y\n");
  tree.run(one_disk_guest(), linux_guest::resume_step);
  EXPECT_EQ(tree.read("/etc/initramfs-tools/initramfs.conf"), "MODULES=most\n# RESUME=/dev/sda2\nROOT=" + u1 + "\n");
  EXPECT_EQ(tree.read("/etc/initramfs-tools/conf.d/resume"), "RESUME=" + u2 + "\n");
  EXPECT_EQ(tree.read("/etc/uswsusp.conf"), "resume device = /dev/disk/by-uuid/" + fs_uuid(0, 2) + "\nsplash = y\n");
}

} // namespace
} // namespace kvmport::test
