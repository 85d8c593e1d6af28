// SPDX-License-Identifier: Apache-2.0
#include "tests/machine/support.h"

#include <fstream>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using test::error_code;
using test::has_note;
using test::make_tar;
using test::manifest_line;
using test::TarEntry;
using test::touch;

/// An OVF 1 envelope; the parts between are given by the test.
struct Ovf {
  std::string references = R"(<File ovf:href="d.vmdk" ovf:id="f1"/>)";
  std::string disks =
      R"(<Disk ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="d1" ovf:fileRef="f1"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>)";
  std::string memory = item(
      2, 4, "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>512</rasd:VirtualQuantity>");
  std::string cpu =
      item(1, 3, "<rasd:VirtualQuantity>4</rasd:VirtualQuantity><vmw:CoresPerSocket>2</vmw:CoresPerSocket>");
  std::string disk_items =
      item(3, 6, "<rasd:Address>0</rasd:Address><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>") +
      item(4, 17,
           "<rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/d1</"
           "rasd:HostResource><rasd:Parent>3</rasd:Parent>");
  std::string more, before_system, after_hardware;

  static std::string item(int id, int type, const std::string& inside, const std::string& attributes = "") {
    return "<Item " + attributes + "><rasd:ElementName>item " + std::to_string(id) +
           "</rasd:ElementName><rasd:InstanceID>" + std::to_string(id) + "</rasd:InstanceID><rasd:ResourceType>" +
           std::to_string(type) + "</rasd:ResourceType>" + inside + "</Item>";
  }
  std::string system(const std::string& id) const {
    return "<VirtualSystem ovf:id=\"" + id + "\"><Info/><Name>" + id +
           "</Name><OperatingSystemSection ovf:id=\"96\" "
           "vmw:osType=\"debian12_64Guest\"><Info/></OperatingSystemSection><VirtualHardwareSection>" +
           cpu + memory + disk_items + more + "</VirtualHardwareSection>" + after_hardware + "</VirtualSystem>";
  }
  std::string envelope(const std::string& content) const {
    return R"(<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="o" xmlns:rasd="r" xmlns:vmw="v">)"
           "<References>" +
           references + "</References><DiskSection>" + disks + "</DiskSection>" + before_system + content +
           "</Envelope>";
  }
  std::string text() const { return envelope(system("vm")); }
};

class OvfReader : public ::testing::Test {
 protected:
  Machine read(const std::string& text, const ReadOptions& options = {}) {
    touch(dir.path() / "vm.ovf", text);
    return read_ovf(dir.path() / "vm.ovf", options);
  }
  std::string code(const std::string& text, const ReadOptions& options = {}) {
    return error_code([&] { read(text, options); });
  }
  void SetUp() override { touch(dir.path() / "d.vmdk", "disk bytes"); }
  TempDir dir;
};

TEST_F(OvfReader, ReadsTheMachine) {
  Ovf ovf;
  ovf.more =
      Ovf::item(5, 10,
                "<rasd:Address>00:50:56:AA:BB:CC</rasd:Address><rasd:Connection>VM "
                "Network</rasd:Connection><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>"
                "<vmw:Config vmw:key=\"slotInfo.pciSlotNumber\" vmw:value=\"192\"/>") +
      Ovf::item(6, 10, "<rasd:AutomaticAllocation>false</rasd:AutomaticAllocation>") + Ovf::item(7, 14, "") +
      Ovf::item(8, 15, "") + Ovf::item(9, 1, "<rasd:ResourceSubType>vmware.vtpm</rasd:ResourceSubType>") +
      Ovf::item(10, 35, "") +
      R"(<vmw:Config vmw:key="firmware" vmw:value="efi"/><vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>)";
  const Machine m = read(ovf.text());
  EXPECT_EQ(m.name, "vm");
  EXPECT_EQ(m.memory, 512U << 20);
  EXPECT_EQ(m.cpu.sockets, 2U);
  EXPECT_EQ(m.cpu.cores, 2U);
  EXPECT_EQ(m.firmware, MachineFirmware::uefi);
  EXPECT_TRUE(m.secure_boot);
  EXPECT_TRUE(m.tpm);
  EXPECT_EQ(m.os_hint, "debian12_64Guest");
  EXPECT_EQ(m.source_type, "ovf");
  ASSERT_EQ(m.disks.size(), 1U);
  EXPECT_EQ(m.disks[0].path, fs::canonical(dir.path() / "d.vmdk"));
  EXPECT_EQ(m.disks[0].format, "vmdk");
  EXPECT_EQ(m.disks[0].capacity, 1U << 20);
  EXPECT_EQ(m.disks[0].controller, ControllerType::scsi);
  EXPECT_EQ(m.disks[0].source_name, "sda");
  ASSERT_EQ(m.nics.size(), 2U);
  EXPECT_EQ(m.nics[0].mac, "00:50:56:aa:bb:cc");
  EXPECT_EQ(m.nics[0].network, "VM Network");
  EXPECT_EQ(m.nics[0].model, "vmxnet3");
  EXPECT_EQ(m.nics[0].hotplug_slot, 192U);
  EXPECT_EQ(m.nics[0].pci_address, "0000:0b:00.0");
  EXPECT_TRUE(m.nics[0].connected);
  EXPECT_FALSE(m.nics[1].connected);
  for (const char* word : {"floppy", "CD/DVD", "item 10", "no manifest"})
    EXPECT_TRUE(has_note(m, word)) << word;
}

