// SPDX-License-Identifier: Apache-2.0
#include "tests/machine/support.h"

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using test::error_code;
using test::has_note;
using test::touch;

struct Vbox {
  std::string machine_attributes;
  std::string registry = R"(<HardDisk uuid="{11111111-1111-1111-1111-111111111111}" location="a.vdi" format="VDI">
      <HardDisk uuid="{22222222-2222-2222-2222-222222222222}" location="Snapshots\{2}.vdi" format="VDI"/></HardDisk>
      <HardDisk uuid="{33333333-3333-3333-3333-333333333333}" location="b.vmdk" format="VMDK"/>)";
  std::string memory = R"(<Memory RAMSize="2048"/>)";
  std::string hardware;
  std::string storage = R"(<StorageController name="SATA" type="AHCI">
      <AttachedDevice type="HardDisk" port="1" device="0"><Image uuid="{33333333-3333-3333-3333-333333333333}"/></AttachedDevice>
      <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{22222222-2222-2222-2222-222222222222}"/></AttachedDevice>
      <AttachedDevice type="DVD" port="2" device="0"/></StorageController>)";
  std::string text() const {
    return R"(<?xml version="1.0"?><VirtualBox xmlns="http://www.virtualbox.org/" version="1.16-linux"><Machine uuid="{564d7088-01a1-9832-e72b-6790c73b64ea}" name="deb" OSType="Debian_64" )" +
           machine_attributes + "><MediaRegistry><HardDisks>" + registry +
           "</HardDisks></MediaRegistry><Hardware><CPU count=\"2\"/>" + memory + hardware +
           "</Hardware><StorageControllers>" + storage + "</StorageControllers></Machine></VirtualBox>";
  }
};

class VboxReader : public ::testing::Test {
 protected:
  Machine read(const Vbox& vbox) {
    touch(dir.path() / "deb.vbox", vbox.text());
    return read_vbox(dir.path() / "deb.vbox");
  }
  std::string code(const Vbox& vbox) {
    return error_code([&] { read(vbox); });
  }
  void SetUp() override {
    touch(dir.path() / "a.vdi");
    touch(dir.path() / "b.vmdk");
    touch(dir.path() / "Snapshots" / "{2}.vdi");
  }
  TempDir dir;
};

TEST_F(VboxReader, ReadsTheMachine) {
  Vbox vbox;
  vbox.hardware =
      R"(<Firmware type="EFI"/><BIOS><NVRAM path="x.nvram"><SecureBoot enabled="true"/></NVRAM></BIOS><TrustedPlatformModule type="v2_0"/>
      <RTC localOrUTC="UTC"/><RemoteDisplay enabled="true"/><Display controller="VMSVGA"/><Boot><Order position="1" device="Network"/><Order position="2" device="HardDisk"/></Boot>
      <Network><Adapter slot="0" enabled="true" MACAddress="080027ABCDEF" cable="true" type="82540EM"><BridgedInterface name="eth0"/></Adapter>
      <Adapter slot="1" enabled="false" MACAddress="080027000001"/><Adapter slot="4" enabled="true" MACAddress="080027000002" cable="false"><DisabledModes><NAT/></DisabledModes></Adapter></Network>
      <SharedFolders><SharedFolder name="home"/></SharedFolders>)";
  const Machine m = read(vbox);
  EXPECT_EQ(m.name, "deb");
  EXPECT_EQ(m.uuid, "564d7088-01a1-9832-e72b-6790c73b64ea");
  EXPECT_EQ(m.memory, 2ULL << 30);
  EXPECT_EQ(m.cpu.count(), 2U);
  EXPECT_EQ(m.firmware, MachineFirmware::uefi);
  EXPECT_TRUE(m.secure_boot);
  EXPECT_TRUE(m.tpm);
  EXPECT_FALSE(m.rtc_localtime);
  EXPECT_EQ(m.os_hint, "Debian_64");
  ASSERT_EQ(m.disks.size(), 2U);
  EXPECT_EQ(m.disks[0].path, fs::canonical(dir.path() / "Snapshots" / "{2}.vdi"));
  EXPECT_EQ(m.disks[0].format, "vdi");
  EXPECT_EQ(m.disks[0].source_name, "sda");
  EXPECT_EQ(m.disks[0].boot_order, 2U);
  EXPECT_EQ(m.disks[1].path.filename(), "b.vmdk");
  EXPECT_EQ(m.disks[1].controller, ControllerType::sata);
  EXPECT_EQ(m.disks[1].unit, 1U);
  ASSERT_EQ(m.nics.size(), 2U);
  EXPECT_EQ(m.nics[0].mac, "08:00:27:ab:cd:ef");
  EXPECT_EQ(m.nics[0].network, "eth0");
  EXPECT_EQ(m.nics[0].pci_address, "0000:00:03.0");
  EXPECT_EQ(m.nics[0].boot_order, 1U);
  EXPECT_EQ(m.nics[1].pci_address, "0000:00:10.0");
  EXPECT_FALSE(m.nics[1].connected);
  EXPECT_TRUE(has_note(m, "CD/DVD"));
  EXPECT_TRUE(has_note(m, "home"));
}

