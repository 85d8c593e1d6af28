// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

const std::string wants = "/etc/systemd/system/multi-user.target.wants/";

TEST(HypervisorTools, EnabledUnitsOfEveryPlatform) {
  const char* units[] = {"open-vm-tools.service",
                         "vmtoolsd.service",
                         "vboxadd.service",
                         "vboxadd-service.service",
                         "virtualbox-guest-utils.service",
                         "xe-daemon.service",
                         "hv-kvp-daemon.service",
                         "hypervkvpd.service",
                         "walinuxagent.service",
                         "waagent.service",
                         "google-guest-agent.service",
                         "prltoolsd.service",
                         "run-vmblock\\x2dfuse.mount"};
  for (const char* unit : units) {
    GuestTree tree;
    tree.link("/lib/systemd/system/" + std::string(unit), wants + unit)
        .link("/lib/systemd/system/ssh.service", wants + "ssh.service")
        .link("/lib/systemd/system/qemu-guest-agent.service", wants + "qemu-guest-agent.service");
    const Plan plan = tree.run(one_disk_guest(), linux_guest::hypervisor_tools_step);
    EXPECT_FALSE(tree.exists(wants + unit)) << unit;
    EXPECT_TRUE(tree.exists(wants + "ssh.service"));
    EXPECT_TRUE(tree.exists(wants + "qemu-guest-agent.service"));
    ASSERT_EQ(plan.changes.size(), 1U) << unit;
    EXPECT_THAT(plan.changes[0].reason, HasSubstr("works only on the platform"));
  }
}

TEST(HypervisorTools, AliasesRequirementsAndShippedLinks) {
  GuestTree tree;
  tree.link("/lib/systemd/system/open-vm-tools.service", "/etc/systemd/system/vmtoolsd.service")
      .link("/lib/systemd/system/vgauth.service", "/etc/systemd/system/open-vm-tools.service.requires/vgauth.service")
      .link("../hv-vss-daemon.service", "/usr/lib/systemd/system/multi-user.target.wants/hv-vss-daemon.service");
  tree.run(one_disk_guest(), linux_guest::hypervisor_tools_step);
  EXPECT_FALSE(tree.exists("/etc/systemd/system/vmtoolsd.service"));
  EXPECT_FALSE(tree.exists("/etc/systemd/system/open-vm-tools.service.requires/vgauth.service"));
  EXPECT_EQ(tree.readlink("/etc/systemd/system/hv-vss-daemon.service"), "/dev/null");
  EXPECT_THAT(tree.plan(one_disk_guest(), {{"again", linux_guest::hypervisor_tools_step}}).changes, IsEmpty());
}

TEST(HypervisorTools, InitScriptsRunlevelsAndJobs) {
  GuestTree tree;
  tree.link("../init.d/vmware-tools", "/etc/rc3.d/S03vmware-tools")
      .link("../init.d/vboxadd", "/etc/rc.d/rc5.d/S30vboxadd")
      .link("../init.d/ssh", "/etc/rc3.d/S20ssh")
      .link("/etc/init.d/open-vm-tools", "/etc/runlevels/default/open-vm-tools")
      .file("/etc/init/vmware-tools.conf", "exec x\n")
      .file("/etc/xdg/autostart/vboxclient.desktop", "[Desktop Entry]\n");
  tree.run(one_disk_guest(), linux_guest::hypervisor_tools_step);
  EXPECT_FALSE(tree.exists("/etc/rc3.d/S03vmware-tools"));
  EXPECT_EQ(tree.readlink("/etc/rc3.d/K97vmware-tools"), "../init.d/vmware-tools");
  EXPECT_EQ(tree.readlink("/etc/rc.d/rc5.d/K70vboxadd"), "../init.d/vboxadd");
  EXPECT_TRUE(tree.exists("/etc/rc3.d/S20ssh"));
  EXPECT_FALSE(tree.exists("/etc/runlevels/default/open-vm-tools"));
  EXPECT_EQ(tree.read("/etc/init/vmware-tools.override"), "manual\n");
  EXPECT_FALSE(tree.exists("/etc/xdg/autostart/vboxclient.desktop"));
  EXPECT_THAT(tree.plan(one_disk_guest(), {{"again", linux_guest::hypervisor_tools_step}}).changes, IsEmpty());
}

TEST(HypervisorTools, AmazonsManagerStaysWhereItIsRegistered) {
  for (bool registered : {false, true}) {
    GuestTree tree;
    tree.link("/x", wants + "amazon-ssm-agent.service");
    if (registered)
      tree.file("/var/lib/amazon/ssm/registration", "{}");
    tree.run(one_disk_guest(), linux_guest::hypervisor_tools_step);
    EXPECT_EQ(tree.exists(wants + "amazon-ssm-agent.service"), registered);
  }
}

TEST(OldDevices, XConfigurationOfTheOldCardGoesAside) {
  GuestTree tree;
  const std::string own = "Section \"Device\"\n  Driver \"modesetting\"\nEndSection\n";
  tree.file("/etc/X11/xorg.conf", "Section \"Device\"\n  Driver      \"vmware\"\nEndSection\n")
      .file("/etc/X11/xorg.conf.d/10-own.conf", own);
  tree.run(one_disk_guest(), linux_guest::old_devices_step);
  EXPECT_FALSE(tree.exists("/etc/X11/xorg.conf"));
  EXPECT_TRUE(tree.exists("/etc/X11/xorg.conf.before-kvmport"));
  EXPECT_EQ(tree.read("/etc/X11/xorg.conf.d/10-own.conf"), own);
}

TEST(OldDevices, XensConsole) {
  const std::pair<const char*, const char*> cases[] = {
      {"root=LABEL=/ ro console=hvc0", "root=LABEL=/ ro console=tty0 console=ttyS0,115200"},
      {"console=hvc0 quiet", "console=tty0 console=ttyS0,115200 quiet"},
      {"console=tty0 console=hvc0 ro", "console=tty0 console=ttyS0,115200 ro"},
      {"console=hvc0 console=ttyS0", "console=tty0 console=ttyS0"},
      {"console=tty0 console=ttyS0 console=hvc0 ro", "console=tty0 console=ttyS0 ro"},
      {"ro console=tty0", "ro console=tty0"},
  };
  for (const auto& [before, after] : cases) {
    GuestTree tree;
    tree.file("/boot/grub/menu.lst", "title x\nkernel /vmlinuz " + std::string(before) + "\ninitrd /i\n");
    tree.run(one_disk_guest(), linux_guest::old_devices_step);
    EXPECT_EQ(tree.read("/boot/grub/menu.lst"), "title x\nkernel /vmlinuz " + std::string(after) + "\ninitrd /i\n");
  }
  GuestTree tree;
  tree.file("/etc/inittab", "#co:2345:respawn:/sbin/getty hvc0\nco:2345:respawn:/sbin/agetty xvc0 9600 vt100-nav\n");
  tree.run(one_disk_guest(), linux_guest::old_devices_step);
  EXPECT_EQ(tree.read("/etc/inittab"),
            "#co:2345:respawn:/sbin/getty hvc0\nco:2345:respawn:/sbin/agetty ttyS0 9600 vt100-nav\n");
}

} // namespace
} // namespace kvmport::test
