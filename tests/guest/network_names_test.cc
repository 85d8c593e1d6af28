// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/network_config.h"
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string mac_a = "00:0c:29:aa:aa:aa", mac_b = "00:0c:29:bb:bb:bb";
const std::string link_dir = "/etc/systemd/network/10-kvmport-";
const std::string rules_path = "/etc/udev/rules.d/70-kvmport-net.rules";

GuestInfo guest_with_cards(std::vector<std::string> macs, std::vector<std::string> pci = {}) {
  GuestInfo info = one_disk_guest();
  for (std::size_t i = 0; i < macs.size(); i++) {
    MachineNic nic;
    nic.mac = macs[i];
    if (i < pci.size())
      nic.pci_address = pci[i];
    info.machine.nics.push_back(nic);
  }
  return info;
}

/// A tree with udev; `version` 0: none of systemd's.
void add_udev(GuestTree& tree, unsigned version = 252) {
  tree.file("/usr/lib/udev/rules.d/80-net-setup-link.rules", "x\n").file("/usr/lib/systemd/systemd-udevd", "x");
  if (version > 0)
    tree.file("/usr/lib/systemd/libsystemd-shared-" + std::to_string(version) + ".so", "x");
}

std::string link_text(const std::string& name, const std::string& mac) {
  return "# The network configuration knows this card as " + name +
         "; the slot that udev names cards after has changed.\n[Match]\nMACAddress=" + mac +
         "\nPath=*pci-*\n\n[Link]\nName=" + name + "\n";
}

std::string rule_text(const std::string& name, const std::string& mac) {
  return "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"" + mac +
         "\", ATTR{type}==\"1\", NAME=\"" + name + "\"\n";
}

TEST(NetworkNames, EveryConfigurationOfASlotName) {
  struct Case {
    const char *path, *text;
  };
  const Case cases[] = {
      {"/etc/network/interfaces", "auto lo\niface lo inet loopback\nallow-hotplug ens192\niface ens192 inet static\n"
                                  "  address 10.0.0.2/24\niface ens192:1 inet static\n"},
      {"/etc/network/interfaces.d/lan", "auto br0\niface br0 inet dhcp\n  bridge_ports ens192\n"},
      {"/etc/network/interfaces",
       "iface vlan7 inet dhcp\n  vlan-raw-device ens192\niface bond0 inet manual\n  bond-slaves none\n"},
      {"/etc/network/interfaces", "auto ens192.100\niface ens192.100 inet dhcp\n"},
      {"/etc/netplan/01.yaml",
       "network:\n  version: 2\n  ethernets:\n    ens192: # lan\n      dhcp4: no\n"
       "      addresses:\n        - 10.0.0.2/24\n  bridges:\n    br0:\n      interfaces: [ens192]\n"},
      {"/etc/netplan/01.yaml",
       "network:\n    ethernets:\n        lan:\n            match:\n                name: ens192\n"},
      {"/etc/NetworkManager/system-connections/lan.nmconnection",
       "[connection]\nid=lan\ntype=ethernet\ninterface-name=ens192\n[ipv4]\nmethod=auto\n"},
      {"/etc/NetworkManager/system-connections/v",
       "[connection]\ntype=vlan\ninterface-name=v7\n[vlan]\nparent=ens192\n"},
      {"/etc/systemd/network/lan.network", "[Match]\nName=ens192\n[Network]\nDHCP=yes\n"},
      {"/etc/sysconfig/network-scripts/ifcfg-ens192", "TYPE=Ethernet\nDEVICE=\"ens192\"\nONBOOT=yes\n"},
      {"/etc/sysconfig/network-scripts/ifcfg-ens192", "BOOTPROTO=dhcp\n"},
      {"/etc/sysconfig/network/ifcfg-ens192", "BOOTPROTO='static'\nIPADDR='10.0.0.2/24'\n"},
      {"/etc/sysconfig/network/ifcfg-br0", "BRIDGE='yes'\nBRIDGE_PORTS='ens192'\n"},
      {"/etc/wicked/ifconfig/lan.xml", "<interface><name>ens192</name></interface>\n"},
      {"/etc/dhcpcd.conf", "hostname\ninterface ens192\nstatic ip_address=10.0.0.2/24\n"},
      {"/etc/netctl/lan", "Interface=ens192\nConnection=ethernet\nIP=dhcp\n"},
  };
  for (const Case& c : cases) {
    GuestTree tree;
    add_udev(tree);
    tree.file(c.path, c.text);
    const GuestInfo info = guest_with_cards({mac_a});
    const Plan plan = tree.run(info, linux_guest::network_names_step);
    ASSERT_TRUE(tree.exists(link_dir + "ens192.link")) << c.path << "\n" << c.text << warnings_of(plan);
    for (const Change& change : plan.changes)
      EXPECT_TRUE(change.kind == Change::Kind::mkdir || change.path == link_dir + "ens192.link") << change.path;
    EXPECT_EQ(tree.read(link_dir + "ens192.link"), link_text("ens192", mac_a)) << c.path;
    EXPECT_EQ(warnings_of(plan), "") << c.path;
    EXPECT_EQ(tree.read(c.path), c.text);
    EXPECT_THAT(tree.plan(info, {{"again", linux_guest::network_names_step}}).changes, IsEmpty()) << c.path;
  }
}