TEST_F(OvfReader, MemoryUnits) {
  const std::pair<std::string, std::uint64_t> rows[] = {
      {"<rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>777</rasd:VirtualQuantity>",
       777ULL << 20},
      {"<rasd:AllocationUnits>byte * 2^30</rasd:AllocationUnits><rasd:VirtualQuantity>2</rasd:VirtualQuantity>",
       2ULL << 30},
      {"<rasd:VirtualQuantity>1073741824</rasd:VirtualQuantity>", 1ULL << 30},
      {"<rasd:VirtualQuantity>512</rasd:VirtualQuantity>", 512ULL << 20}};
  for (const auto& [inside, bytes] : rows) {
    Ovf ovf;
    ovf.memory = Ovf::item(2, 4, inside);
    EXPECT_EQ(read(ovf.text()).memory, bytes) << inside;
  }
  Ovf ovf;
  ovf.memory = "";
  EXPECT_EQ(code(ovf.text()), "MEMORY_MISSING");
  ovf.memory = Ovf::item(
      2, 4, "<rasd:AllocationUnits>byte</rasd:AllocationUnits><rasd:VirtualQuantity>0</rasd:VirtualQuantity>");
  EXPECT_EQ(code(ovf.text()), "MEMORY_MISSING");
  for (const char* bad :
       {"<rasd:AllocationUnits>byte * 2^40</rasd:AllocationUnits><rasd:VirtualQuantity>99999999</rasd:VirtualQuantity>",
        "<rasd:AllocationUnits>furlong</rasd:AllocationUnits><rasd:VirtualQuantity>5</rasd:VirtualQuantity>",
        "<rasd:AllocationUnits>byte</rasd:AllocationUnits><rasd:VirtualQuantity>-5</rasd:VirtualQuantity>"}) {
    ovf.memory = Ovf::item(2, 4, bad);
    EXPECT_EQ(code(ovf.text()), "DESCRIPTION_INVALID") << bad;
  }
}

TEST_F(OvfReader, SeveralMachinesNeedAChoice) {
  Ovf ovf;
  const std::string text =
      ovf.envelope("<VirtualSystemCollection ovf:id=\"c\">" + ovf.system("web") + "<VirtualSystemCollection>" +
                   ovf.system("db") + "</VirtualSystemCollection></VirtualSystemCollection>");
  try {
    read(text);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "MACHINE_AMBIGUOUS");
    EXPECT_NE(error.why().find("web, db"), std::string::npos) << error.why();
  }
  ReadOptions options;
  options.select = "db";
  EXPECT_EQ(read(text, options).name, "db");
  options.select = "nosuch";
  EXPECT_EQ(code(text, options), "MACHINE_NOT_FOUND");
}

