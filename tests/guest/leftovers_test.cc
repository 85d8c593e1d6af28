// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Leftovers, AreNotedWithFileAndLine) {
  GuestTree tree;
  tree.file("/etc/smartd.conf", "# /dev/sda -a\nDEVICESCAN\n/dev/sdb -a -m root\n")
      .file("/etc/drbd.d/r0.res", "resource r0 {\n  disk \"/dev/sdc1\";\n  device /dev/drbd0;\n}\n")
      .file("/etc/rc.local", "#!/bin/sh\nhdparm -S 0 /dev/disk/by-id/ata-X || true\necho x > /dev/null\n");
  const Plan plan = tree.run(one_disk_guest(), linux_guest::leftovers_step);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("/etc/smartd.conf line 3 names /dev/sdb,"),
                                      HasSubstr("/etc/rc.local line 2 names /dev/disk/by-id/ata-X,"),
                                      HasSubstr("/etc/drbd.d/r0.res line 2 names /dev/sdc1,")));
}

TEST(Leftovers, DriversThatTheCommandLineKeepsOut) {
  GuestTree tree;
  tree.file("/boot/grub/grub.cfg",
            "menuentry x {\nlinux /v root=UUID=1 modprobe.blacklist=floppy,virtio_net\ninitrd /i\n}\n");
  EXPECT_THAT(tree.run(one_disk_guest(), linux_guest::leftovers_step).warnings,
              ElementsAre(HasSubstr("/boot/grub/grub.cfg line 2: modprobe.blacklist=floppy,virtio_net keeps out")));
}

} // namespace
} // namespace kvmport::test
