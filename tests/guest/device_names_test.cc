// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/device_names.h"
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using linux_guest::DeviceName;
using linux_guest::DeviceTranslator;
using linux_guest::NameStyle;
using testing::HasSubstr;

struct Rewrite {
  const char* before;
  std::string after;
};

const std::string u1 = "UUID=" + fs_uuid(0, 1), u2 = "UUID=" + fs_uuid(0, 2), u3 = "UUID=" + fs_uuid(0, 3);

/// Runs rewrite() and hands back the text; warnings go to `plan`.
std::string rewritten(const GuestInfo& info, std::string_view text, Plan& plan, NameStyle style = NameStyle::tag) {
  GuestTree tree;
  Draft draft(tree.filesystem(), plan);
  return DeviceTranslator(info).rewrite(text, style, "/etc/x line 1", draft);
}

TEST(DeviceNames, WholeNamesBecomeUuids) {
  const GuestInfo info = one_disk_guest();
  const Rewrite cases[] = {
      {"/dev/sda1", u1},
      {"root=/dev/sda1 ro quiet", "root=" + u1 + " ro quiet"},
      {"root=/dev/sda1  resume=/dev/sda2\t#x", "root=" + u1 + "  resume=" + u2 + "\t#x"},
      {"cryptdevice=/dev/sda3:cryptroot root=/dev/mapper/cryptroot",
       "cryptdevice=" + u3 + ":cryptroot root=/dev/mapper/cryptroot"},
      {"cryptopts=target=c,source=/dev/sda3,lvm=vg", "cryptopts=target=c,source=" + u3 + ",lvm=vg"},
      {"\"root=/dev/sda1\"", "\"root=" + u1 + "\""},
      {"/dev/sda4", "PARTUUID=" + part_uuid(0, 4)}, // an LVM member's UUID is no tag that mount knows
      {"/dev/sda5", "PARTUUID=" + part_uuid(0, 5)}, // no filesystem UUID
      {"/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part1", u1},
      {"cryptdevice=/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part3:crypt", "cryptdevice=" + u3 + ":crypt"},
      {"/dev/disk/by-id/ata-VBOX_HARDDISK_VB1234-part2", u2},
      {"/dev/disk/by-id/scsi-36000c29a-part1", u1},
      {"/dev/disk/by-id/wwn-0x5000c29a-part1", u1},
      {"/dev/disk/by-id/nvme-VMware_Virtual_NVMe_Disk_1-part1", u1},
      {"/dev/disk/by-id/virtio-0123-part1", u1},
      // stays byte for byte
      {"/dev/mapper/vg0-root", "/dev/mapper/vg0-root"},
      {"/dev/vg0/root /dev/md0 /dev/md/home /dev/dm-3", "/dev/vg0/root /dev/md0 /dev/md/home /dev/dm-3"},
      {"/dev/disk/by-uuid/abc /dev/disk/by-label/x", "/dev/disk/by-uuid/abc /dev/disk/by-label/x"},
      {"/dev/disk/by-id/dm-name-vg0-root", "/dev/disk/by-id/dm-name-vg0-root"},
      {"/dev/disk/by-id/md-uuid-1", "/dev/disk/by-id/md-uuid-1"},
      {"/mnt/dev/sda1 x/dev/sda1 nas:/dev/sda1", "/mnt/dev/sda1 x/dev/sda1 nas:/dev/sda1"},
      {"/dev/sda1x /dev/sda01 /dev/sdaa1b /dev/sdx/1", "/dev/sda1x /dev/sda01 /dev/sdaa1b /dev/sdx/1"},
      {"/dev/tty1 /dev/cdrom /dev/sr0 /dev/urandom", "/dev/tty1 /dev/cdrom /dev/sr0 /dev/urandom"},
      {"", ""},
  };
  for (const Rewrite& c : cases) {
    Plan plan;
    EXPECT_EQ(rewritten(info, c.before, plan), c.after) << c.before;
    EXPECT_EQ(warnings_of(plan), "") << c.before;
  }
}

