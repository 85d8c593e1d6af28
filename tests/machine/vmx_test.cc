// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/text.h"
#include "libconvert/machine/xml_util.h"
#include "tests/machine/support.h"

#include <algorithm>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using test::error_code;
using test::has_note;
using test::touch;

constexpr const char* basics =
    "config.version = \"8\"\nvirtualHW.version = \"19\"\ndisplayName = \"vm\"\nmemsize = \"1024\"\n";

class VmxReader : public ::testing::Test {
 protected:
  Machine read(const std::string& text, const ReadOptions& options = {}) {
    touch(dir.path() / "vm.vmx", text);
    return read_vmx(dir.path() / "vm.vmx", options);
  }
  std::string code(const std::string& text, const ReadOptions& options = {}) {
    return error_code([&] { read(text, options); });
  }
  void SetUp() override {
    for (const char* name : {"a.vmdk", "b.vmdk", "c.vmdk", "d.vmdk", "e.vmdk"})
      touch(dir.path() / name);
  }
  TempDir dir;
};

TEST_F(VmxReader, ReadsTheMachine) {
  const Machine m = read(std::string("\xEF\xBB\xBF.encoding = \"UTF-8\"\r\n#!/usr/bin/vmware\r\n") + basics + R"(
annotation = "quote |22 bar |7C line|0Aend"
GUESTOS = "debian12-64"
numvcpus = "8"
cpuid.coresPerSocket = "4"
firmware = "EFI"
uefi.secureBoot.enabled = "TRUE"
vtpm.present = "TRUE"
rtc.diffFromUTC = "3600"
uuid.bios = "56 4d 70 88 01 a1 98 32-e7 2b 67 90 c7 3b 64 ea"
RemoteDisplay.vnc.enabled = "TRUE"
nvram = "vm.nvram"
bios.hddOrder = "nvme0:0,scsi0:1"
scsi0.present = "TRUE"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "b.vmdk"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "[datastore1] vm/a.vmdk"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:2.present = "FALSE"
scsi0:2.fileName = "none.vmdk"
sata0:1.present = "TRUE"
sata0:1.fileName = "C:\Users\x\c.vmdk"
ide0:0.fileName = "d.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "/iso/x.iso"
nvme0.present = "TRUE"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "e.vmdk"
floppy0.present = "TRUE"
sound.present = "TRUE"
ethernet1.present = "TRUE"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:11:22:33"
ethernet1.connectionType = "nat"
ethernet1.virtualDev = "e1000"
ethernet1.startConnected = "FALSE"
ethernet1.pciSlotNumber = "33"
ethernet0.present = "TRUE"
ethernet0.generatedAddress = "00:0C:29:3B:64:EA"
ethernet0.networkName = "VM Network"
ethernet0.virtualDev = "vmxnet3"
ethernet0.pciSlotNumber = "192"
ethernet2.present = "FALSE"
)");
  EXPECT_EQ(m.name, "vm");
  EXPECT_EQ(m.description, "quote \" bar | line\nend");
  EXPECT_EQ(m.memory, 1ULL << 30);
  EXPECT_EQ(m.cpu.sockets, 2U);
  EXPECT_EQ(m.cpu.cores, 4U);
  EXPECT_EQ(m.firmware, MachineFirmware::uefi);
  EXPECT_TRUE(m.secure_boot);
  EXPECT_TRUE(m.tpm);
  EXPECT_TRUE(m.rtc_localtime);
  EXPECT_EQ(m.os_hint, "debian12-64");
  EXPECT_EQ(m.uuid, "564d7088-01a1-9832-e72b-6790c73b64ea");
  EXPECT_EQ(m.graphics->type, "vnc");
  ASSERT_EQ(m.disks.size(), 5U);
  const struct {
    const char *file, *name;
    ControllerType type;
    std::optional<unsigned> boot;
  } disks[] = {{"a.vmdk", "sda", ControllerType::scsi, {}},
               {"b.vmdk", "sdb", ControllerType::scsi, 2U},
               {"c.vmdk", "sdc", ControllerType::sata, {}},
               {"d.vmdk", "sdd", ControllerType::ide, {}},
               {"e.vmdk", "nvme0n1", ControllerType::nvme, 1U}};
  for (std::size_t i = 0; i < 5; i++) {
    EXPECT_EQ(m.disks[i].path.filename(), disks[i].file);
    EXPECT_EQ(m.disks[i].source_name, disks[i].name);
    EXPECT_EQ(m.disks[i].controller, disks[i].type);
    EXPECT_EQ(m.disks[i].boot_order, disks[i].boot);
  }
  ASSERT_EQ(m.nics.size(), 2U);
  EXPECT_EQ(m.nics[0].mac, "00:0c:29:3b:64:ea");
  EXPECT_EQ(m.nics[0].network, "VM Network");
  EXPECT_EQ(m.nics[0].hotplug_slot, 192U);
  EXPECT_EQ(m.nics[1].mac, "00:50:56:11:22:33");
  EXPECT_EQ(m.nics[1].network, "nat");
  EXPECT_EQ(m.nics[1].pci_address, "0000:02:01.0");
  EXPECT_FALSE(m.nics[1].connected);
  for (const char* word : {"ide1:0", "floppy0", "sound", "vm.nvram"})
    EXPECT_TRUE(has_note(m, word)) << word;
}