TEST(NetworkNames, OlderUdevGetsARule) {
  for (unsigned version : {0U, 219U, 239U}) {
    GuestTree tree;
    add_udev(tree, version);
    tree.file("/etc/sysconfig/network-scripts/ifcfg-ens192", "DEVICE=ens192\n");
    const GuestInfo info = guest_with_cards({mac_a});
    tree.run(info, linux_guest::network_names_step);
    EXPECT_THAT(tree.read(rules_path), HasSubstr(rule_text("ens192", mac_a))) << version;
    EXPECT_FALSE(tree.exists(link_dir + "ens192.link"));
    EXPECT_THAT(tree.plan(info, {{"again", linux_guest::network_names_step}}).changes, IsEmpty()) << version;
  }
}

TEST(NetworkNames, WhatIsTiedToTheMacAlreadyIsLeftAlone) {
  struct Case {
    const char* path;
    std::string text;
  };
  const Case cases[] = {
      {"/etc/netplan/50-cloud-init.yaml", "network:\n    ethernets:\n        ens192:\n            match:\n"
                                          "                macaddress: '" +
                                              mac_a + "'\n            set-name: ens192\n"},
      {"/etc/netplan/x.yaml",
       "network:\n  ethernets:\n    lan:\n      match: {macaddress: \"" + mac_a + "\"}\n      dhcp4: true\n"},
      {"/etc/systemd/network/10-lan.link", "[Match]\nMACAddress=" + mac_a + "\n[Link]\nName=lan0\n"},
      {"/etc/systemd/network/lan.network", "[Match]\nMACAddress=" + mac_a + "\n[Network]\nDHCP=yes\n"},
      {"/etc/systemd/network/any.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n"},
      {"/etc/udev/rules.d/70-persistent-net.rules",
       "# PCI device 0x8086:0x100f (e1000)\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"" +
           mac_a + "\", ATTR{dev_id}==\"0x0\", ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\n"},
      {"/etc/NetworkManager/system-connections/any", "[connection]\nid=any\ntype=ethernet\n"},
      {"/etc/NetworkManager/system-connections/mac",
       "[connection]\ntype=ethernet\n[ethernet]\nmac-address=00:0C:29:AA:AA:AA\n"},
      {"/etc/network/interfaces", "auto lo\niface lo inet loopback\n"},
  };
  for (const Case& c : cases) {
    GuestTree tree;
    add_udev(tree);
    tree.file(c.path, c.text);
    const Plan plan = tree.run(guest_with_cards({mac_a}), linux_guest::network_names_step);
    EXPECT_THAT(plan.changes, IsEmpty()) << c.path;
    EXPECT_EQ(warnings_of(plan), "") << c.path;
  }
}

TEST(NetworkNames, SeveralCardsByHwaddr) {
  GuestTree tree;
  add_udev(tree, 239);
  tree.file("/etc/sysconfig/network-scripts/ifcfg-ens192", "DEVICE=ens192\nHWADDR=00:0C:29:BB:BB:BB\n")
      .file("/etc/sysconfig/network-scripts/ifcfg-ens224", "DEVICE=ens224\nHWADDR=00:0C:29:AA:AA:AA\n");
  const Plan plan = tree.run(guest_with_cards({mac_a, mac_b}), linux_guest::network_names_step);
  EXPECT_THAT(tree.read(rules_path), HasSubstr(rule_text("ens224", mac_a) + rule_text("ens192", mac_b)));
  EXPECT_EQ(warnings_of(plan), "");
}

