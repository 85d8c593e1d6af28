// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::IsEmpty;

TEST(Modprobe, AliasesBlacklistsAndOthers) {
  GuestTree tree;
  tree.file("/etc/modprobe.conf",
            "alias eth0 e1000\nalias eth1   pcnet32\nalias scsi_hostadapter mptbase\n"
            "alias scsi_hostadapter1 mptspi\nalias eth2 virtio_net\nalias usb-controller uhci-hcd\n"
            "alias eth3 off\n# alias eth0 e1000\n")
      .file("/etc/modprobe.d/blacklist.conf",
            "blacklist virtio_net\nblacklist pcspkr\ninstall virtio_blk /bin/true\n"
            "install virtio_rng /sbin/modprobe -i virtio_rng\noptions virtio_net napi_tx=1\n")
      .file("/etc/modprobe.d/readme.txt", "blacklist virtio_net\n");
  tree.run(one_disk_guest(), linux_guest::modprobe_step);
  EXPECT_EQ(tree.read("/etc/modprobe.conf"),
            "alias eth0 virtio_net\nalias eth1   virtio_net\nalias scsi_hostadapter virtio_blk\n"
            "# alias scsi_hostadapter1 mptspi\nalias eth2 virtio_net\nalias usb-controller uhci-hcd\n"
            "alias eth3 off\n# alias eth0 e1000\n");
  EXPECT_EQ(tree.read("/etc/modprobe.d/blacklist.conf"),
            "# blacklist virtio_net\nblacklist pcspkr\n# install virtio_blk /bin/true\n"
            "install virtio_rng /sbin/modprobe -i virtio_rng\noptions virtio_net napi_tx=1\n");
  EXPECT_EQ(tree.read("/etc/modprobe.d/readme.txt"), "blacklist virtio_net\n");
  EXPECT_THAT(tree.plan(one_disk_guest(), {{"again", linux_guest::modprobe_step}}).changes, IsEmpty());
}

TEST(Modprobe, HardwareWithoutVirtioGetsItsOwnAliases) {
  GuestTree tree;
  tree.file("/etc/modprobe.conf", "alias eth0 pcnet32\nalias scsi_hostadapter mptspi\n");
  tree.run(one_disk_guest(),
           {{"initramfs",
             [](const GuestInfo&, Draft& draft) { draft.plan().virtio_disk = draft.plan().virtio_net = false; }},
            {"modprobe", linux_guest::modprobe_step}});
  EXPECT_EQ(tree.read("/etc/modprobe.conf"), "alias eth0 e1000e\nalias scsi_hostadapter ahci\n");
}

TEST(Modprobe, SuseInitrdModules) {
  GuestTree tree;
  tree.file("/etc/sysconfig/kernel", "## Type: string\nINITRD_MODULES=\"ata_piix vmw_pvscsi ext3\"\nDOMU=\"xenblk\"\n");
  tree.run(one_disk_guest(), linux_guest::modprobe_step);
  EXPECT_EQ(tree.read("/etc/sysconfig/kernel"), "## Type: string\nINITRD_MODULES=\"ata_piix ext3 virtio_pci virtio_blk "
                                                "virtio_scsi virtio_net\"\nDOMU=\"xenblk\"\n");
  EXPECT_THAT(tree.plan(one_disk_guest(), {{"again", linux_guest::modprobe_step}}).changes, IsEmpty());
}

TEST(ModuleLists, ForeignModulesBecomeComments) {
  GuestTree tree;
  tree.file("/etc/modules", "# one a line\nloop\nvmw_balloon\n")
      .file("/etc/modules-load.d/vbox.conf", "vboxguest\nvboxsf\nkvm\n");
  tree.run(one_disk_guest(), linux_guest::module_lists_step);
  EXPECT_EQ(tree.read("/etc/modules"), "# one a line\nloop\n# vmw_balloon\n");
  EXPECT_EQ(tree.read("/etc/modules-load.d/vbox.conf"), "# vboxguest\n# vboxsf\nkvm\n");
}

} // namespace
} // namespace kvmport::test