TEST_F(VmxReader, Encodings) {
  const std::string tail = "memsize = \"64\"\n";
  EXPECT_EQ(read(".encoding = \"GBK\"\ndisplayName = \"\xC4\xE3\xBA\xC3\"\n" + tail).name, "你好");
  EXPECT_EQ(read(".encoding = \"windows-1252\"\ndisplayName = \"caf\xE9\"\n" + tail).name, "café");
  const Machine m = read("displayName = \"caf\xE9\"\n" + tail);
  EXPECT_EQ(m.name, "café");
  EXPECT_TRUE(has_note(m, "windows-1252"));
  EXPECT_EQ(read("displayName = \"caf\xC3\xA9\"\n" + tail).name, "café");
}

TEST_F(VmxReader, Refusals) {
  const std::string disk = "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = ";
  const std::pair<std::string, const char*> rows[] = {
      {"displayName = \"x\"\n", "MEMORY_MISSING"},
      {"memsize = \"0\"\n", "MEMORY_MISSING"},
      {"memsize = \"much\"\n", "DESCRIPTION_INVALID"},
      {"memsize = \"99999999999999\"\n", "DESCRIPTION_INVALID"},
      {std::string(basics) + "numvcpus = \"0\"\n", "DESCRIPTION_INVALID"},
      {std::string(basics) + "numvcpus = \"9999999999\"\n", "DESCRIPTION_INVALID"},
      {std::string(basics) + "no setting\n", "DESCRIPTION_INVALID"},
      {std::string(basics) + std::string("a = \"\0\"\n", 8), "DESCRIPTION_INVALID"},
      {std::string(basics) + "a = \"" + std::string(70000, 'x') + "\"\n", "DESCRIPTION_INVALID"},
      {std::string(basics) + disk + "\"gone.vmdk\"\n", "DISK_MISSING"},
      {std::string(basics) + disk + "\"[ds] vm/gone.vmdk\"\n", "DISK_MISSING"},
      {std::string(basics) + disk + "\"[ds] ..\"\n", "PATH_NOT_ALLOWED"},
      {std::string(basics) + disk + "\"/etc/passwd\"\n", "PATH_NOT_ALLOWED"},
      {std::string(basics) + disk + "\"../../etc/passwd\"\n", "PATH_NOT_ALLOWED"},
      {std::string(basics) + disk + "\"nbd://host/x\"\n", "PATH_NOT_ALLOWED"},
      {std::string(basics) + disk + "\".\"\n", "NOT_A_DISK"},
      {std::string(basics) + "checkpoint.vmState = \"vm.vmss\"\n", "SOURCE_SUSPENDED"},
      {std::string(basics) + "encryption.keySafe = \"x\"\n", "DESCRIPTION_UNSUPPORTED"},
  };
  for (const auto& [text, expected] : rows)
    EXPECT_EQ(code(text), expected) << text.substr(0, 200);
}

TEST_F(VmxReader, RunningAndSuspendedMachines) {
  const std::string text = std::string(basics) + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n";
  EXPECT_EQ(code(text), "");
  const std::pair<const char*, const char*> files[] = {{"vm.vmx.lck/M12345.lck", "SOURCE_RUNNING"},
                                                       {"a.vmdk.lck/M99.lck", "SOURCE_RUNNING"},
                                                       {"a.vmdk.lck", "SOURCE_RUNNING"},
                                                       {"vm.vmss", "SOURCE_SUSPENDED"},
                                                       {"vm.vmem", "SOURCE_SUSPENDED"},
                                                       {"vm-0123abcd.vmss", "SOURCE_SUSPENDED"},
                                                       {"b.vmdk.lck/M1.lck", ""},
                                                       {"vm-Snapshot1.vmem", ""},
                                                       {"other.vmem", ""}};
  for (const auto& [name, expected] : files) {
    touch(dir.path() / name);
    EXPECT_EQ(code(text), expected) << name;
    fs::remove_all(dir.path() / *fs::path(name).begin());
  }
  fs::create_directory(dir.path() / "vm.vmx.lck"); // left behind, empty
  EXPECT_EQ(code(text), "");
}

TEST_F(VmxReader, MovedMachineIsFoundBesideItsDescription) {
  const std::string text =
      std::string(basics) + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"/vmfs/volumes/ds/vm/a.vmdk\"\n";
  const Machine m = read(text);
  EXPECT_EQ(m.disks[0].path, fs::canonical(dir.path() / "a.vmdk"));
  EXPECT_TRUE(has_note(m, "is taken for"));
  TempDir secret;
  touch(secret.path() / "s.vmdk");
  fs::create_symlink(secret.path() / "s.vmdk", dir.path() / "l.vmdk");
  for (const char* name : {"l.vmdk", "[ds] l.vmdk", "/vmfs/l.vmdk"})
    EXPECT_EQ(code(std::string(basics) + "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"" + name + "\"\n"),
              "PATH_NOT_ALLOWED")
        << name;
}