TEST(DeviceNames, EveryFamilyOfNames) {
  const std::pair<const char*, ControllerType> families[] = {{"sda", ControllerType::sata},
                                                             {"hda", ControllerType::ide},
                                                             {"xvda", ControllerType::xen},
                                                             {"vda", ControllerType::virtio_blk},
                                                             {"nvme0n1", ControllerType::nvme}};
  for (const auto& [name, controller] : families) {
    const GuestInfo info = one_disk_guest(name, controller);
    // The guest may have used the names of any driver: with one disk there is no doubt.
    for (const char* said : {"/dev/sda1", "/dev/hda1", "/dev/xvda1", "/dev/vda1", "/dev/nvme0n1p1"}) {
      Plan plan;
      EXPECT_EQ(rewritten(info, said, plan), u1) << name << " " << said;
      EXPECT_EQ(warnings_of(plan), "") << name << " " << said;
    }
  }
}

GuestInfo two_disks(ControllerType controller) {
  GuestInfo info;
  for (int i = 0; i < 2; i++) {
    const std::string name = i == 0 ? "sda" : "sdb";
    info.machine.disks.push_back(disk_named(name, controller, static_cast<unsigned>(i)));
    info.devices.push_back(partition(i, name, 0, ""));
    info.devices.push_back(partition(i, name, 1, "ext4"));
  }
  return info;
}

TEST(DeviceNames, SeveralDisksGoByOrderWithAWarning) {
  const GuestInfo info = two_disks(ControllerType::scsi);
  Plan sure, unsure;
  EXPECT_EQ(rewritten(info, "/dev/sdb1", sure), "UUID=" + fs_uuid(1, 1));
  EXPECT_EQ(warnings_of(sure), "");
  EXPECT_EQ(rewritten(info, "/dev/xvdb1", unsure), "UUID=" + fs_uuid(1, 1));
  EXPECT_THAT(warnings_of(unsure), HasSubstr("/etc/x line 1: /dev/xvdb1 was taken for UUID=" + fs_uuid(1, 1)));
}

TEST(DeviceNames, IdeNamesArePlaces) {
  GuestInfo info = two_disks(ControllerType::ide);
  info.machine.disks[0].unit = 0;
  info.machine.disks[1].controller_index = 1; // secondary master: hdc
  info.machine.disks[1].unit = 0;
  Plan plan;
  EXPECT_EQ(rewritten(info, "/dev/hdc1 /dev/hda1", plan), "UUID=" + fs_uuid(1, 1) + " UUID=" + fs_uuid(0, 1));
}

TEST(DeviceNames, LinksOfSeveralDisksGoByPlaceOrSerial) {
  GuestInfo info = two_disks(ControllerType::scsi);
  info.machine.disks[1].serial = "VB77cd2a1c";
  Plan plan;
  EXPECT_EQ(rewritten(info, "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:1:0-part1", plan), "UUID=" + fs_uuid(1, 1));
  EXPECT_EQ(rewritten(info, "/dev/disk/by-id/ata-VBOX_HARDDISK_VB77cd2a1c-part1", plan), "UUID=" + fs_uuid(1, 1));
  Plan unknown;
  const std::string stranger = "/dev/disk/by-id/wwn-0x5000c29aaa-part1";
  EXPECT_EQ(rewritten(info, stranger, unknown), stranger);
  EXPECT_THAT(warnings_of(unknown), HasSubstr(stranger + " is a name of the old hardware"));
}