TEST(NetworkNames, SeveralCardsByPciSlot) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/network/interfaces", "iface enp2s1 inet dhcp\niface enp2s5 inet dhcp\n");
  const Plan plan =
      tree.run(guest_with_cards({mac_a, mac_b}, {"0000:02:05.0", "0000:02:01.0"}), linux_guest::network_names_step);
  EXPECT_EQ(tree.read(link_dir + "enp2s1.link"), link_text("enp2s1", mac_b));
  EXPECT_EQ(tree.read(link_dir + "enp2s5.link"), link_text("enp2s5", mac_a));
  EXPECT_EQ(warnings_of(plan), "");
}

TEST(NetworkNames, SeveralCardsByHotplugSlot) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/network/interfaces", "iface ens160 inet dhcp\niface ens192 inet dhcp\n");
  GuestInfo info = guest_with_cards({mac_a, mac_b});
  info.machine.nics[0].hotplug_slot = 192;
  info.machine.nics[1].hotplug_slot = 160;
  const Plan plan = tree.run(info, linux_guest::network_names_step);
  EXPECT_EQ(tree.read(link_dir + "ens160.link"), link_text("ens160", mac_b));
  EXPECT_EQ(tree.read(link_dir + "ens192.link"), link_text("ens192", mac_a));
  EXPECT_EQ(warnings_of(plan), "");
}

TEST(NetworkNames, SeveralCardsByOrderWithAWarning) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/network/interfaces", "iface ens224 inet dhcp\niface ens192 inet dhcp\niface ens160 inet dhcp\n");
  const Plan plan = tree.run(guest_with_cards({mac_a, mac_b}), linux_guest::network_names_step);
  EXPECT_EQ(tree.read(link_dir + "ens160.link"), link_text("ens160", mac_a));
  EXPECT_EQ(tree.read(link_dir + "ens192.link"), link_text("ens192", mac_b));
  EXPECT_THAT(warnings_of(plan), HasSubstr("matched in order: ens160 = " + mac_a + ", ens192 = " + mac_b));
  EXPECT_THAT(warnings_of(plan), HasSubstr("the configuration names ens224, but the machine has no card for it"));
}

TEST(NetworkNames, KernelNames) {
  const std::string interfaces = "auto eth0\niface eth0 inet dhcp\n";
  { // named by slot after the conversion: eth0 must be given back
    GuestTree tree;
    add_udev(tree);
    tree.file("/etc/network/interfaces", interfaces);
    tree.run(guest_with_cards({mac_a}), linux_guest::network_names_step);
    EXPECT_EQ(tree.read(link_dir + "eth0.link"), link_text("eth0", mac_a));
  }
  { // switched off by the kernel command line
    GuestTree tree;
    add_udev(tree);
    tree.file("/etc/network/interfaces", interfaces)
        .file("/boot/grub/grub.cfg", "linux /vmlinuz root=UUID=1 net.ifnames=0 ro\ninitrd /i\n");
    EXPECT_THAT(tree.run(guest_with_cards({mac_a}), linux_guest::network_names_step).changes, IsEmpty());
  }
  { // switched off by a masked rule
    GuestTree tree;
    add_udev(tree);
    tree.file("/etc/network/interfaces", interfaces).link("/dev/null", "/etc/udev/rules.d/80-net-setup-link.rules");
    EXPECT_THAT(tree.run(guest_with_cards({mac_a}), linux_guest::network_names_step).changes, IsEmpty());
  }
  { // no udev at all (Alpine)
    GuestTree tree;
    tree.file("/etc/network/interfaces", interfaces);
    const Plan plan = tree.run(guest_with_cards({mac_a, mac_b}), linux_guest::network_names_step);
    EXPECT_THAT(plan.changes, IsEmpty());
    EXPECT_EQ(warnings_of(plan), "");
  }
}

TEST(NetworkNames, RulesThatFightAreQuieted) {
  GuestTree tree;
  add_udev(tree, 229);
  const std::string stale =
      "SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00:50:56:00:00:01\", NAME=\"eth0\"\n";
  const std::string slot = "SUBSYSTEM==\"net\", KERNELS==\"0000:02:01.0\", NAME=\"lan0\"\n";
  const std::string other = "SUBSYSTEM==\"block\", KERNEL==\"sda\", SYMLINK+=\"x\"\n";
  tree.file("/etc/udev/rules.d/70-persistent-net.rules", stale + other + slot)
      .file("/etc/network/interfaces", "iface eth0 inet dhcp\niface lan0 inet dhcp\n");
  const GuestInfo info = guest_with_cards({mac_a, mac_b});
  tree.run(info, linux_guest::network_names_step);
  EXPECT_EQ(tree.read("/etc/udev/rules.d/70-persistent-net.rules"), "# " + stale + other + "# " + slot);
  EXPECT_THAT(tree.read(rules_path), HasSubstr(rule_text("eth0", mac_a) + rule_text("lan0", mac_b)));
  EXPECT_THAT(tree.plan(info, {{"again", linux_guest::network_names_step}}).changes, IsEmpty());
}