// --- libvirt's own VMX tests, with the domain that libvirt makes of each ---------------------------------------

struct ExpectedDisk {
  std::string file, bus;
  unsigned controller, unit;
};

std::vector<ExpectedDisk> expected_disks(const XmlElement* devices) {
  std::vector<ExpectedDisk> disks;
  for (const XmlElement* disk : children(devices, "disk")) {
    if (attribute(disk, "device") != "disk")
      continue;
    const XmlElement* address = child(disk, "address");
    const std::string file = attribute(child(disk, "source"), "file");
    const bool ide = attribute(child(disk, "target"), "bus") == "ide";
    disks.push_back({fs::path(file.substr(file.find(']') == std::string::npos ? 0 : file.find(']') + 2)).filename(),
                     attribute(child(disk, "target"), "bus"),
                     static_cast<unsigned>(std::stoul(attribute(address, ide ? "bus" : "controller"))),
                     static_cast<unsigned>(std::stoul(attribute(address, "unit")))});
  }
  return disks;
}

std::string bus_name(ControllerType type) {
  return type == ControllerType::ide    ? "ide"
         : type == ControllerType::sata ? "sata"
         : type == ControllerType::scsi ? "scsi"
                                        : "other";
}

void compare_with_libvirt(const Machine& m, const XmlElement* domain, bool memory_added) {
  EXPECT_EQ(m.name, child_text(domain, "name"));
  EXPECT_EQ(m.uuid, parse_uuid(child_text(domain, "uuid")).value_or(""));
  EXPECT_EQ(m.genid, child_text(domain, "genid"));
  EXPECT_EQ(std::string(trimmed(m.description)), child_text(domain, "description"));
  if (!memory_added) {
    EXPECT_EQ(m.memory, std::stoull(child_text(domain, "memory")) * 1024);
  }
  EXPECT_EQ(m.cpu.count(), std::stoul(child_text(domain, "vcpu")));
  if (const XmlElement* topology = descend(domain, {"cpu", "topology"})) {
    EXPECT_EQ(m.cpu.sockets, std::stoul(attribute(topology, "sockets")));
    EXPECT_EQ(m.cpu.cores, std::stoul(attribute(topology, "cores")));
  }
  EXPECT_EQ(m.firmware == MachineFirmware::uefi, attribute(child(domain, "os"), "firmware") == "efi");
  const XmlElement* devices = child(domain, "devices");
  std::vector<ExpectedDisk> disks = expected_disks(devices);
  ASSERT_EQ(m.disks.size(), disks.size());
  for (const ExpectedDisk& expected : disks)
    EXPECT_TRUE(std::any_of(m.disks.begin(), m.disks.end(), [&](const MachineDisk& d) {
      return d.path.filename() == expected.file && bus_name(d.controller) == expected.bus &&
             d.controller_index == expected.controller && (d.unit == expected.unit || expected.unit > 6);
    })) << expected.file;
  const auto interfaces = children(devices, "interface");
  ASSERT_EQ(m.nics.size(), interfaces.size());
  for (std::size_t i = 0; i < m.nics.size(); i++) {
    EXPECT_EQ(m.nics[i].mac, attribute(child(interfaces[i], "mac"), "address"));
    if (const std::string bridge = attribute(child(interfaces[i], "source"), "bridge"); !bridge.empty()) {
      EXPECT_EQ(m.nics[i].network, bridge);
    }
    if (const std::string model = attribute(child(interfaces[i], "model"), "type"); !model.empty()) {
      EXPECT_EQ(m.nics[i].model, model);
    }
  }
  EXPECT_EQ(m.graphics->type == "vnc", child(devices, "graphics") != nullptr);
}

TEST(VmxAgainstLibvirt, ReadsEveryMachineAlike) {
  const fs::path samples = test::sample_images() / "libvirt" / "vmx2xmldata";
  if (test::sample_images().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: libvirt's VMX files are not compared";
  unsigned compared = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(samples)) {
    if (entry.path().extension() != ".vmx")
      continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto document = parse_xml(read_file(fs::path(entry.path()).replace_extension(".xml")), "expected");
    const XmlElement* domain = document->RootElement();
    TempDir dir;
    std::string text = read_file(entry.path());
    const bool no_memory = lower(text).find("memsize") == std::string::npos;
    if (no_memory)
      text += "\nmemsize = \"512\"\n";
    for (const ExpectedDisk& disk : expected_disks(child(domain, "devices")))
      touch(dir.path() / disk.file);
    touch(dir.path() / "vm.vmx", text);
    Machine machine;
    ASSERT_NO_THROW(machine = read_vmx(dir.path() / "vm.vmx"));
    compare_with_libvirt(machine, domain, no_memory);
    compared++;
  }
  EXPECT_GE(compared, 30U);
}

} // namespace
} // namespace kvmport
