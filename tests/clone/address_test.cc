// SPDX-License-Identifier: Apache-2.0
// Static IP addresses: texts, the configuration of each kind before and after, which card is meant, what is refused and
// what is warned of.
#include "base/error.h"
#include "libconvert/clone/address_config.h"
#include "libconvert/clone/static_address.h"
#include "tests/clone/clone_tree.h"

#include <functional>
#include <gmock/gmock.h>

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string code_of(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

StaticAddress wish(const std::vector<std::string>& addresses, const std::vector<std::string>& gateways = {},
                   const std::vector<std::string>& dns = {}) {
  return parse_static_address(addresses, gateways, dns);
}

CloneIdentity db2_at(const StaticAddress& address) {
  CloneIdentity identity = db2();
  identity.address = address;
  return identity;
}

// --- texts --------------------------------------------------------------------------------------------------------

TEST(StaticAddressText, GoodOnesComeBack) {
  EXPECT_EQ(wish({"192.0.2.7/24", "2001:DB8::7/64"}, {"192.0.2.1", "fe80::1"}, {"198.51.100.53"}).text(),
            "192.0.2.7/24 2001:db8::7/64 gateway 192.0.2.1 gateway fe80::1 dns 198.51.100.53");
  EXPECT_EQ(wish({"192.0.2.6/31"}).text(), "192.0.2.6/31") << "RFC 3021: both addresses of a /31 are hosts'";
  EXPECT_EQ(wish({"192.0.2.7/32"}, {"198.51.100.1"}).text(), "192.0.2.7/32 gateway 198.51.100.1");
  EXPECT_TRUE(wish({}).empty());
}

TEST(StaticAddressText, BadOnesAreRefused) {
  for (const char* wrong :
       {"192.0.2.7", "192.0.2.7/33", "192.0.2.7/", "192.0.2.7/024x", "192.0.2/24", "192.0.2.7/0", "127.0.0.1/8",
        "169.254.1.1/16", "192.0.2.0/24", "192.0.2.255/24", "2001:db8::/64", "fe80::7/64", "::1/128", "x", "",
        "192.0.2.7/24 ", "192.0.2.7\n/24", "2001:db8::7/129", "1.2.3.4/-1"})
    EXPECT_EQ(code_of([&] { wish({wrong}); }), "ADDRESS_INVALID") << wrong;
  EXPECT_EQ(code_of([] { wish({"192.0.2.7/24", "192.0.2.8/24"}); }), "ADDRESS_INVALID");
  EXPECT_EQ(code_of([] { wish({"192.0.2.7/24"}, {"192.0.3.1"}); }), "ADDRESS_INVALID") << "not reachable";
  EXPECT_EQ(code_of([] { wish({"192.0.2.7/24"}, {"192.0.2.7"}); }), "ADDRESS_INVALID");
  EXPECT_EQ(code_of([] { wish({"192.0.2.7/24"}, {"2001:db8::1"}); }), "ADDRESS_INVALID");
  EXPECT_EQ(code_of([] { wish({}, {}, {"192.0.2.1"}); }), "ADDRESS_INVALID");
}

// --- files --------------------------------------------------------------------------------------------------------

struct FileCase {
  const char *name, *file, *before;
  StaticAddress wanted;
  const char* after;
};
void PrintTo(const FileCase& one, std::ostream* out) {
  *out << one.name;
}

const std::vector<FileCase>& file_cases() {
  static const std::vector<FileCase> cases{
      {"ifupdown_static", "/etc/network/interfaces",
       "auto lo\niface lo inet loopback\n\n# the LAN\nauto eth0\niface eth0 inet static\n\taddress 10.0.0.4\n"
       "\tnetmask 255.255.255.0\n\tbroadcast 10.0.0.255\n\tgateway 10.0.0.1\n\tmtu 1400\n\n# end\n",
       wish({"10.0.0.9/16"}),
       "auto lo\niface lo inet loopback\n\n# the LAN\nauto eth0\niface eth0 inet static\n\taddress 10.0.0.9\n"
       "\tnetmask 255.255.0.0\n\tgateway 10.0.0.1\n\tmtu 1400\n\n# end\n"},
      {"ifupdown_dhcp_both_families", "/etc/network/interfaces.d/eth0", "allow-hotplug eth0\niface eth0 inet dhcp",
       wish({"192.0.2.7/24", "2001:db8::7/64"}, {"192.0.2.1"}, {"192.0.2.53"}),
       "allow-hotplug eth0\niface eth0 inet static\n    address 192.0.2.7/24\n    gateway 192.0.2.1\n"
       "    dns-nameservers 192.0.2.53\n\niface eth0 inet6 static\n    address 2001:db8::7/64\n"
       "    dns-nameservers 192.0.2.53\n"},
      {"netplan_block", "/etc/netplan/50.yaml",
       "# Grüße\nnetwork:\n  version: 2\n  ethernets:\n    ens3:\n      addresses:\n      - 10.0.0.4/24 # LAN\n"
       "      - 10.1.0.4/24\n      nameservers:\n        search: [example.com]\n        addresses:\n        - "
       "10.0.0.2\n"
       "        - 10.0.0.3\n      routes:\n        - to: default\n          via: 10.0.0.1\n      mtu: 1400\n",
       wish({"192.0.2.7/24"}, {"192.0.2.1"}, {"192.0.2.53", "2001:db8::53"}),
       "# Grüße\nnetwork:\n  version: 2\n  ethernets:\n    ens3:\n      addresses:\n      - 192.0.2.7/24 # LAN\n"
       "      - 10.1.0.4/24\n      nameservers:\n        search: [example.com]\n"
       "        addresses: [192.0.2.53, \"2001:db8::53\"]\n      routes:\n        - to: default\n"
       "          via: 192.0.2.1\n      mtu: 1400\n"},
      {"netplan_dhcp", "/etc/netplan/50-cloud-init.yaml",
       "network:\n    ethernets:\n        ens3:\n            dhcp4: true\n            dhcp6: true\n    version: 2\n",
       wish({"192.0.2.7/24"}, {"192.0.2.1"}),
       "network:\n    ethernets:\n        ens3:\n            addresses: [192.0.2.7/24]\n"
       "            routes: [{to: 0.0.0.0/0, via: 192.0.2.1}]\n            dhcp4: false\n            dhcp6: true\n"
       "    version: 2\n"},
      {"netplan_flow", "/etc/netplan/a.yaml", "network: {ethernets: {ens3: {dhcp4: yes, mtu: 1400}}}\n",
       wish({"192.0.2.7/24", "2001:db8::7/64"}, {"2001:db8::1"}),
       "network: {ethernets: {ens3: {addresses: [\"2001:db8::7/64\", 192.0.2.7/24], routes: [{to: \"::/0\", via: "
       "\"2001:db8::1\"}], dhcp4: false, mtu: 1400}}}\n"},
      {"netplan_old_gateway", "/etc/netplan/a.yaml",
       "network:\n  ethernets:\n    lan:\n      match: {macaddress: '52:54:00:aa:bb:01'}\n      set-name: lan0\n"
       "      addresses: [10.0.0.4/24]\n      gateway4: 10.0.0.1\n",
       wish({"192.0.2.7/24"}, {"192.0.2.1"}),
       "network:\n  ethernets:\n    lan:\n      match: {macaddress: '52:54:00:aa:bb:01'}\n      set-name: lan0\n"
       "      addresses: [192.0.2.7/24]\n      gateway4: 192.0.2.1\n"},
      {"keyfile_static", "/etc/NetworkManager/system-connections/lan.nmconnection",
       "[connection]\nid=lan\ntype=ethernet\ninterface-name=ens3\n\n[ipv4]\naddress1=10.0.0.4/24,10.0.0.1\n"
       "address2=10.1.0.4/24\ndns=10.0.0.2;10.0.0.3;\nmethod=manual\n\n[ipv6]\nmethod=auto\n",
       wish({"192.0.2.7/24"}, {"192.0.2.1"}, {"192.0.2.53", "2001:db8::53"}),
       "[connection]\nid=lan\ntype=ethernet\ninterface-name=ens3\n\n[ipv4]\naddress1=192.0.2.7/24,192.0.2.1\n"
       "address2=10.1.0.4/24\ndns=192.0.2.53;\nmethod=manual\n\n[ipv6]\nmethod=auto\n"},
      {"keyfile_gateway_kept", "/etc/NetworkManager/system-connections/lan",
       "[connection]\ntype=802-3-ethernet\n[ipv4]\nmethod=manual\naddresses1=10.0.0.4;24;10.0.0.1;\n",
       wish({"10.0.0.9/24"}),
       "[connection]\ntype=802-3-ethernet\n[ipv4]\nmethod=manual\naddress1=10.0.0.9/24,10.0.0.1\n"},
      {"keyfile_dhcp", "/etc/NetworkManager/system-connections/lan.nmconnection",
       "[connection]\ntype=ethernet\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n",
       wish({"192.0.2.7/24", "2001:db8::7/64"}, {"2001:db8::1"}),
       "[connection]\ntype=ethernet\n\n[ipv4]\nmethod=manual\naddress1=192.0.2.7/24\n\n[ipv6]\nmethod=manual\n"
       "address1=2001:db8::7/64,2001:db8::1\n"},
      {"networkd_static", "/etc/systemd/network/10.network",
       "[Match]\nName=ens3\n\n[Network]\nAddress=10.0.0.4/24\nAddress=2001:db8::4/64\nGateway=10.0.0.1\nDNS=10.0.0.2\n"
       "DNS=10.0.0.3\n\n[Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.8\n",
       wish({"192.0.2.7/24"}, {"192.0.2.1"}, {"192.0.2.53"}),
       "[Match]\nName=ens3\n\n[Network]\nAddress=192.0.2.7/24\nAddress=2001:db8::4/64\nGateway=192.0.2.1\n"
       "DNS=192.0.2.53\n\n[Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.8\n"},
      {"networkd_dhcp", "/etc/systemd/network/all.network", "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n# end\n",
       wish({"192.0.2.7/24"}, {"192.0.2.1"}),
       "[Match]\nName=en*\n\n[Network]\nDHCP=ipv6\n# end\nAddress=192.0.2.7/24\nGateway=192.0.2.1\n"},
      {"ifcfg_red_hat", "/etc/sysconfig/network-scripts/ifcfg-eth0",
       "DEVICE=eth0\nBOOTPROTO=\"static\"\nIPADDR=\"10.0.0.4\"\nNETMASK=\"255.255.255.0\"\nNETWORK=10.0.0.0\n"
       "GATEWAY=10.0.0.1\nDNS1=10.0.0.2\nDNS2=10.0.0.3\nONBOOT=yes\n",
       wish({"192.0.2.7/25"}, {"192.0.2.1"}, {"192.0.2.53"}),
       "DEVICE=eth0\nBOOTPROTO=\"static\"\nIPADDR=\"192.0.2.7\"\nNETMASK=\"255.255.255.128\"\n"
       "GATEWAY=192.0.2.1\nONBOOT=yes\nDNS1=\"192.0.2.53\"\n"},
      {"ifcfg_red_hat_dhcp", "/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\n",
       wish({"192.0.2.7/24", "2001:db8::7/64"}, {"192.0.2.1"}),
       "DEVICE=eth0\nBOOTPROTO=none\nONBOOT=yes\nIPADDR=192.0.2.7\nPREFIX=24\nGATEWAY=192.0.2.1\nIPV6INIT=yes\n"
       "IPV6ADDR=2001:db8::7/64\n"},
      {"ifcfg_suse", "/etc/sysconfig/network/ifcfg-eth0",
       "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='10.0.0.4/24'\nIPADDR_1='10.1.0.4/24'\n", wish({"10.0.0.9/24"}),
       "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='10.0.0.9/24'\nIPADDR_1='10.1.0.4/24'\n"},
      {"ifcfg_suse_dhcp", "/etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n",
       wish({"192.0.2.7/24"}), "BOOTPROTO='dhcp6'\nSTARTMODE='auto'\nIPADDR='192.0.2.7/24'\n"},
  };
  return cases;
}

class AddressFile : public testing::TestWithParam<FileCase> {};

TEST_P(AddressFile, GetsTheAddressAndNothingElse) {
  CloneTree tree;
  tree.file(GetParam().file, GetParam().before);
  const Plan plan = tree.apply(db2_at(GetParam().wanted), "static-address");
  EXPECT_EQ(tree.read(GetParam().file), GetParam().after);
  // Once more with what is there now: nothing is left to be changed.
  const Plan again = plan_identity({}, tree.filesystem(), db2_at(GetParam().wanted), select_rules("static-address"));
  EXPECT_THAT(again.changes, IsEmpty());
}
INSTANTIATE_TEST_SUITE_P(All, AddressFile, testing::ValuesIn(file_cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// --- which card, and what else ------------------------------------------------------------------------------------

constexpr const char* two_cards = "iface eth1 inet static\n  address 10.1.0.4/24\niface eth0 inet static\n"
                                  "  address 10.0.0.4/24\n  gateway 10.0.0.1\n";

TEST(StaticAddressRule, WithoutAnAddressEachIsAWarning) {
  CloneTree tree;
  tree.file("/etc/network/interfaces", two_cards);
  tree.file("/etc/netplan/x.yaml", "network:\n  bridges:\n    br0:\n      addresses: [10.2.0.4/24, \"fe80::1/64\"]\n");
  const Plan plan = tree.apply(db2(), "static-address");
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(plan.warnings,
              ElementsAre(HasSubstr("/etc/network/interfaces: the address 10.1.0.4 of eth1 is the original's"),
                          HasSubstr("/etc/network/interfaces: the address 10.0.0.4 of eth0 is the original's"),
                          HasSubstr("/etc/netplan/x.yaml: the address 10.2.0.4 of br0 is the original's")));
  std::vector<std::string> found;
  for (const auto& finding : tree.report())
    if (finding.rule == "static-address")
      found.push_back(finding.value);
  EXPECT_THAT(found, ElementsAre("10.1.0.4", "10.0.0.4", "10.2.0.4"));
  EXPECT_EQ(main_identity({}, tree.filesystem()).at("address 2"), "10.0.0.4");
}

TEST(StaticAddressRule, TheFirstByNameGetsItAndTheOtherIsAWarning) {
  CloneTree tree;
  tree.file("/etc/network/interfaces", two_cards);
  tree.file("/etc/hosts", "127.0.0.1 localhost\n10.0.0.4 db1 # 10.0.0.4, not 10.0.0.40\n10.0.0.40 other\n");
  tree.file("/etc/ssh/sshd_config", "ListenAddress 10.0.0.4\n");
  tree.file("/etc/resolv.conf", "search x\nnameserver 10.0.0.2\n");
  const Plan plan = tree.apply(db2_at(wish({"10.0.0.9/24"}, {}, {"10.0.0.53"})), "static-address");
  EXPECT_EQ(tree.read("/etc/network/interfaces"),
            "iface eth1 inet static\n  address 10.1.0.4/24\niface eth0 inet static\n  address 10.0.0.9/24\n"
            "  dns-nameservers 10.0.0.53\n  gateway 10.0.0.1\n");
  EXPECT_EQ(tree.read("/etc/hosts"), "127.0.0.1 localhost\n10.0.0.9 db1 # 10.0.0.9, not 10.0.0.40\n10.0.0.40 other\n");
  EXPECT_EQ(tree.read("/etc/resolv.conf"), "search x\nnameserver 10.0.0.53\n");
  const std::string warnings = warnings_of(plan);
  EXPECT_THAT(warnings, HasSubstr("given to eth0, the first by name"));
  EXPECT_THAT(warnings, HasSubstr("10.1.0.4 of eth1 is the original's"));
  EXPECT_THAT(warnings, HasSubstr("/etc/ssh/sshd_config names 10.0.0.4"));
  EXPECT_THAT(warnings, Not(HasSubstr("10.0.0.4 of eth0")));
}

TEST(StaticAddressRule, TheCardIsKnownByItsMacAddress) {
  CloneTree tree;
  tree.file("/etc/systemd/network/a.network",
            "[Match]\nMACAddress=52:54:00:aa:bb:02\n[Network]\nAddress=10.0.0.4/24\n");
  tree.file("/etc/systemd/network/z.network", "[Match]\nMACAddress=52:54:00:AA:BB:01\n[Network]\nDHCP=ipv4\n");
  CloneIdentity identity = db2_at(wish({"192.0.2.7/24"}, {"192.0.2.1"}, {"192.0.2.53"}));
  identity.macs.emplace_back("52:54:00:aa:bb:02", "52:54:00:0c:0d:0f");
  const Plan plan = tree.apply(identity, "defaults");
  EXPECT_THAT(tree.read("/etc/systemd/network/z.network"), HasSubstr("Address=192.0.2.7/24\n"));
  EXPECT_THAT(tree.read("/etc/systemd/network/a.network"), HasSubstr("Address=10.0.0.4/24\n"));
  EXPECT_THAT(plan.notes, testing::Contains(HasSubstr("asked a server for its address")));
}

TEST(StaticAddressRule, DhcpWithoutGatewayAndServersIsSaid) {
  CloneTree tree;
  tree.file("/etc/netplan/a.yaml", "network:\n  ethernets:\n    ens3:\n      dhcp4: true\n")
      .file("/etc/cloud/cloud.cfg", "x: y\n");
  const Plan plan = tree.apply(db2_at(wish({"192.0.2.7/24"})), "static-address");
  EXPECT_THAT(warnings_of(plan), HasSubstr("no gateway was given"));
  EXPECT_THAT(warnings_of(plan), HasSubstr("no name servers were given"));
  EXPECT_EQ(tree.read("/etc/cloud/cloud.cfg.d/99-kvmport-network.cfg"), "network: {config: disabled}\n");
}

TEST(StaticAddressRule, SuseKeepsRoutesAndServersElsewhere) {
  CloneTree tree;
  tree.file("/etc/sysconfig/network/ifcfg-eth0", "IPADDR='10.0.0.4/24'\n")
      .file("/etc/sysconfig/network/routes", "default 10.0.0.1 - -\n10.9.0.0/16 10.0.0.8 - -\n")
      .file("/etc/sysconfig/network/config", "A=\"b\"\nNETCONFIG_DNS_STATIC_SERVERS=\"10.0.0.2\"\n");
  tree.apply(db2_at(wish({"192.0.2.7/24"}, {"192.0.2.1"}, {"192.0.2.53"})), "static-address");
  EXPECT_EQ(tree.read("/etc/sysconfig/network/routes"), "default 192.0.2.1 - -\n10.9.0.0/16 10.0.0.8 - -\n");
  EXPECT_EQ(tree.read("/etc/sysconfig/network/config"), "A=\"b\"\nNETCONFIG_DNS_STATIC_SERVERS=\"192.0.2.53\"\n");
}

TEST(StaticAddressRule, ABridgeOverTheCardGetsIt) {
  CloneTree tree;
  tree.file("/etc/network/interfaces",
            "iface eth0 inet manual\niface br0 inet static\n  address 10.0.0.4/24\n  bridge_ports eth0\n");
  tree.apply(db2_at(wish({"10.0.0.9/24"})), "static-address");
  EXPECT_THAT(tree.read("/etc/network/interfaces"), HasSubstr("address 10.0.0.9/24\n"));
}

TEST(StaticAddressRule, NetworkManagerWithoutAConnectionGetsOne) {
  CloneTree tree;
  tree.file("/usr/sbin/NetworkManager", "");
  tree.apply(db2_at(wish({"192.0.2.7/24"}, {"192.0.2.1"})), "static-address");
  const std::string path = "/etc/NetworkManager/system-connections/kvmport-address.nmconnection";
  EXPECT_THAT(tree.read(path), HasSubstr("mac-address=52:54:00:0c:0d:0e\n"));
  EXPECT_THAT(tree.read(path), HasSubstr("[ipv4]\nmethod=manual\naddress1=192.0.2.7/24,192.0.2.1\n"));
  EXPECT_EQ(tree.filesystem().lstat(path)->mode & 0777U, 0600U);
}

TEST(StaticAddressRule, Refusals) {
  const StaticAddress other_network = wish({"192.0.2.7/24"});
  const std::vector<std::tuple<const char*, const char*, const char*, std::string>> cases{
      {"nothing", "/etc/hosts", "", "ADDRESS_NOT_PLACED"},
      {"only lo", "/etc/network/interfaces", "iface lo inet loopback\n", "ADDRESS_NOT_PLACED"},
      {"an old gateway", "/etc/network/interfaces",
       "iface eth0 inet static\n  address 10.0.0.4/24\n  gateway 10.0.0.1\n", "ADDRESS_INVALID"},
      {"aliases", "/etc/netplan/a.yaml",
       "network:\n  ethernets:\n    ens3: &a\n      addresses: [10.0.0.4/24]\n    ens4: *a\n", "ADDRESS_NOT_PLACED"},
      {"broken", "/etc/netplan/a.yaml", "network: [\n", "ADDRESS_NOT_PLACED"},
      {"two bridges", "/etc/netplan/a.yaml", "network: {bridges: {br0: {dhcp4: true}, br1: {dhcp4: true}}}",
       "ADDRESS_NOT_PLACED"}};
  for (const auto& [name, file, text, code] : cases) {
    CloneTree tree;
    tree.file(file, text);
    EXPECT_EQ(code_of([&] { tree.apply(db2_at(other_network), "static-address"); }), code) << name;
    EXPECT_EQ(tree.read(file), text) << name;
  }
  CloneTree tree;
  tree.file("/etc/systemd/network/all.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n");
  CloneIdentity identity = db2_at(other_network);
  identity.macs.emplace_back("52:54:00:aa:bb:02", "52:54:00:0c:0d:0f");
  EXPECT_EQ(code_of([&] { tree.apply(identity, "static-address"); }), "ADDRESS_NOT_PLACED") << "of two cards";
}

TEST(StaticAddressRule, HostileFilesAreSurvived) {
  std::string deep = "network: ";
  for (int i = 0; i < 5000; i++)
    deep += "{a: ";
  for (const std::string& text : {deep, std::string("\xff\xfe\0\0x", 5), std::string("network: &a [*a]\n"),
                                  std::string("network:\n ethernets:\n  ? [x]\n  : {addresses: [[1]]}\n"),
                                  std::string("iface\niface a\niface a inet\n"), std::string(1U << 20, '[')})
    for (const char* file : {"/etc/netplan/a.yaml", "/etc/network/interfaces", "/etc/systemd/network/a.network",
                             "/etc/NetworkManager/system-connections/a", "/etc/sysconfig/network/ifcfg-a"}) {
      CloneTree tree;
      tree.file(file, text);
      EXPECT_EQ(code_of([&] { tree.apply(db2_at(wish({"192.0.2.7/24"})), "static-address"); }), "ADDRESS_NOT_PLACED")
          << file << " " << text.substr(0, 40);
    }
}

} // namespace
} // namespace kvmport::test