TEST(NetworkNames, MatchesOfOldHardwareBecomeTheMac) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/systemd/network/lan.network", "[Match]\nPath=pci-0000:02:01.0\n\n[Network]\nAddress=10.0.0.2/24\n")
      .file("/etc/systemd/network/10-lan.link", "[Match]\nDriver=vmxnet3\nPath=pci-0000:02:01.0\n[Link]\nName=lan0\n")
      .file("/etc/systemd/network/20-pci.network", "[Match]\nPath=pci-*\n[Network]\nDHCP=yes\n");
  const GuestInfo info = guest_with_cards({mac_a});
  const Plan plan = tree.run(info, linux_guest::network_names_step);
  EXPECT_EQ(tree.read("/etc/systemd/network/lan.network"),
            "[Match]\nMACAddress=" + mac_a + "\n\n[Network]\nAddress=10.0.0.2/24\n");
  EXPECT_EQ(tree.read("/etc/systemd/network/10-lan.link"), "[Match]\nMACAddress=" + mac_a + "\n[Link]\nName=lan0\n");
  EXPECT_EQ(tree.read("/etc/systemd/network/20-pci.network"), "[Match]\nPath=pci-*\n[Network]\nDHCP=yes\n");
  EXPECT_EQ(warnings_of(plan), "");
  EXPECT_THAT(tree.plan(info, {{"again", linux_guest::network_names_step}}).changes, IsEmpty());
}

TEST(NetworkNames, WithoutMacsThereIsAWarning) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/network/interfaces", "iface ens192 inet dhcp\n");
  const Plan bare = tree.run(one_disk_guest(), linux_guest::network_names_step);
  EXPECT_THAT(bare.changes, IsEmpty());
  EXPECT_THAT(warnings_of(bare),
              HasSubstr("names ens192 (/etc/network/interfaces), but the source tells of no network card"));
  const Plan no_mac = tree.run(guest_with_cards({""}), linux_guest::network_names_step);
  EXPECT_THAT(warnings_of(no_mac), HasSubstr("no MAC address"));
}

TEST(NetworkNames, ConfigurationForACardThatIsNotThere) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/sysconfig/network-scripts/ifcfg-lan", "HWADDR=00:50:56:00:00:09\nBOOTPROTO=dhcp\n");
  const Plan plan = tree.run(guest_with_cards({mac_a}), linux_guest::network_names_step);
  EXPECT_THAT(warnings_of(plan), HasSubstr("ifcfg-lan: this configuration is for the MAC address 00:50:56:00:00:09"));
}

TEST(NetworkNames, PatternsAndDriversThatNoLongerFit) {
  GuestTree tree;
  add_udev(tree);
  tree.file("/etc/systemd/network/a.network", "[Match]\nName=ens*\n[Network]\nDHCP=yes\n")
      .file("/etc/systemd/network/b.network", "[Match]\nName=veth*\n")
      .file("/etc/netplan/a.yaml", "network:\n  ethernets:\n    all:\n      match:\n        driver: vmxnet3\n");
  const std::string warnings = warnings_of(tree.run(guest_with_cards({mac_a}), linux_guest::network_names_step));
  EXPECT_THAT(warnings, HasSubstr("/etc/systemd/network/a.network: cards are matched by the pattern ens*"));
  EXPECT_THAT(warnings, HasSubstr("/etc/netplan/a.yaml: 'all' matches cards by the driver vmxnet3"));
  EXPECT_THAT(warnings, Not(HasSubstr("veth")));
}

TEST(NetworkConfig, MacNotations) {
  EXPECT_EQ(linux_guest::normal_mac("00:0C:29:AA:bb:cc"), "00:0c:29:aa:bb:cc");
  EXPECT_EQ(linux_guest::normal_mac(" 00-0C-29-AA-BB-CC "), "00:0c:29:aa:bb:cc");
  for (const char* bad :
       {"", "00:0c:29", "permanent", "00:0c:29:aa:bb:cc:dd", "0:0c:29:aa:bb:cc0", "::::::::::::::::::"})
    EXPECT_EQ(linux_guest::normal_mac(bad), "") << bad;
}

} // namespace
} // namespace kvmport::test
