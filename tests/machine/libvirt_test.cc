// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/xml_util.h"
#include "tests/machine/support.h"

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using test::error_code;
using test::has_note;
using test::touch;

struct Domain {
  std::string attributes = "type='kvm'", name = "web", memory = "<memory unit='MiB'>1024</memory>",
              vcpu = "<vcpu>4</vcpu>";
  std::string os =
      "<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='network'/><boot dev='hd'/></os>";
  std::string more, devices;
  std::string text() const {
    return "<domain " + attributes + "><name>" + name + "</name>" + memory + vcpu + os + more + "<devices>" + devices +
           "</devices></domain>";
  }
};

class LibvirtReader : public ::testing::Test {
 protected:
  Machine read(const Domain& domain) {
    touch(dir.path() / "d.xml", domain.text());
    return read_libvirt_xml(dir.path() / "d.xml", options);
  }
  std::string code(const Domain& domain) {
    return error_code([&] { read(domain); });
  }
  void SetUp() override {
    touch(dir.path() / "a.qcow2");
    touch(dir.path() / "b.img");
    options.saved_state_directories = {dir.path() / "save"};
  }
  TempDir dir;
  ReadOptions options;
};

TEST_F(LibvirtReader, ReadsTheMachine) {
  Domain d;
  touch(dir.path() / "web_VARS.fd");
  d.os = "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type><firmware><feature enabled='yes' "
         "name='enrolled-keys'/><feature enabled='yes' name='secure-boot'/></firmware>"
         "<loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.ms.fd</loader><nvram "
         "template='/x'>web_VARS.fd</nvram></os>";
  d.more = "<uuid>564d7088-01a1-9832-e72b-6790c73b64ea</uuid><genid>56ed3ab2-37dd-4a58-8f68-42b3a4a8d58d</"
           "genid><description>d</description>"
           "<cpu><model>Haswell</model><topology sockets='1' dies='1' cores='2' threads='2'/></cpu><clock "
           "offset='localtime'/><sysinfo type='smbios'/>"
           "<metadata><l:libosinfo xmlns:l='x'><l:os id='http://debian.org/debian/12'/></l:libosinfo></metadata>";
  d.devices = R"(<emulator>/usr/bin/qemu</emulator>
    <disk type='file' device='cdrom'><source file='/x.iso'/><target dev='hdc' bus='ide'/></disk>
    <disk type='file'><driver name='qemu' type='raw'/><source file='b.img'/><target dev='sdb' bus='scsi'/><blockio logical_block_size='4096' physical_block_size='4096'/>
      <serial>SER-1</serial><boot order='2'/><address type='drive' controller='1' bus='0' target='0' unit='3'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='a.qcow2'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
    <controller type='scsi' index='0' model='lsilogic'/><controller type='scsi' index='1' model='virtio-scsi'/>
    <interface type='bridge'><mac address='52:54:00:AA:BB:CC'/><source bridge='br0'/><model type='virtio'/><link state='down'/><boot order='3'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>
    <tpm model='tpm-crb'><backend type='passthrough'/></tpm><graphics type='spice'/><video><model type='qxl'/></video><sound model='ich6'/>
    <hostdev mode='subsystem' type='pci'/><memballoon model='virtio'/>)";
  const Machine m = read(d);
  EXPECT_EQ(m.name, "web");
  EXPECT_EQ(m.uuid, "564d7088-01a1-9832-e72b-6790c73b64ea");
  EXPECT_EQ(m.genid, "56ed3ab2-37dd-4a58-8f68-42b3a4a8d58d");
  EXPECT_EQ(m.memory, 1ULL << 30);
  EXPECT_EQ(m.cpu.sockets, 1U);
  EXPECT_EQ(m.cpu.cores, 2U);
  EXPECT_EQ(m.cpu.threads, 2U);
  EXPECT_EQ(m.cpu.model, "Haswell");
  EXPECT_EQ(m.firmware, MachineFirmware::uefi);
  EXPECT_TRUE(m.secure_boot);
  EXPECT_EQ(m.nvram.filename(), "web_VARS.fd");
  EXPECT_TRUE(m.rtc_localtime);
  EXPECT_TRUE(m.tpm);
  EXPECT_EQ(m.graphics->type, "spice");
  EXPECT_EQ(m.graphics->video, "qxl");
  EXPECT_EQ(m.os_hint, "http://debian.org/debian/12");
  ASSERT_EQ(m.disks.size(), 2U);
  EXPECT_EQ(m.disks[0].controller, ControllerType::virtio_scsi);
  EXPECT_EQ(m.disks[0].controller_index, 1U);
  EXPECT_EQ(m.disks[0].unit, 3U);
  EXPECT_EQ(m.disks[0].format, "raw");
  EXPECT_EQ(m.disks[0].logical_sector, 4096U);
  EXPECT_EQ(m.disks[0].serial, "SER-1");
  EXPECT_EQ(m.disks[0].boot_order, 2U);
  EXPECT_EQ(m.disks[0].source_name, "sda");
  EXPECT_EQ(m.disks[1].format, "qcow2");
  EXPECT_EQ(m.disks[1].source_name, "vda");
  EXPECT_EQ(m.disks[1].boot_order, 1U);
  ASSERT_EQ(m.nics.size(), 1U);
  EXPECT_EQ(m.nics[0].mac, "52:54:00:aa:bb:cc");
  EXPECT_EQ(m.nics[0].network, "br0");
  EXPECT_EQ(m.nics[0].pci_address, "0000:01:00.0");
  EXPECT_FALSE(m.nics[0].hotplug_slot.has_value());
  EXPECT_FALSE(m.nics[0].connected);
  EXPECT_EQ(m.nics[0].boot_order, 3U);
  for (const char* word : {"CD/DVD", "sound", "hostdev", "sysinfo", "TPM of its host"})
    EXPECT_TRUE(has_note(m, word)) << word;
}

