// SPDX-License-Identifier: Apache-2.0
// What the boot medium is told: kernel arguments, and the commands that follow from them.
#include "libconvert/p2v/medium_settings.h"

#include "base/error.h"

#include <gmock/gmock.h>

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using Command = std::vector<std::string>;

constexpr const char* key = "SHA256:QK1mFLo2m/6pTkTaDVZEMDSgzbyYYjLdKX1D2zVvR+k";

std::string refusal(const std::string& line) {
  try {
    static_cast<void>(parse_kernel_arguments(line));
  } catch (const Error& e) {
    return e.code() + " " + e.summary();
  }
  return "taken";
}

TEST(MediumSettings, ReadsEveryPreset) {
  const MediumSettings s = parse_kernel_arguments(
      std::string("BOOT_IMAGE=/boot/vmlinuz console=tty0 p2v.server=ssh://p2v@[fd00::5]:2222/srv/p2v p2v.host_key=") +
      key +
      " p2v.disks=sda,nvme0n1 p2v.name=db1 "
      "p2v.net=10.0.0.7/24,gw=10.0.0.1,dns=10.0.0.2,dns=10.0.0.3,dev=52-54-00-AA-BB-CC,vlan=12 "
      "p2v.bandwidth=50M p2v.streams=4 p2v.convert=no p2v.rescue p2v.enrol=7000 p2v.post=reboot p2v.fail=shell "
      "quiet\n");
  ASSERT_TRUE(s.server);
  EXPECT_EQ(s.server->user, "p2v");
  EXPECT_EQ(s.server->host, "fd00::5");
  EXPECT_EQ(s.server->port, 2222);
  EXPECT_EQ(s.server->directory, "/srv/p2v");
  EXPECT_EQ(s.host_key, key);
  EXPECT_THAT(s.disks, ElementsAre("sda", "nvme0n1"));
  EXPECT_EQ(s.name, "db1");
  EXPECT_TRUE(s.network_preset);
  EXPECT_FALSE(s.network.dhcp);
  EXPECT_EQ(s.network.device, "52:54:00:aa:bb:cc");
  EXPECT_EQ(s.network.vlan, 12U);
  EXPECT_THAT(s.network.dns, ElementsAre("10.0.0.2", "10.0.0.3"));
  EXPECT_EQ(s.bandwidth, "50M");
  EXPECT_EQ(s.streams, 4U);
  EXPECT_FALSE(s.convert);
  EXPECT_TRUE(s.rescue);
  EXPECT_EQ(s.enrol_port, 7000);
  EXPECT_EQ(s.post, AfterCapture::reboot);
  EXPECT_EQ(s.fail, AfterCapture::shell);
  EXPECT_TRUE(s.unattended());
}

TEST(MediumSettings, WithoutPresetsAPersonIsNeeded) {
  const MediumSettings s = parse_kernel_arguments("console=tty0 quiet p2vx=1");
  EXPECT_FALSE(s.unattended());
  EXPECT_TRUE(s.network.dhcp);
  EXPECT_EQ(s.post, AfterCapture::poweroff);
  EXPECT_FALSE(parse_kernel_arguments("p2v.server=ssh://h/d").unattended()) << "nobody has looked at its host key";
  EXPECT_TRUE(parse_kernel_arguments("p2v.server=ssh://h/d p2v.enrol").unattended());
  EXPECT_FALSE(parse_kernel_arguments("p2v.server=ssh://h/d p2v.enrol=no").unattended());
}

TEST(MediumSettings, WhatIsWrittenIsReadBack) {
  for (const std::string& line :
       {std::string("p2v.server=ssh://p2v@kvm1.example.net/srv/p2v p2v.enrol=yes"),
        std::string("p2v.server=ssh://[fd00::5]:2222/~/in p2v.host_key=") + key + " p2v.net=dhcp,dev=eth1,vlan=7",
        std::string(
            "p2v.net=fd00::7/64,gw=fd00::1 p2v.disks=sda p2v.name=a p2v.bandwidth=1G p2v.streams=2 p2v.convert=no "
            "p2v.rescue=yes p2v.inventory=yes p2v.post=shell p2v.fail=poweroff")}) {
    std::string again;
    for (const auto& word : kernel_arguments(parse_kernel_arguments(line)))
      again += (again.empty() ? "" : " ") + word;
    EXPECT_EQ(again, line);
  }
}