TEST_F(VboxReader, Refusals) {
  const struct {
    const char* what;
    void (*change)(Vbox&);
    const char* code;
  } rows[] = {
      {"saved state file", [](Vbox& v) { v.machine_attributes = R"(stateFile="Snapshots/2020.sav")"; },
       "SOURCE_SUSPENDED"},
      {"saved", [](Vbox& v) { v.machine_attributes = R"(state="Saved")"; }, "SOURCE_SUSPENDED"},
      {"no memory", [](Vbox& v) { v.memory = ""; }, "MEMORY_MISSING"},
      {"unregistered disk", [](Vbox& v) { v.registry = ""; }, "DISK_MISSING"},
      {"disk elsewhere", [](Vbox& v) { v.registry.replace(v.registry.find("b.vmdk"), 6, "/etc/passwd"); },
       "PATH_NOT_ALLOWED"},
      {"no such disk", [](Vbox& v) { v.registry.replace(v.registry.find("b.vmdk"), 6, "gone.vmdk"); }, "DISK_MISSING"},
      {"parent is gone", [](Vbox& v) { v.registry.replace(v.registry.find("a.vdi"), 5, "z.vdi"); },
       "SNAPSHOT_CHAIN_INCOMPLETE"},
      {"impossible memory", [](Vbox& v) { v.memory = R"(<Memory RAMSize="99999999999"/>)"; }, "DESCRIPTION_INVALID"},
  };
  for (const auto& row : rows) {
    Vbox vbox;
    row.change(vbox);
    EXPECT_EQ(code(vbox), row.code) << row.what;
  }
  touch(dir.path() / "e.vbox", R"(<VirtualBox><MachineEncrypted uuid="{1}"/></VirtualBox>)");
  EXPECT_EQ(error_code([&] { read_vbox(dir.path() / "e.vbox"); }), "DESCRIPTION_UNSUPPORTED");
  touch(dir.path() / "g.vbox", R"(<VirtualBox><Global/></VirtualBox>)");
  EXPECT_EQ(error_code([&] { read_vbox(dir.path() / "g.vbox"); }), "DESCRIPTION_INVALID");
}

TEST(VboxSamples, SnapshotTreesResolveToTheCurrentLeaf) {
  if (test::sample_images().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: VirtualBox's own files are not read";
  const fs::path samples = test::sample_images() / "libvirt" / "vbox";
  const struct {
    const char *file, *first, *second;
    std::vector<const char*> parents;
  } rows[] = {
      {"2disks-nosnap.vbox", "libvirtTest-disk1.vdi", "libvirtTest-disk2.vdi", {}},
      {"2disks-1snap.vbox", "fakedisk-0.vdi", "fakedisk-1.vdi", {"libvirtTest-disk1.vdi", "libvirtTest-disk2.vdi"}},
      {"2disks-3snap.vbox",
       "fakedisk-0.vdi",
       "fakedisk-1.vdi",
       {"libvirtTest-disk1.vdi", "libvirtTest-disk2.vdi", "Snapshots/{de551924-a484-4f88-9897-c3c4986b8f75}.vdi",
        "Snapshots/{55c4d273-380b-43c6-b394-b2636051cfc7}.vdi", "Snapshots/{72638d05-918a-43e8-9994-dcc9a3e2f2fe}.vdi",
        "Snapshots/{f9f1a347-e9b0-4ba3-bf5d-cfbccccf8c27}.vdi"}}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.file);
    TempDir dir;
    fs::copy(samples / row.file, dir.path() / "vm.vbox");
    touch(dir.path() / row.first);
    touch(dir.path() / row.second);
    for (const char* parent : row.parents) {
      EXPECT_EQ(error_code([&] { read_vbox(dir.path() / "vm.vbox"); }), "SNAPSHOT_CHAIN_INCOMPLETE") << parent;
      touch(dir.path() / parent);
    }
    const Machine m = read_vbox(dir.path() / "vm.vbox");
    ASSERT_EQ(m.disks.size(), 2U);
    EXPECT_EQ(m.disks[0].path.filename(), row.first);
    EXPECT_EQ(m.disks[1].path.filename(), row.second);
    EXPECT_EQ(m.disks[0].controller, ControllerType::ide);
    EXPECT_EQ(m.memory, 192ULL << 20);
    EXPECT_TRUE(m.rtc_localtime);
    ASSERT_EQ(m.nics.size(), 1U);
    EXPECT_EQ(m.nics[0].mac, "08:00:27:2a:58:9d");
    EXPECT_EQ(m.nics[0].network, "hns0000000v");
  }
}

} // namespace
} // namespace kvmport
