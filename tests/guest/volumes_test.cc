// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(Mdadm, DeviceLinesScanAllPartitions) {
  GuestTree tree;
  tree.file("/etc/mdadm/mdadm.conf", "# DEVICE /dev/sda1\nDEVICE /dev/sda1 /dev/sdb1\nHOMEHOST <system>\n"
                                     "ARRAY /dev/md0 metadata=1.2 UUID=1:2:3:4 devices=/dev/sda1,/dev/sdb1 name=h:0\n"
                                     "ARRAY /dev/md1 UUID=5:6:7:8\n"
                                     "ARRAY /dev/md2 devices=/dev/sdc1\nMAILADDR root\n")
      .file("/etc/mdadm.conf", "DEVICE partitions\nDEVICE containers\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::mdadm_step);
  EXPECT_EQ(tree.read("/etc/mdadm/mdadm.conf"), "# DEVICE /dev/sda1\nDEVICE partitions\nHOMEHOST <system>\n"
                                                "ARRAY /dev/md0 metadata=1.2 UUID=1:2:3:4 name=h:0\n"
                                                "ARRAY /dev/md1 UUID=5:6:7:8\n"
                                                "ARRAY /dev/md2 devices=/dev/sdc1\nMAILADDR root\n");
  EXPECT_EQ(plan.changes.size(), 1U);
  EXPECT_THAT(warnings_of(plan), HasSubstr("/etc/mdadm/mdadm.conf line 6: the array is known by"));
}

TEST(Lvm, DevicesFileGoesAside) {
  GuestTree tree;
  const std::string list = "IDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda2 PVID=abc PART=2\n";
  tree.file("/etc/lvm/devices/system.devices", list).file("/etc/lvm/cache/.cache", "persistent_filter_cache {}\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::lvm_step);
  EXPECT_FALSE(tree.exists("/etc/lvm/devices/system.devices"));
  EXPECT_EQ(tree.read("/etc/lvm/devices/system.devices.before-kvmport"), list);
  EXPECT_FALSE(tree.exists("/etc/lvm/cache/.cache"));
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(Lvm, FiltersThatNameOldDisksAreWarnedOf) {
  GuestTree tree;
  tree.file("/etc/lvm/lvm.conf",
            "devices {\n  # filter = [ \"a|/dev/sda|\" ]\n  filter = [ \"a|^/dev/sda2$|\", \"r|.*|\" ]\n}\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::lvm_step);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(warnings_of(plan), HasSubstr("/etc/lvm/lvm.conf line 3: LVM's filter"));
}

TEST(BlkidCache, IsRemoved) {
  GuestTree tree;
  tree.file("/etc/blkid.tab", "<device/>\n").link("/dev/.blkid.tab", "/etc/blkid.tab.old");
  tree.run(one_disk_guest(), linux_guest::blkid_cache_step);
  EXPECT_FALSE(tree.exists("/etc/blkid.tab"));
  EXPECT_TRUE(tree.exists("/etc/blkid.tab.old")); // a link to where nothing is kept
}

} // namespace
} // namespace kvmport::test