TEST_F(OvfReader, ConfigurationsAndBounds) {
  Ovf ovf;
  ovf.before_system =
      R"(<DeploymentOptionSection><Info/><Configuration ovf:id="small"/><Configuration ovf:id="big" ovf:default="true"/></DeploymentOptionSection>)";
  const auto memory = [](const std::string& mb) {
    return "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>" + mb +
           "</rasd:VirtualQuantity>";
  };
  ovf.memory = Ovf::item(2, 4, memory("256")) + Ovf::item(2, 4, memory("128"), R"(ovf:configuration="small")") +
               Ovf::item(2, 4, memory("4096"), R"(ovf:configuration="big huge")") +
               Ovf::item(2, 4, memory("64"), R"(ovf:bound="min")");
  const Machine m = read(ovf.text());
  EXPECT_EQ(m.memory, 4096ULL << 20);
  EXPECT_TRUE(has_note(m, "configuration big was taken"));
}

TEST_F(OvfReader, BlankChunkedAndDirectFileDisks) {
  Ovf ovf;
  ovf.references =
      R"(<File ovf:href="d.vmdk" ovf:id="f1" ovf:chunkSize="4" ovf:size="10"/><File ovf:href="r%20w.img" ovf:id="f2"/>)";
  ovf.disks +=
      R"(<Disk ovf:capacity="3" ovf:capacityAllocationUnits="GigaBytes" ovf:diskId="blank"/><Disk ovf:capacity="1" ovf:diskId="spare"/>)";
  const auto disk = [](int id, int unit, const std::string& resource) {
    return Ovf::item(id, 17,
                     "<rasd:AddressOnParent>" + std::to_string(unit) + "</rasd:AddressOnParent><rasd:HostResource>" +
                         resource + "</rasd:HostResource><rasd:Parent>3</rasd:Parent>");
  };
  ovf.disk_items = Ovf::item(3, 20, "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType>") + disk(6, 2, "ovf:/file/f2") +
                   disk(5, 1, "/disk/blank") + disk(4, 0, "ovf:/disk/d1");
  touch(dir.path() / "d.vmdk.000000000", "disk");
  touch(dir.path() / "d.vmdk.000000001", " byt");
  touch(dir.path() / "d.vmdk.000000002", "es");
  touch(dir.path() / "r w.img");
  const Machine m = read(ovf.text());
  ASSERT_EQ(m.disks.size(), 3U);
  EXPECT_EQ(m.disks[0].controller, ControllerType::sata);
  EXPECT_EQ(m.disks[0].path.filename(), "d.vmdk.000000000");
  ASSERT_EQ(m.disks[0].more_pieces.size(), 2U);
  EXPECT_EQ(m.disks[0].more_pieces[1].path.filename(), "d.vmdk.000000002");
  EXPECT_TRUE(m.disks[1].path.empty());
  EXPECT_EQ(m.disks[1].capacity, 3ULL << 30);
  EXPECT_EQ(m.disks[2].path.filename(), "r w.img");
  EXPECT_EQ(m.disks[2].format, "");
  EXPECT_TRUE(has_note(m, "spare"));
  fs::remove(dir.path() / "d.vmdk.000000001");
  EXPECT_EQ(code(ovf.text()), "DISK_MISSING");
}

TEST_F(OvfReader, Ovf2AndVirtualBoxDialect) {
  Ovf ovf;
  ovf.disk_items = "<Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>20</"
                   "rasd:ResourceType><rasd:ResourceSubType>AHCI</rasd:ResourceSubType></Item>"
                   "<StorageItem><sasd:AddressOnParent>0</sasd:AddressOnParent><sasd:HostResource>/disk/d1</"
                   "sasd:HostResource><sasd:InstanceID>4</sasd:InstanceID>"
                   "<sasd:Parent>3</sasd:Parent><sasd:ResourceType>17</sasd:ResourceType></StorageItem>"
                   "<EthernetPortItem><epasd:Connection>NAT</epasd:Connection><epasd:InstanceID>5</"
                   "epasd:InstanceID><epasd:ResourceSubType>E1000</epasd:ResourceSubType>"
                   "<epasd:ResourceType>10</epasd:ResourceType></EthernetPortItem>";
  ovf.after_hardware =
      R"(<vbox:Machine uuid="{564d7088-01a1-9832-e72b-6790c73b64ea}" OSType="Debian_64"><Hardware><Firmware type="EFI"/><RTC localOrUTC="UTC"/>
      <Network><Adapter slot="0" enabled="false" MACAddress="080027000000"/><Adapter slot="1" enabled="true" MACAddress="080027ABCDEF" type="82540EM"><NAT/></Adapter></Network>
      </Hardware></vbox:Machine>)";
  std::string text = ovf.text();
  text.replace(text.find("envelope/1"), 10, "envelope/2");
  const Machine m = read(text);
  EXPECT_EQ(m.uuid, "564d7088-01a1-9832-e72b-6790c73b64ea");
  EXPECT_EQ(m.firmware, MachineFirmware::uefi);
  EXPECT_EQ(m.os_hint, "Debian_64");
  ASSERT_EQ(m.disks.size(), 1U);
  EXPECT_EQ(m.disks[0].controller, ControllerType::sata);
  ASSERT_EQ(m.nics.size(), 1U);
  EXPECT_EQ(m.nics[0].mac, "08:00:27:ab:cd:ef");
  EXPECT_EQ(m.nics[0].network, "NAT");
  EXPECT_EQ(m.nics[0].pci_address, "0000:00:08.0");
}

