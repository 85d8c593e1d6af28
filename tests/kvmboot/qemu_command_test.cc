// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "kvmboot/qemu_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace kvmport {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

BootSpec spec_with(const std::vector<DiskBus>& buses) {
  BootSpec spec;
  for (const DiskBus bus : buses)
    spec.disks.push_back({nullptr, bus, 512, ""});
  return spec;
}

QemuSetup setup_for(const BootSpec& spec) {
  QemuSetup setup;
  for (std::size_t n = 0; n < spec.disks.size(); n++)
    setup.nbd_sockets.emplace_back("/tmp/a,b=c/disk" + std::to_string(n));
  setup.uefi_code = "/code.fd";
  setup.uefi_vars = "/vars.fd";
  return setup;
}

std::vector<std::string> command(const BootSpec& spec) {
  return qemu_command(spec, setup_for(spec));
}

/// The values of an option that are JSON.
std::vector<json> objects(const std::vector<std::string>& argv, const std::string& option) {
  std::vector<json> all;
  for (std::size_t i = 0; i + 1 < argv.size(); i++)
    if (argv[i] == option && argv[i + 1].front() == '{')
      all.push_back(json::parse(argv[i + 1]));
  return all;
}

std::string value_of(const std::vector<std::string>& argv, const std::string& option) {
  const auto at = std::find(argv.begin(), argv.end(), option);
  return at == argv.end() ? "" : at[1];
}

TEST(QemuCommand, HasNoWayOut) {
  BootSpec spec = spec_with({DiskBus::virtio_blk});
  spec.nics.push_back({"52:54:00:00:00:01", "virtio"});
  const auto argv = command(spec);
  EXPECT_THAT(argv, Contains("-nodefaults"));
  EXPECT_THAT(argv, Contains("-no-user-config"));
  EXPECT_EQ(value_of(argv, "-nic"), "none");
  EXPECT_THAT(argv, Not(Contains("-netdev")));
  EXPECT_THAT(value_of(argv, "-sandbox"), HasSubstr("spawn=deny"));
}

TEST(QemuCommand, DisksComeFromTheSocketsInBootOrder) {
  BootSpec spec = spec_with({DiskBus::virtio_blk, DiskBus::virtio_blk});
  spec.disks[1].logical_sector = 4096;
  spec.disks[1].serial = "S1,readonly=on";
  const auto argv = command(spec);
  const auto nodes = objects(argv, "-blockdev");
  ASSERT_EQ(nodes.size(), 2U);
  EXPECT_EQ(nodes[1].at("driver"), "nbd");
  EXPECT_EQ(nodes[1].at("server").at("path"), "/tmp/a,b=c/disk1");
  const auto devices = objects(argv, "-device");
  ASSERT_EQ(devices.size(), 2U);
  EXPECT_EQ(devices[0].at("bootindex"), 1);
  EXPECT_EQ(devices[1].at("bootindex"), 2);
  EXPECT_EQ(devices[0].at("disable-legacy"), "on") << "as on libvirt's q35";
  EXPECT_EQ(devices[1].at("logical_block_size"), 4096);
  EXPECT_EQ(devices[1].at("serial"), "S1,readonly=on");
}

TEST(QemuCommand, NetworkCardsHaveTheirAddressAndNoCable) {
  BootSpec spec;
  spec.nics = {{"52:54:00:00:00:01", "virtio"}, {"52:54:00:00:00:02", "e1000e"}};
  const auto devices = objects(command(spec), "-device");
  ASSERT_EQ(devices.size(), 2U);
  EXPECT_EQ(devices[0].at("driver"), "virtio-net-pci");
  EXPECT_EQ(devices[0].at("mac"), "52:54:00:00:00:01");
  EXPECT_EQ(devices[1].at("driver"), "e1000e");
  for (const auto& d : devices)
    EXPECT_FALSE(d.contains("netdev"));
}

TEST(QemuCommand, OnlyCardsWithAHubAreConnectedAndOnlyToIt) {
  BootSpec spec;
  spec.nics = {{"52:54:00:00:00:01", "virtio", {}}, {"52:54:00:00:00:02", "e1000", "/run/hub,id=x"}};
  const auto argv = command(spec);
  const auto devices = objects(argv, "-device"), netdevs = objects(argv, "-netdev");
  ASSERT_EQ(devices.size(), 2U);
  EXPECT_FALSE(devices[0].contains("netdev"));
  ASSERT_EQ(netdevs.size(), 1U);
  EXPECT_EQ(devices[1].at("netdev"), netdevs[0].at("id"));
  EXPECT_EQ(netdevs[0].at("type"), "dgram");
  EXPECT_EQ(netdevs[0].at("local"), (json{{"type", "fd"}, {"str", "7"}}));
  EXPECT_THAT(value_of(argv, "-sandbox"), HasSubstr("spawn=deny"));
  EXPECT_EQ(value_of(argv, "-nic"), "none");
}

TEST(QemuCommand, MachineFollowsBusAndFirmware) {
  EXPECT_THAT(value_of(command(spec_with({DiskBus::sata})), "-machine"), HasSubstr("q35,smm=off"));
  EXPECT_THAT(value_of(command(spec_with({DiskBus::ide})), "-machine"), HasSubstr("pc,"));
  BootSpec uefi = spec_with({DiskBus::virtio_blk});
  uefi.firmware = Firmware::uefi;
  auto argv = command(uefi);
  EXPECT_THAT(value_of(argv, "-machine"), HasSubstr("pflash0=uefi-code,pflash1=uefi-vars"));
  EXPECT_EQ(objects(argv, "-blockdev").at(0).at("read-only"), true);
  uefi.secure_boot = true;
  argv = command(uefi);
  EXPECT_THAT(value_of(argv, "-machine"), HasSubstr("smm=on"));
  EXPECT_THAT(value_of(argv, "-global"), HasSubstr("secure"));
}

TEST(QemuCommand, KernelIsGivenAsFilesAndText) {
  BootSpec spec;
  spec.linux = LinuxBoot{"/boot/vm,linuz", {}, "console=ttyS0 -S"};
  auto argv = command(spec);
  EXPECT_EQ(value_of(argv, "-kernel"), "/boot/vm,linuz");
  EXPECT_EQ(value_of(argv, "-append"), "console=ttyS0 -S");
  EXPECT_THAT(argv, Not(Contains("-initrd")));
  spec.linux->initrd = "/boot/initrd";
  argv = command(spec);
  EXPECT_EQ(value_of(argv, "-initrd"), "/boot/initrd");
}

TEST(QemuCommand, WhatDoesNotFitIsRefused) {
  const auto code = [](const BootSpec& spec) {
    try {
      command(spec);
    } catch (const Error& e) {
      return e.code();
    }
    return std::string();
  };
  EXPECT_EQ(code(spec_with(std::vector<DiskBus>(4, DiskBus::ide))), "");
  EXPECT_EQ(code(spec_with(std::vector<DiskBus>(5, DiskBus::ide))), "BOOT_UNSUPPORTED");
  EXPECT_EQ(code(spec_with(std::vector<DiskBus>(7, DiskBus::sata))), "BOOT_UNSUPPORTED");
  BootSpec spec;
  spec.nics.push_back({"52:54:00:00:00:01", "ne2k,netdev=x"});
  EXPECT_EQ(code(spec), "BOOT_UNSUPPORTED");
}

} // namespace
} // namespace kvmport