TEST(MediumSettings, RefusesWhatCouldBeMisunderstood) {
  for (const char* line : {"p2v.sever=ssh://h/d",
                           "p2v.server=h:/d",
                           "p2v.server=ssh://h",
                           "p2v.server=ssh:///d",
                           "p2v.server=ssh://-oProxy/d",
                           "p2v.server=ssh://-u@h/d",
                           "p2v.server=ssh://u:password@h/d",
                           "p2v.server=ssh://h:0/d",
                           "p2v.server=ssh://h:65536/d",
                           "p2v.server=ssh://h/d;reboot",
                           "p2v.server=ssh://h/../etc",
                           "p2v.server=\"ssh://h/a b\"",
                           "p2v.server=ssh://[10.0.0.1/d",
                           "p2v.server=ssh://h/$(id)",
                           "p2v.host_key=MD5:00",
                           "p2v.host_key=SHA256:short",
                           "p2v.disks=",
                           "p2v.disks=sda,,sdb",
                           "p2v.disks=../etc/passwd",
                           "p2v.disks=-x",
                           "p2v.name=",
                           "p2v.name=a/b",
                           "p2v.name=.hidden",
                           "p2v.net=static",
                           "p2v.net=10.0.0.7",
                           "p2v.net=10.0.0.7/33",
                           "p2v.net=10.0.0.7/24,gw=fd00::1",
                           "p2v.net=dhcp,gw=10.0.0.1",
                           "p2v.net=dhcp,vlan=4095",
                           "p2v.net=dhcp,vlan=+1",
                           "p2v.net=dhcp,dev=../x",
                           "p2v.net=dhcp,mtu=9000",
                           "p2v.bandwidth=fast",
                           "p2v.bandwidth=50Mbit",
                           "p2v.streams=0",
                           "p2v.convert=maybe",
                           "p2v.post=dialog",
                           "p2v.post=halt",
                           "p2v.enrol=70000"})
    EXPECT_TRUE(refusal(line).starts_with("SETTING_INVALID ")) << line << ": " << refusal(line);
}

TEST(MediumSettings, DhcpOnAVlan) {
  EXPECT_THAT(network_commands(parse_medium_network("dhcp,vlan=12"), "eth1", "/script"),
              ElementsAre(Command{"ip", "link", "set", "dev", "eth1", "up"},
                          Command{"ip", "link", "add", "link", "eth1", "name", "vlan12", "type", "vlan", "id", "12"},
                          Command{"ip", "link", "set", "dev", "vlan12", "up"},
                          Command{"udhcpc", "-i", "vlan12", "-n", "-t", "6", "-T", "3", "-S", "-s", "/script"}));
}

TEST(MediumSettings, FixedAddresses) {
  const auto n = parse_medium_network("10.0.0.7/24,gw=10.0.0.1,dns=10.0.0.2");
  EXPECT_THAT(network_commands(n, "eth0", "/script"),
              ElementsAre(Command{"ip", "link", "set", "dev", "eth0", "up"},
                          Command{"ip", "addr", "replace", "10.0.0.7/24", "dev", "eth0"},
                          Command{"ip", "-4", "route", "replace", "default", "via", "10.0.0.1", "dev", "eth0"}));
  EXPECT_EQ(resolver_file(n), "nameserver 10.0.0.2\n");
  EXPECT_EQ(network_commands(parse_medium_network("fd00::7/64,gw=fd00::1"), "eth0", "/script").back()[1], "-6");
}

TEST(MediumSettings, CaptureGetsWhatWasSet) {
  MediumSettings s = parse_kernel_arguments(
      std::string("p2v.server=ssh://p2v@h:23/srv p2v.disks=sda,sdb p2v.convert=no p2v.host_key=") + key);
  s.identity = "/etc/kvmport/identity";
  EXPECT_THAT(capture_arguments(s, "kvm-p2v"),
              ElementsAre("kvm-p2v", "capture", "--json", "--to", "ssh://p2v@h:23/srv", "--host-key", key, "--identity",
                          "/etc/kvmport/identity", "--disks", "sda,sdb", "--no-convert"));
  EXPECT_THROW(capture_arguments(MediumSettings(), "kvm-p2v"), Error);
}

} // namespace
} // namespace kvmport::test