TEST_F(OvfReader, Refusals) {
  struct Row {
    const char* what;
    void (*change)(Ovf&);
    const char* code;
  };
  const Row rows[] = {
      {"href is a URL", [](Ovf& o) { o.references = R"(<File ovf:href="http://10.0.0.1/d.vmdk" ovf:id="f1"/>)"; },
       "PATH_NOT_ALLOWED"},
      {"href is a file URL", [](Ovf& o) { o.references = R"(<File ovf:href="file:///etc/passwd" ovf:id="f1"/>)"; },
       "PATH_NOT_ALLOWED"},
      {"href goes up", [](Ovf& o) { o.references = R"(<File ovf:href="../../etc/passwd" ovf:id="f1"/>)"; },
       "PATH_NOT_ALLOWED"},
      {"href goes up, escaped",
       [](Ovf& o) { o.references = R"(<File ovf:href="..%2F..%2Fetc%2Fpasswd" ovf:id="f1"/>)"; }, "PATH_NOT_ALLOWED"},
      {"href is absolute", [](Ovf& o) { o.references = R"(<File ovf:href="/etc/passwd" ovf:id="f1"/>)"; },
       "PATH_NOT_ALLOWED"},
      {"file is not there", [](Ovf& o) { o.references = R"(<File ovf:href="gone.vmdk" ovf:id="f1"/>)"; },
       "DISK_MISSING"},
      {"unknown compression",
       [](Ovf& o) { o.references = R"(<File ovf:href="d.vmdk" ovf:id="f1" ovf:compression="rar"/>)"; },
       "DESCRIPTION_UNSUPPORTED"},
      {"fileRef to nothing", [](Ovf& o) { o.references = ""; }, "DESCRIPTION_INVALID"},
      {"disk to nothing", [](Ovf& o) { o.disks = ""; }, "DESCRIPTION_INVALID"},
      {"blank disk without capacity", [](Ovf& o) { o.disks = R"(<Disk ovf:diskId="d1"/>)"; }, "DESCRIPTION_INVALID"},
      {"difference disk", [](Ovf& o) { o.disks = R"(<Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:parentRef="d0"/>)"; },
       "DESCRIPTION_UNSUPPORTED"},
      {"no processors at all",
       [](Ovf& o) { o.cpu = Ovf::item(1, 3, "<rasd:VirtualQuantity>99999999999</rasd:VirtualQuantity>"); },
       "DESCRIPTION_INVALID"},
  };
  for (const Row& row : rows) {
    Ovf ovf;
    row.change(ovf);
    EXPECT_EQ(code(ovf.text()), row.code) << row.what;
  }
  EXPECT_EQ(code("<Envelope/>"), "DESCRIPTION_INVALID");
  EXPECT_EQ(code("<Other/>"), "DESCRIPTION_INVALID");
  fs::remove(dir.path() / "d.vmdk");
  fs::create_symlink("/etc/passwd", dir.path() / "d.vmdk");
  EXPECT_EQ(code(Ovf().text()), "PATH_NOT_ALLOWED");
}

TEST_F(OvfReader, OverridesAndAllowedDirectories) {
  TempDir elsewhere;
  touch(elsewhere.path() / "other.img");
  Ovf ovf;
  ovf.references = "<File ovf:href=\"" + (elsewhere.path() / "other.img").string() + "\" ovf:id=\"f1\"/>";
  EXPECT_EQ(code(ovf.text()), "PATH_NOT_ALLOWED");
  ReadOptions options;
  options.allowed_directories = {elsewhere.path()};
  EXPECT_EQ(read(ovf.text(), options).disks[0].path.filename(), "other.img");
  options = {};
  options.disk_paths["d.vmdk"] = elsewhere.path() / "other.img";
  EXPECT_EQ(read(Ovf().text(), options).disks[0].path.filename(), "other.img");
}

TEST_F(OvfReader, ManifestBeside) {
  const std::string text = Ovf().text();
  const std::string good = manifest_line("SHA1", "vm.ovf", text) + manifest_line("SHA256", "d.vmdk", "disk bytes");
  touch(dir.path() / "vm.mf", good);
  const Machine m = read(text);
  EXPECT_EQ(m.disks[0].digest, "sha256:" + test::sha256_of(dir.path() / "d.vmdk"));
  touch(dir.path() / "vm.mf", manifest_line("SHA1", "vm.ovf", text + " ") + manifest_line("SHA256", "d.vmdk", ""));
  EXPECT_EQ(code(text), "MANIFEST_MISMATCH");
  touch(dir.path() / "vm.mf", manifest_line("SHA1", "vm.ovf", text));
  EXPECT_EQ(code(text), "MANIFEST_MISMATCH");
  touch(dir.path() / "vm.mf", manifest_line("SHA256", "d.vmdk", ""));
  EXPECT_EQ(code(text), "MANIFEST_MISMATCH");
}

class OvaReader : public ::testing::Test {
 protected:
  Machine read(const std::string& bytes) {
    touch(dir.path() / "vm.ova", bytes);
    return read_ova(dir.path() / "vm.ova");
  }
  std::string code(const std::string& bytes) {
    return error_code([&] { read(bytes); });
  }
  TempDir dir;
  const std::string ovf = Ovf().text();
};

TEST_F(OvaReader, MapsMembersToBytesOfTheArchive) {
  const std::string disk = "disk bytes";
  const std::string manifest = manifest_line("SHA256", "vm.ovf", ovf) + manifest_line("SHA512", "d.vmdk", disk);
  const std::string bytes = make_tar({{"vm.ovf", ovf}, {"vm.mf", manifest}, {"d.vmdk", disk}});
  const Machine m = read(bytes);
  EXPECT_EQ(m.source_type, "ova");
  ASSERT_EQ(m.disks.size(), 1U);
  EXPECT_EQ(m.disks[0].window.length, disk.size());
  EXPECT_EQ(bytes.substr(m.disks[0].window.offset, m.disks[0].window.length), disk);
  EXPECT_EQ(m.disks[0].digest.substr(0, 7), "sha512:");
  EXPECT_TRUE(has_note(read(make_tar({{"./vm.ovf", ovf}, {"d.vmdk", disk}, {"vm.cert", "x"}}, false)), "no end mark"));
  EXPECT_TRUE(has_note(read(make_tar({{"d.vmdk", disk}, {"vm.ovf", ovf}})), "no manifest"));
}

TEST_F(OvaReader, LargeMembersAndLongNames) {
  // A sparse archive whose disk has 9 GiB, its size in base-256; the description behind it, its name in a pax record.
  std::string header = make_tar({{"d.vmdk", ""}}, false);
  const std::uint64_t size = 9ULL << 30;
  header.replace(124, 12, std::string("\x80\0\0\0", 4) + std::string(8, '\0'));
  for (int i = 0; i < 8; i++)
    header[static_cast<std::size_t>(135 - i)] = static_cast<char>(size >> (8 * i));
  header.replace(148, 8, "        ");
  unsigned sum = 0;
  for (char c : header)
    sum += static_cast<unsigned char>(c);
  char text[16];
  std::snprintf(text, sizeof text, "%06o", sum);
  header.replace(148, 8, std::string(text, 6) + std::string("\0 ", 2));
  const std::string name = std::string(120, 'n') + ".ovf";
  const std::string record = "134 path=" + name + "\n";
  ASSERT_EQ(record.size(), 134U);
  const std::string tail = make_tar({{"PaxHeader", record, 'x'}, {"short", ovf}});
  const fs::path path = dir.path() / "big.ova";
  {
    const UniqueFd fd = create_new(path);
    write_exact(fd.get(), 0, as_bytes(header), "t");
    write_exact(fd.get(), 512 + size, as_bytes(tail), "t");
  }
  const Machine m = read_ova(path);
  EXPECT_EQ(m.disks[0].window, (Range{512, size}));
}

TEST_F(OvaReader, Refusals) {
  const TarEntry description{"vm.ovf", ovf}, disk{"d.vmdk", "disk bytes"};
  const struct {
    const char* what;
    std::string bytes;
    const char* code;
  } rows[] = {
      {"path up", make_tar({description, {"../d.vmdk", "x"}}), "PATH_NOT_ALLOWED"},
      {"absolute", make_tar({description, {"/etc/x", "x"}}), "PATH_NOT_ALLOWED"},
      {"symbolic link", make_tar({description, {"d.vmdk", "", '2', "/etc/passwd"}}), "PATH_NOT_ALLOWED"},
      {"hard link", make_tar({description, {"d.vmdk", "", '1', "vm.ovf"}}), "PATH_NOT_ALLOWED"},
      {"device", make_tar({description, {"d.vmdk", "", '4'}}), "DESCRIPTION_INVALID"},
      {"FIFO", make_tar({description, {"d.vmdk", "", '6'}}), "DESCRIPTION_INVALID"},
      {"sparse", make_tar({description, {"d.vmdk", "x", 'S'}}), "DESCRIPTION_UNSUPPORTED"},
      {"twice", make_tar({description, disk, disk}), "DESCRIPTION_INVALID"},
      {"twice with dot", make_tar({description, disk, {"./d.vmdk", "x"}}), "DESCRIPTION_INVALID"},
      {"two descriptions", make_tar({description, {"b.ovf", ovf}, disk}), "DESCRIPTION_INVALID"},
      {"no description", make_tar({disk}), "DESCRIPTION_INVALID"},
      {"no disk", make_tar({description}), "DISK_MISSING"},
      {"empty disk", make_tar({description, {"d.vmdk", ""}}), "DISK_TRUNCATED"},
      {"cut in the disk",
       make_tar({description, {"d.vmdk", std::string(5000, 'x')}})
           .substr(0, 512 + (ovf.size() + 511) / 512 * 512 + 512 + 1000),
       "DISK_TRUNCATED"},
      {"cut in a header", make_tar({description, disk}).substr(0, 512 + (ovf.size() + 511) / 512 * 512 + 100),
       "DISK_TRUNCATED"},
      {"manifest without the disk", make_tar({description, {"vm.mf", manifest_line("SHA256", "vm.ovf", ovf)}, disk}),
       "MANIFEST_MISMATCH"},
      {"manifest without the description",
       make_tar({description, {"vm.mf", manifest_line("SHA256", "d.vmdk", disk.content)}, disk}), "MANIFEST_MISMATCH"},
      {"manifest with another description",
       make_tar(
           {description, {"vm.mf", manifest_line("SHA1", "vm.ovf", "") + manifest_line("SHA1", "d.vmdk", "")}, disk}),
       "MANIFEST_MISMATCH"},
      {"manifest names an absent file",
       make_tar({description,
                 {"vm.mf", manifest_line("SHA1", "vm.ovf", ovf) + manifest_line("SHA1", "d.vmdk", "disk bytes") +
                               manifest_line("SHA1", "gone", "")},
                 disk}),
       "MANIFEST_MISMATCH"},
      {"manifest is nonsense", make_tar({description, {"vm.mf", "hello"}, disk}), "DESCRIPTION_INVALID"},
  };
  for (const auto& row : rows)
    EXPECT_EQ(code(row.bytes), row.code) << row.what;
  std::string damaged = make_tar({description, disk});
  damaged[10] = 'X';
  EXPECT_EQ(code(damaged), "DESCRIPTION_INVALID");
}

} // namespace
} // namespace kvmport