TEST(DeviceNames, TheGuestsOwnFstabShowsThatDisksWereSwapped) {
  GuestInfo info = two_disks(ControllerType::scsi);
  info.root_device = "/dev/sda1";
  GuestTree tree;
  tree.file("/etc/fstab", "/dev/sdb1 / ext4 defaults 0 1\n/dev/sda1 /data ext4 defaults 0 2\n");
  const Plan plan = tree.run(info, linux_guest::fstab_step);
  EXPECT_EQ(tree.read("/etc/fstab"),
            "UUID=" + fs_uuid(0, 1) + " / ext4 defaults 0 1\nUUID=" + fs_uuid(1, 1) + " /data ext4 defaults 0 2\n");
  EXPECT_THAT(warnings_of(plan), HasSubstr("/etc/fstab line 1: /dev/sdb1 was taken for UUID=" + fs_uuid(0, 1)));
  // The boot entries, planned after fstab has its new names, agree.
  GuestTree all;
  all.file("/etc/fstab", "/dev/sdb1 / ext4 defaults 0 1\n")
      .file("/boot/grub/grub.cfg", "linux /v root=/dev/sdb1\ninitrd /i\n");
  all.run(info, {{"fstab", linux_guest::fstab_step}, {"boot", linux_guest::boot_entries_step}});
  EXPECT_EQ(all.read("/boot/grub/grub.cfg"), "linux /v root=UUID=" + fs_uuid(0, 1) + "\ninitrd /i\n");
}

TEST(DeviceNames, CloudLinks) {
  const GuestInfo info = one_disk_guest();
  Plan plan;
  EXPECT_EQ(rewritten(info, "/dev/disk/azure/root-part1 /dev/disk/cloud/azure_root-part1", plan), u1 + " " + u1);
  EXPECT_EQ(warnings_of(plan), "");
  const std::string temporary = "/dev/disk/cloud/azure_resource-part1";
  EXPECT_EQ(rewritten(info, temporary, plan), temporary); // a disk that is not of this machine
  EXPECT_THAT(warnings_of(plan), HasSubstr(temporary));
}

TEST(DeviceNames, UnknownDevicesStayAndAreNamed) {
  const GuestInfo info = one_disk_guest();
  for (const char* text : {"/dev/sdb1", "/dev/sda9", "/dev/sda"}) {
    Plan plan;
    EXPECT_EQ(rewritten(info, text, plan), text);
    EXPECT_THAT(warnings_of(plan), HasSubstr(std::string("/etc/x line 1: ") + text + " is a name of the old hardware"));
  }
}

TEST(DeviceNames, Styles) {
  const GuestInfo info = one_disk_guest();
  Plan plan;
  EXPECT_EQ(rewritten(info, "/dev/sda1", plan, NameStyle::kernel_tag), "PARTUUID=" + part_uuid(0, 1));
  EXPECT_EQ(rewritten(info, "/dev/sda1", plan, NameStyle::path), "/dev/disk/by-uuid/" + fs_uuid(0, 1));
  EXPECT_EQ(rewritten(info, "/dev/sda1", plan, NameStyle::stable_path), "/dev/disk/by-partuuid/" + part_uuid(0, 1));
  EXPECT_EQ(warnings_of(plan), "");
}

TEST(DeviceNames, FindUnderstandsTags) {
  GuestInfo info = one_disk_guest();
  info.devices[1].label = "rootfs";
  const DeviceTranslator devices(info);
  const BlockDevice* root = &info.devices[1];
  EXPECT_EQ(devices.find("/dev/sda1"), root);
  EXPECT_EQ(devices.find("UUID=" + fs_uuid(0, 1)), root);
  EXPECT_EQ(devices.find("UUID=\"" + fs_uuid(0, 1) + "\""), root);
  EXPECT_EQ(devices.find("LABEL=rootfs"), root);
  EXPECT_EQ(devices.find("PARTUUID=" + part_uuid(0, 1)), root);
  EXPECT_EQ(devices.find("/dev/disk/by-uuid/" + fs_uuid(0, 1)), root);
  EXPECT_EQ(devices.find("/dev/vg0/root"), &info.devices[6]);
  EXPECT_EQ(devices.find("UUID=none"), nullptr);
  EXPECT_EQ(devices.find("LABEL="), nullptr);
}

} // namespace
} // namespace kvmport::test