TEST_F(LibvirtReader, DefaultsAsInLibvirt) {
  Domain d;
  d.memory = "<memory>524288</memory>";
  d.devices = "<disk type='file'><source file='b.img'/><target dev='hdb'/></disk><disk type='file'><source "
              "file='a.qcow2'/><target dev='hda'/></disk>"
              "<interface type='network'><source network='default'/><address type='pci' slot='0x03'/></interface>";
  const Machine m = read(d);
  EXPECT_EQ(m.memory, 512U << 20);
  EXPECT_EQ(m.firmware, MachineFirmware::bios);
  EXPECT_FALSE(m.rtc_localtime);
  ASSERT_EQ(m.disks.size(), 2U);
  EXPECT_EQ(m.disks[0].path.filename(), "a.qcow2"); // hda before hdb
  EXPECT_EQ(m.disks[0].format, "raw");              // never probed: the guest could forge a header
  EXPECT_EQ(m.disks[0].controller, ControllerType::ide);
  EXPECT_EQ(m.disks[0].boot_order, 2U);
  EXPECT_EQ(m.nics[0].boot_order, 1U);
  EXPECT_EQ(m.nics[0].hotplug_slot, 3U); // ens3 on i440fx
  d.devices = "<disk type='file'><source file='b.img'/><target dev='xvda' bus='xen'/></disk>";
  EXPECT_EQ(read(d).disks[0].source_name, "xvda");
}

