// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/network_cards.h"
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using linux_guest::complete_network_cards;
using linux_guest::configured_macs;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

Machine machine_with(std::vector<std::string> macs, const std::string& type = "ovf") {
  Machine machine;
  machine.name = "web";
  machine.source_type = type;
  for (std::string& mac : macs)
    machine.nics.emplace_back().mac = mac;
  return machine;
}

TEST(NetworkCards, AddressesThatTheConfigurationIsWrittenForComeFirst) {
  GuestTree tree;
  tree.file("/etc/sysconfig/network-scripts/ifcfg-ens224", "DEVICE=ens224\nHWADDR=00:50:56:00:00:01\n")
      .file("/etc/sysconfig/network-scripts/ifcfg-ens192", "DEVICE=ens192\nHWADDR=00:50:56:00:00:02\n");
  EXPECT_THAT(configured_macs(tree.filesystem()), ElementsAre("00:50:56:00:00:02", "00:50:56:00:00:01"));
  Machine machine = machine_with({"", "", "00:50:56:00:00:02", ""});
  complete_network_cards(machine, tree.filesystem());
  EXPECT_EQ(machine.nics[0].mac, "00:50:56:00:00:01");
  EXPECT_THAT(machine.nics[1].mac, StartsWith("52:54:00:"));
  EXPECT_EQ(machine.nics[2].mac, "00:50:56:00:00:02");
  EXPECT_NE(machine.nics[1].mac, machine.nics[3].mac);
  EXPECT_EQ(machine.notes.size(), 3U);
}

TEST(NetworkCards, MadeAddressesAreTheSameInEveryRun) {
  GuestTree tree;
  Machine a = machine_with({""}), b = machine_with({""}), other = machine_with({""});
  other.name = "db";
  for (Machine* machine : {&a, &b, &other})
    complete_network_cards(*machine, tree.filesystem());
  EXPECT_EQ(a.nics[0].mac, b.nics[0].mac);
  EXPECT_NE(a.nics[0].mac, other.nics[0].mac);
}

TEST(NetworkCards, BareDisksGetOneCardOthersNone) {
  GuestTree tree;
  Machine disk = machine_with({}, "disk"), ovf = machine_with({}), complete = machine_with({"00:50:56:00:00:02"});
  for (Machine* machine : {&disk, &ovf, &complete})
    complete_network_cards(*machine, tree.filesystem());
  EXPECT_EQ(disk.nics.size(), 1U);
  EXPECT_THAT(ovf.nics, IsEmpty());
  EXPECT_EQ(complete.nics[0].mac, "00:50:56:00:00:02");
  EXPECT_THAT(complete.notes, IsEmpty());
}

} // namespace
} // namespace kvmport::test
