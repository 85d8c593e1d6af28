// SPDX-License-Identifier: Apache-2.0
// Whole guests: Debian, a Red Hat kind, Ubuntu with netplan and cloud-init, one without systemd. What the clone's files
// say afterwards, what is reported before and after, and that two clones of one guest share nothing.
#include "base/error.h"
#include "tests/clone/clone_tree.h"

#include <gmock/gmock.h>
#include <set>

namespace kvmport::test {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* machine_id = "0123456789abcdef0123456789abcdef";
constexpr const char* dracut_keygen = "[Unit]\nConditionFileNotEmpty=|!/etc/ssh/ssh_host_%i_key\n";

CloneTree& with_ssh(CloneTree& tree) {
  return tree.file("/etc/ssh/ssh_host_ed25519_key", "PRIVATE", 0600)
      .file("/etc/ssh/ssh_host_ed25519_key.pub", ed25519_key)
      .file("/etc/ssh/ssh_host_ecdsa_key", "PRIVATE", 0600)
      .file("/etc/ssh/ssh_host_ecdsa_key.pub", ecdsa_key)
      .file("/etc/ssh/sshd_config", "PermitRootLogin no\n")
      .file("/usr/bin/ssh-keygen", "");
}

void make_debian(CloneTree& tree) {
  with_ssh(tree)
      .file("/usr/lib/systemd/systemd", "")
      .file("/etc/machine-id", std::string(machine_id) + "\n", 0444)
      .file("/var/lib/dbus/machine-id", std::string(machine_id) + "\n")
      .file("/etc/hostname", "db1\n")
      .file("/etc/mailname", "db1.example.com\n")
      .file("/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tdb1.example.com\tdb1 # db1 is here\n10.0.0.9 db10 xdb1 "
                          "db1-old\n")
      .file("/etc/postfix/main.cf", "mydestination = localhost\nmyhostname = db1.example.com\n")
      .file("/etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n  hwaddress ether 52:54:00:AA:BB:01\n")
      .file("/etc/systemd/network/10-kvmport-eth0.link",
            "[Match]\nMACAddress=52:54:00:aa:bb:01\nPath=*pci-*\n\n[Link]\nName=eth0\n")
      .file("/var/lib/dhcp/dhclient.eth0.leases", "default-duid \"\\000\\001\";\nlease { }\n")
      .file("/var/lib/systemd/random-seed", "random", 0600)
      .file("/etc/popularity-contest.conf", "MY_HOSTID=\"00112233\"\n");
}

void make_red_hat(CloneTree& tree) {
  with_ssh(tree)
      .file("/usr/lib/systemd/systemd", "")
      .file("/usr/lib/systemd/system/sshd-keygen@.service", dracut_keygen)
      .file("/etc/machine-id", std::string(machine_id) + "\n", 0444)
      .link("/etc/machine-id", "/var/lib/dbus/machine-id")
      .file("/etc/hostname", "db1.corp.example\n")
      .file("/boot/loader/entries/" + std::string(machine_id) + "-5.14.0.conf", "title x\n")
      .file("/etc/sysconfig/network-scripts/ifcfg-eth0",
            "DEVICE=eth0\nHWADDR=52:54:00:AA:BB:01\nUUID=aaaaaaaa-0000-4000-8000-000000000001\n"
            "DHCP_HOSTNAME=db1.corp.example\n")
      .file("/etc/NetworkManager/system-connections/bond0.nmconnection",
            "[connection]\nid=bond0\nuuid=aaaaaaaa-0000-4000-8000-000000000002\ntype=bond\n", 0600)
      .file("/etc/NetworkManager/system-connections/port.nmconnection",
            "[connection]\nuuid=aaaaaaaa-0000-4000-8000-000000000003\ntype=ethernet\n"
            "controller=aaaaaaaa-0000-4000-8000-000000000002\nport-type=bond\n"
            "permissions=bbbbbbbb-0000-4000-8000-000000000009\n[ethernet]\nmac-address=52:54:00:AA:BB:01\n",
            0600)
      .file("/var/lib/NetworkManager/secret_key", "nm-v2-secret", 0600)
      .file("/var/lib/NetworkManager/internal-aaaaaaaa-eth0.lease", "ADDRESS=10.0.0.4\n")
      .file("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1994-05.com.redhat:deadbeef1234\n")
      .file("/etc/lvm/devices/system.devices", "IDTYPE=sys_serial IDNAME=old DEVNAME=/dev/vda2 PVID=x\n")
      .file("/etc/pki/consumer/cert.pem", "certificate");
}

void make_ubuntu(CloneTree& tree) {
  with_ssh(tree)
      .file("/usr/lib/systemd/systemd", "")
      .file("/etc/machine-id", std::string(machine_id) + "\n", 0444)
      .link("/etc/machine-id", "/var/lib/dbus/machine-id")
      .file("/etc/hostname", "db1\n")
      .file("/etc/hosts", "127.0.1.1 db1\n")
      .file("/etc/cloud/cloud.cfg", "preserve_hostname: false\n")
      .file("/etc/netplan/50-cloud-init.yaml",
            "network:\n  version: 2\n  ethernets:\n    ens3:\n      match: {macaddress: \"52:54:00:aa:bb:01\"}\n"
            "      set-name: ens3\n      # was 52:54:00:aa:bb:01\n",
            0600)
      .file("/etc/netplan/90-NM-aaaaaaaa-0000-4000-8000-000000000004.yaml",
            "network:\n  ethernets:\n    NM-aaaaaaaa-0000-4000-8000-000000000004:\n      networkmanager:\n"
            "        uuid: \"aaaaaaaa-0000-4000-8000-000000000004\"\n",
            0600)
      .file("/etc/udev/rules.d/70-persistent-net.rules",
            "# made by hand\nSUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:aa:bb:01\", NAME=\"ens3\"\n"
            "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:99:99:99\", NAME=\"ens4\"\n")
      .file("/var/lib/cloud/instances/iid-1/sem/config_ssh", "done")
      .file("/var/lib/cloud/data/instance-id", "iid-1\n")
      .file("/var/lib/cloud/seed/nocloud/meta-data", "seed")
      .link("/var/lib/cloud/instances/iid-1", "/var/lib/cloud/instance");
}

TEST(IdentityTrees, Debian) {
  CloneTree tree;
  make_debian(tree);
  const Plan plan = tree.apply(db2(), "defaults");
  EXPECT_EQ(tree.read("/etc/machine-id"), "");
  EXPECT_FALSE(tree.exists("/var/lib/dbus/machine-id"));
  EXPECT_EQ(tree.read("/etc/hostname"), "db2\n");
  EXPECT_EQ(tree.read("/etc/mailname"), "db2.example.com\n");
  EXPECT_EQ(tree.read("/etc/hosts"),
            "127.0.0.1\tlocalhost\n127.0.1.1\tdb2.example.com\tdb2 # db2 is here\n10.0.0.9 db10 xdb1 db1-old\n");
  EXPECT_THAT(warnings_of(plan), HasSubstr("/etc/postfix/main.cf line 2 names db1"));
  EXPECT_EQ(tree.read("/etc/network/interfaces"),
            "auto eth0\niface eth0 inet dhcp\n  hwaddress ether 52:54:00:0C:0D:0E\n");
  EXPECT_EQ(tree.read("/etc/systemd/network/10-kvmport-eth0.link"),
            "[Match]\nMACAddress=52:54:00:0c:0d:0e\nPath=*pci-*\n\n[Link]\nName=eth0\n");
  EXPECT_FALSE(tree.exists("/var/lib/dhcp/dhclient.eth0.leases"));
  EXPECT_FALSE(tree.exists("/etc/ssh/ssh_host_ed25519_key"));
  EXPECT_FALSE(tree.exists("/etc/ssh/ssh_host_ed25519_key.pub"));
  const std::string unit = tree.read("/etc/systemd/system/kvmport-ssh-host-keys.service");
  EXPECT_THAT(unit, HasSubstr("\nBefore=ssh.service sshd.service\n"));
  EXPECT_THAT(unit, HasSubstr("\nConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key\n"));
  EXPECT_EQ(tree.filesystem().readlink("/etc/systemd/system/multi-user.target.wants/kvmport-ssh-host-keys.service"),
            "/etc/systemd/system/kvmport-ssh-host-keys.service");
}

TEST(IdentityTrees, RedHat) {
  CloneTree tree;
  make_red_hat(tree);
  const Plan plan = tree.apply(db2(), "defaults");
  EXPECT_EQ(tree.read("/etc/machine-id"), "");
  EXPECT_EQ(tree.filesystem().readlink("/var/lib/dbus/machine-id"), "/etc/machine-id");
  EXPECT_THAT(plan.notes, Contains(HasSubstr("/boot/loader/entries")));
  EXPECT_EQ(tree.read("/etc/hostname"), "db2.corp.example\n");
  EXPECT_FALSE(tree.exists("/etc/ssh/ssh_host_ed25519_key"));
  EXPECT_FALSE(tree.exists("/etc/systemd/system/kvmport-ssh-host-keys.service")) << "sshd-keygen makes the keys";
  const std::string ifcfg = tree.read("/etc/sysconfig/network-scripts/ifcfg-eth0");
  EXPECT_THAT(ifcfg, HasSubstr("HWADDR=52:54:00:0C:0D:0E\n"));
  EXPECT_THAT(ifcfg, HasSubstr("DHCP_HOSTNAME=db2.corp.example\n"));
  EXPECT_THAT(ifcfg, Not(HasSubstr("aaaaaaaa")));
  const std::string bond = tree.read("/etc/NetworkManager/system-connections/bond0.nmconnection"),
                    port = tree.read("/etc/NetworkManager/system-connections/port.nmconnection");
  const std::string uuid = bond.substr(bond.find("uuid=") + 5, 36);
  EXPECT_THAT(port, HasSubstr("controller=" + uuid + "\n"));
  EXPECT_THAT(port, Not(HasSubstr("aaaaaaaa")));
  EXPECT_THAT(port, HasSubstr("bbbbbbbb-0000-4000-8000-000000000009")) << "no connection's";
  EXPECT_THAT(port, HasSubstr("mac-address=52:54:00:0C:0D:0E\n"));
  EXPECT_EQ(tree.filesystem().stat("/etc/NetworkManager/system-connections/port.nmconnection")->mode, 0600U);
  for (const char* path : {"/var/lib/NetworkManager/secret_key", "/var/lib/NetworkManager/internal-aaaaaaaa-eth0.lease",
                           "/etc/lvm/devices/system.devices", "/etc/pki/consumer/cert.pem"})
    EXPECT_FALSE(tree.exists(path)) << path;
  EXPECT_THAT(tree.read("/etc/iscsi/initiatorname.iscsi"),
              testing::MatchesRegex("InitiatorName=iqn.1994-05.com.redhat:[0-9a-f]+\n"));
}

TEST(IdentityTrees, UbuntuWithCloudInit) {
  CloneTree tree;
  make_ubuntu(tree);
  tree.apply(db2(), "defaults");
  EXPECT_EQ(tree.read("/etc/hosts"), "127.0.1.1 db2\n");
  EXPECT_EQ(tree.read("/etc/cloud/cloud.cfg.d/99-kvmport-hostname.cfg"), "preserve_hostname: true\n");
  const std::string netplan = tree.read("/etc/netplan/50-cloud-init.yaml");
  EXPECT_THAT(netplan, HasSubstr("match: {macaddress: \"52:54:00:0c:0d:0e\"}\n"));
  EXPECT_EQ(tree.read("/etc/udev/rules.d/70-persistent-net.rules"),
            "# made by hand\nSUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:0c:0d:0e\", NAME=\"ens3\"\n");
  EXPECT_FALSE(tree.exists("/etc/netplan/90-NM-aaaaaaaa-0000-4000-8000-000000000004.yaml"));
  for (const std::string& name : tree.filesystem().list("/etc/netplan"))
    EXPECT_TRUE(name == "50-cloud-init.yaml" ||
                tree.read("/etc/netplan/" + name).find("uuid: \"" + name.substr(6, 36) + "\"") != std::string::npos)
        << name;
  EXPECT_THAT(tree.filesystem().list("/var/lib/cloud/instances"), IsEmpty());
  EXPECT_FALSE(tree.exists("/var/lib/cloud/instance"));
  EXPECT_TRUE(tree.exists("/var/lib/cloud/seed/nocloud/meta-data"));
  EXPECT_TRUE(tree.exists("/etc/systemd/system/kvmport-ssh-host-keys.service"));
}

TEST(IdentityTrees, WithoutSystemdTheMachineIdIsRemoved) {
  for (const bool alpine : {true, false}) {
    CloneTree tree;
    with_ssh(tree)
        .file("/etc/machine-id", machine_id)
        .file("/etc/conf.d/hostname", "# name\nhostname=\"db1\"\n")
        .file(alpine ? "/etc/init.d/sshd" : "/etc/init.d/ssh", alpine ? "ssh-keygen -A || return 1\n" : "start\n");
    const Plan plan = tree.apply(db2(), "defaults");
    EXPECT_FALSE(tree.exists("/etc/machine-id"));
    EXPECT_EQ(tree.read("/etc/conf.d/hostname"), "# name\nhostname=\"db2\"\n");
    EXPECT_FALSE(tree.exists("/etc/hostname"));
    EXPECT_FALSE(tree.exists("/etc/systemd"));
    EXPECT_EQ(warnings_of(plan).find("run ssh-keygen -A") == std::string::npos, alpine);
  }
}

TEST(IdentityTrees, AMachineIdThatIsALinkBecomesAFile) {
  CloneTree tree;
  tree.file("/lib/systemd/systemd", "")
      .file("/var/lib/dbus/machine-id", machine_id)
      .link("/var/lib/dbus/machine-id", "/etc/machine-id");
  tree.apply({}, "machine-id");
  EXPECT_EQ(tree.read("/etc/machine-id"), "");
  EXPECT_EQ(tree.filesystem().lstat("/etc/machine-id")->type, FileType::regular);
  EXPECT_FALSE(tree.exists("/var/lib/dbus/machine-id"));
}

TEST(IdentityTrees, AKeygenUnitOfFirstBootsOnlyIsNotReliedUpon) {
  CloneTree tree;
  with_ssh(tree)
      .file("/usr/lib/systemd/systemd", "")
      .file("/usr/lib/systemd/system/sshd-keygen.service", "[Unit]\nConditionFirstBoot=yes\n");
  tree.apply({}, "ssh-host-keys");
  EXPECT_TRUE(tree.exists("/etc/systemd/system/kvmport-ssh-host-keys.service"));
}

struct NameCase {
  std::string old_file, hostname, domain, new_file, new_hosts;
};

TEST(IdentityTrees, NamesShortAndFull) {
  const std::string hosts = "127.0.1.1 db1.example.com db1\n10.0.0.1 DB1.other.net\n";
  for (const NameCase& c : {
           NameCase{"db1\n", "db2", "", "db2\n", "127.0.1.1 db2.example.com db2\n10.0.0.1 db2.other.net\n"},
           NameCase{"db1\n", "db2", "new.org", "db2\n", "127.0.1.1 db2.new.org db2\n10.0.0.1 db2.other.net\n"},
           NameCase{"db1\n", "db2.new.org", "", "db2.new.org\n", "127.0.1.1 db2.new.org db2\n10.0.0.1 db2.other.net\n"},
           NameCase{"# c\ndb1.example.com\n", "db2", "", "db2.example.com\n",
                    "127.0.1.1 db2.example.com db2\n10.0.0.1 db2.other.net\n"},
           NameCase{"localhost\n", "db2", "", "db2\n", hosts},
           NameCase{"db1\n", "", "", "db1\n", hosts},
       }) {
    CloneTree tree;
    tree.file("/etc/hostname", c.old_file).file("/etc/hosts", hosts);
    tree.apply({.hostname = c.hostname, .domain = c.domain}, "hostname");
    EXPECT_EQ(tree.read("/etc/hostname"), c.new_file);
    EXPECT_EQ(tree.read("/etc/hosts"), c.new_hosts);
  }
  for (const char* bad : {"-x", "a..b", "a b", "a\nb", "x.", ".x", "a_b", "x-"})
    EXPECT_THROW(CloneTree().apply({.hostname = bad}, "hostname"), Error) << bad;
  EXPECT_THROW(CloneTree().apply({.macs = {{"nonsense", new_mac}}}, "mac-addresses"), Error);
}

TEST(IdentityTrees, AddressesOfUnknownCardsAreWarnedOf) {
  CloneTree tree;
  tree.file("/etc/network/interfaces", "hwaddress 52:54:00:11:22:33\nhwaddress 52-54-00-AA-BB-01\n")
      .file("/etc/dhcpcd.conf", "clientid 00:01:00:01:2c:aa:52:54:00:aa:bb:01\n# 52:54:00:44:44:44\n"
                                "x 01:00:5e:00:00:fb ff:ff:ff:ff:ff:ff\n");
  const Plan plan = tree.apply(db2(), "mac-addresses");
  EXPECT_EQ(tree.read("/etc/network/interfaces"), "hwaddress 52:54:00:11:22:33\nhwaddress 52-54-00-0C-0D-0E\n");
  EXPECT_THAT(tree.read("/etc/dhcpcd.conf"), HasSubstr("clientid 00:01:00:01:2c:aa:52:54:00:aa:bb:01\n"));
  ASSERT_EQ(plan.warnings.size(), 1U);
  EXPECT_THAT(plan.warnings[0], HasSubstr("52:54:00:11:22:33"));
}

TEST(IdentityTrees, VolumeGroupsTiedToTheIdentityAreWarnedOf) {
  for (const auto& [source, rule] :
       {std::pair{"uname", "hostname"}, {"machineid", "machine-id"}, {"appmachineid", "machine-id"}}) {
    CloneTree tree;
    tree.file("/usr/lib/systemd/systemd", "")
        .file("/etc/hostname", "db1\n")
        .file("/etc/machine-id", machine_id)
        .file("/etc/lvm/lvm.conf", std::string("global {\n\tsystem_id_source = \"") + source + "\" # owner\n}\n");
    EXPECT_THAT(warnings_of(tree.apply(db2(), rule)), HasSubstr(std::string("system_id_source = \"") + source));
  }
}

TEST(IdentityTrees, WhatCantBeMadeNewIsWarnedOf) {
  struct Case {
    const char *path, *content, *rule, *warning;
  };
  for (const Case& c :
       {Case{"/etc/ssh/sshd_config.d/a.conf", "hostkey /srv/keys/host\n", "ssh-host-keys", "/srv/keys/host"},
        Case{"/etc/dropbear/dropbear_rsa_host_key", "x", "ssh-host-keys", "Dropbear"},
        Case{"/etc/systemd/networkd.conf", "[DHCPv4]\nDUIDRawData=00:01\n", "dhcp-leases", "by hand"},
        Case{"/etc/dhcp/dhclient.conf", "send dhcp-client-identifier 1:2;\n", "dhcp-leases", "by hand"},
        Case{"/var/lib/rabbitmq/mnesia/rabbit@db1/x", "x", "hostname", "RabbitMQ"},
        Case{"/etc/nvme/hostnqn", "nqn.2020-01.com.example:db1\n", "nvme-host", "not made of a UUID"},
        Case{"/etc/ssl/private/ssl-cert-snakeoil.key", "x", "snakeoil-certificate", "was left"},
        Case{"/var/lib/snmp/snmpd.conf", "oldEngineID 1\nusmUser 1\n", "snmp-engine", "SNMPv3"},
        Case{"/etc/systemd/network/wg0.netdev", "[WireGuard]\nPrivateKey=x\n", "wireguard", "WireGuard key"}}) {
    CloneTree tree;
    tree.file("/etc/hostname", "db1\n").file(c.path, c.content);
    EXPECT_THAT(warnings_of(tree.apply(db2(), c.rule)), HasSubstr(c.warning)) << c.path;
    EXPECT_TRUE(tree.exists(c.path));
  }
}

TEST(IdentityTrees, HostileStateIsLeftAlone) {
  for (const std::string& state : {std::string("not json"), std::string("[1"),
                                   "{\"data\":" + std::string(200000, '[') + std::string(200000, ']') + "}",
                                   std::string(R"({"data":{"auth":[]}})"), std::string()}) {
    CloneTree tree;
    tree.file("/var/lib/snapd/state.json", state);
    EXPECT_THAT(tree.apply(db2(), "snapd-device").changes, IsEmpty());
    EXPECT_THAT(tree.report(), IsEmpty());
  }
  CloneTree tree;
  tree.link("machine-id", "/etc/machine-id").link("/etc/b", "/etc/a").link("/etc/a", "/etc/b");
  EXPECT_THROW(tree.apply(db2(), "machine-id"), Error);
}

TEST(IdentityTrees, TheReportShowsWhatIsThereAndWhatIsLeft) {
  for (const auto make : {make_debian, make_red_hat, make_ubuntu}) {
    CloneTree tree;
    make(tree);
    const auto before = tree.report();
    EXPECT_THAT(before, Contains(IdentityFinding{"machine-id", "/etc/machine-id", machine_id}));
    EXPECT_THAT(before, Contains(IdentityFinding{"ssh-host-keys", "/etc/ssh/ssh_host_ed25519_key.pub", ed25519_print}));
    EXPECT_THAT(before, Contains(IdentityFinding{"ssh-host-keys", "/etc/ssh/ssh_host_ecdsa_key.pub", ecdsa_print}));
    EXPECT_FALSE(shared_identity(before, tree.report()).empty());
    tree.apply(db2(), "defaults");
    std::set<std::string> left;
    for (const IdentityFinding& finding : tree.report())
      left.insert(finding.rule);
    // New values only.
    for (const std::string& rule : left)
      EXPECT_THAT((std::set<std::string>{"hostname", "mac-addresses", "connection-uuids", "iscsi-initiator",
                                         "popularity-contest"}),
                  Contains(rule));
    EXPECT_THAT(shared_identity(before, tree.report()), IsEmpty());
  }
}

TEST(IdentityTrees, TwoClonesShareNothing) {
  for (const auto make : {make_debian, make_red_hat, make_ubuntu}) {
    CloneTree a, b;
    make(a);
    make(b);
    a.apply(db2(), "defaults");
    b.apply({.hostname = "db3", .macs = {{old_mac, "52:54:00:33:33:33"}}}, "defaults");
    EXPECT_THAT(shared_identity(a.report(), b.report()), IsEmpty());
    // What is made at the first boot is absent.
    EXPECT_EQ(main_identity({}, a.filesystem()).count("machine-id"), 0U);
    EXPECT_EQ(main_identity({}, a.filesystem()).size(), 1U);
  }
}

TEST(IdentityTrees, MainValuesForComparingBootedClones) {
  CloneTree tree;
  make_debian(tree);
  EXPECT_EQ(main_identity({}, tree.filesystem()),
            (std::map<std::string, std::string>{{"machine-id", machine_id},
                                                {"hostname", "db1"},
                                                {"dhcp-duid", "\"\\000\\001\";"},
                                                {"ssh-host-key ssh-ed25519", ed25519_print},
                                                {"ssh-host-key ecdsa-sha2-nistp256", ecdsa_print}}));
}

TEST(IdentityTrees, ThePlanOfASeedIsAlwaysTheSameAndWithoutOneNever) {
  CloneTree tree;
  make_red_hat(tree);
  const auto texts = [&](const CloneIdentity& identity) {
    std::string text;
    for (const Change& change : plan_identity({}, tree.filesystem(), identity, select_rules("defaults")).changes)
      text += change.path + "\n" + change.after + "\n";
    return text;
  };
  EXPECT_EQ(texts(db2()), texts(db2()));
  CloneIdentity unseeded = db2();
  unseeded.seed.clear();
  EXPECT_NE(texts(unseeded), texts(unseeded));
}

} // namespace
} // namespace kvmport::test