TEST_F(LibvirtReader, Refusals) {
  const struct {
    const char* what;
    void (*change)(Domain&);
    const char* code;
  } rows[] = {
      {"no memory", [](Domain& d) { d.memory = ""; }, "MEMORY_MISSING"},
      {"memory unit", [](Domain& d) { d.memory = "<memory unit='acre'>5</memory>"; }, "DESCRIPTION_INVALID"},
      {"memory past everything", [](Domain& d) { d.memory = "<memory unit='TiB'>99999999999</memory>"; },
       "DESCRIPTION_INVALID"},
      {"processors", [](Domain& d) { d.vcpu = "<vcpu>-1</vcpu>"; }, "DESCRIPTION_INVALID"},
      {"container", [](Domain& d) { d.os = "<os><type>exe</type></os>"; }, "DESCRIPTION_UNSUPPORTED"},
      {"ARM", [](Domain& d) { d.os = "<os><type arch='aarch64'>hvm</type></os>"; }, "DESCRIPTION_UNSUPPORTED"},
      {"network disk",
       [](Domain& d) {
         d.devices = "<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>";
       },
       "DESCRIPTION_UNSUPPORTED"},
      {"volume",
       [](Domain& d) { d.devices = "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>"; },
       "DESCRIPTION_UNSUPPORTED"},
      {"elsewhere",
       [](Domain& d) { d.devices = "<disk type='file'><source file='/etc/shadow'/><target dev='vda'/></disk>"; },
       "PATH_NOT_ALLOWED"},
      {"block device elsewhere",
       [](Domain& d) { d.devices = "<disk type='block'><source dev='/dev/null'/><target dev='vda'/></disk>"; },
       "PATH_NOT_ALLOWED"},
      {"gone", [](Domain& d) { d.devices = "<disk type='file'><source file='gone'/><target dev='vda'/></disk>"; },
       "DISK_MISSING"},
      {"empty", [](Domain& d) { d.devices = "<disk type='file'><target dev='vda'/></disk>"; }, "DISK_MISSING"},
  };
  for (const auto& row : rows) {
    Domain domain;
    row.change(domain);
    EXPECT_EQ(code(domain), row.code) << row.what;
  }
  touch(dir.path() / "s.xml", "<domstatus state='running'><domain/></domstatus>");
  EXPECT_EQ(error_code([&] { read_libvirt_xml(dir.path() / "s.xml", options); }), "SOURCE_RUNNING");
  touch(dir.path() / "save" / "web.save");
  EXPECT_EQ(code(Domain()), "SOURCE_SUSPENDED");
  Domain other;
  other.name = "../web";
  EXPECT_EQ(code(other), "");
}

TEST_F(LibvirtReader, DisksElsewhereByAllowanceOrByTarget) {
  TempDir store;
  touch(store.path() / "v.img");
  Domain d;
  d.devices = "<disk type='file'><source file='" + (store.path() / "v.img").string() +
              "'/><target dev='vda' bus='virtio'/></disk>";
  EXPECT_EQ(code(d), "PATH_NOT_ALLOWED");
  options.allowed_directories = {store.path()};
  EXPECT_EQ(read(d).disks[0].path, fs::canonical(store.path() / "v.img"));
  options.allowed_directories.clear();
  d.devices = "<disk type='network'><source protocol='rbd' name='p/i'/><target dev='vda' bus='virtio'/></disk>";
  options.disk_paths["vda"] = store.path() / "v.img";
  EXPECT_EQ(read(d).disks[0].path.filename(), "v.img");
}

TEST(LibvirtSamples, EveryDomainIsReadOrRefusedByName) {
  if (test::sample_images().empty())
    GTEST_SKIP() << "NO SAMPLE IMAGES on this machine: libvirt's domains are not read";
  unsigned read = 0, refused = 0;
  for (const char* folder : {"qemuxml", "vmx2xmldata"})
    for (const fs::directory_entry& entry : fs::directory_iterator(test::sample_images() / "libvirt" / folder)) {
      if (entry.path().extension() != ".xml")
        continue;
      SCOPED_TRACE(entry.path().filename().string());
      TempDir dir;
      fs::copy(entry.path(), dir.path() / "d.xml");
      // Every disk's file is put beside the description, as when a machine is copied from its host.
      const auto document = parse_xml(read_file(entry.path()), "sample");
      for (const XmlElement* disk : children(child(document->RootElement(), "devices"), "disk"))
        for (const char* name : {"file", "dev"})
          if (const std::string file = attribute(child(disk, "source"), name); !file.empty())
            touch(dir.path() /
                  file.substr(file.find_last_of("/ ") == std::string::npos ? 0 : file.find_last_of('/') + 1));
      try {
        const Machine m = read_libvirt_xml(dir.path() / "d.xml");
        EXPECT_EQ(m.name, child_text(document->RootElement(), "name"));
        EXPECT_GT(m.memory, 0U);
        read++;
      } catch (const Error& error) {
        EXPECT_TRUE(error.code() == "DESCRIPTION_UNSUPPORTED" || error.code() == "MEMORY_MISSING" ||
                    error.code() == "DISK_MISSING")
            << error.what();
        refused++;
      }
    }
  EXPECT_GE(read, 70U);
  EXPECT_GE(refused, 5U);
}

} // namespace
} // namespace kvmport
