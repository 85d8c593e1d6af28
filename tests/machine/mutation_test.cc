// SPDX-License-Identifier: Apache-2.0
// Damaged descriptions: whatever the bytes are, a reader answers with a machine or with an Error of a known code, and
// never names a file outside of its directory.
#include "libconvert/machine/paths.h"
#include "tests/machine/support.h"

#include <algorithm>
#include <random>
#include <set>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using Reader = Machine (*)(const fs::path&, const ReadOptions&);

struct Format {
  const char* name;
  Reader read;
  std::string seed;
};

std::vector<Format> formats() {
  const std::string ovf =
      R"(<?xml version="1.0" encoding="UTF-8"?><Envelope xmlns:ovf="o" xmlns:rasd="r"><References><File ovf:href="d.img" ovf:id="f" ovf:chunkSize="4" ovf:compression="gzip" ovf:size="1"/></References>
<DiskSection><Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d" ovf:fileRef="f"/></DiskSection><DeploymentOptionSection><Configuration ovf:id="a"/></DeploymentOptionSection>
<VirtualSystem ovf:id="vm"><Name>n</Name><VirtualHardwareSection><Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>64</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item><Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/d</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID>
<rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item><Item><rasd:Address>00:50:56:aa:bb:cc</rasd:Address><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType></Item>
<vmw:Config vmw:key="firmware" vmw:value="efi"/></VirtualHardwareSection></VirtualSystem></Envelope>)";
  return {
      {"ovf", read_ovf, ovf},
      {"ova", read_ova,
       test::make_tar(
           {{"vm.ovf", ovf},
            {"vm.mf", test::manifest_line("SHA1", "vm.ovf", ovf) + test::manifest_line("SHA256", "d.img", "x")},
            {"d.img", "x"}})},
      {"vmx", read_vmx,
       ".encoding = \"GBK\"\ndisplayName = \"a|22\"\nmemsize = \"64\"\nnumvcpus = \"4\"\ncpuid.coresPerSocket = "
       "\"2\"\nscsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"[ds] x/d.img\"\n"
       "ide0:0.fileName = \"d.img\"\nethernet0.present = \"TRUE\"\nethernet0.generatedAddress = "
       "\"00:0c:29:00:00:01\"\nethernet0.pciSlotNumber = \"192\"\nvm.genid = \"-5\"\nvm.genidX = \"7\"\nbios.hddOrder "
       "= \"ide0:0,scsi0:0\"\n"},
      {"libvirt", read_libvirt_xml,
       "<domain type='kvm'><name>n</name><memory unit='MiB'>64</memory><vcpu>4</vcpu><os firmware='efi'><type "
       "arch='x86_64'>hvm</type><nvram>d.img</nvram><boot dev='hd'/></os><cpu><topology sockets='1' cores='2' "
       "threads='2'/></cpu><clock offset='utc'/><devices><disk type='file'><driver type='raw'/><source "
       "file='d.img'/><target dev='vdb' bus='virtio'/><blockio logical_block_size='4096'/><boot order='1'/><address "
       "type='drive' controller='0' unit='1'/></disk><interface type='network'><mac "
       "address='52:54:00:00:00:01'/><address type='pci' bus='0x01' slot='0x02'/></interface></devices></domain>"},
      {"vbox", read_vbox,
       "<VirtualBox><Machine uuid='{564d7088-01a1-9832-e72b-6790c73b64ea}' "
       "name='v'><MediaRegistry><HardDisks><HardDisk uuid='{11111111-1111-1111-1111-111111111111}' location='d.img' "
       "format='VDI'><HardDisk "
       "uuid='{22222222-2222-2222-2222-222222222222}' location='d.img' "
       "format='VDI'/></HardDisk></HardDisks></MediaRegistry><Hardware><CPU count='2'/><Memory "
       "RAMSize='64'/><Network><Adapter slot='0' enabled='true' "
       "MACAddress='080027ABCDEF'/></Network></Hardware><StorageControllers><StorageController "
       "type='PIIX4'><AttachedDevice type='HardDisk' port='0' device='1'><Image "
       "uuid='{22222222-2222-2222-2222-222222222222}'/></AttachedDevice></StorageController></StorageControllers></"
       "Machine></VirtualBox>"},
  };
}

std::string mutated(std::string text, std::mt19937& random) {
  static const std::string_view words[] = {"../", "/etc/passwd", "99999999999999999999",
                                           "-1",  "\"",          "<",
                                           ">",   "'",           "%2e%2e%2f",
                                           "]]>", "&#0;",        "&amp;",
                                           "://", "[x]",         "\xFF",
                                           "0",   "{",           "|0",
                                           "\n"};
  for (unsigned edits = 1 + random() % 3; edits > 0 && !text.empty(); edits--) {
    const std::size_t at = random() % text.size();
    switch (random() % 5) {
    case 0:
      text[at] = static_cast<char>(random());
      break;
    case 1:
      text.erase(at, 1 + random() % 20);
      break;
    case 2:
      text.insert(at, words[random() % std::size(words)]);
      break;
    case 3:
      text.insert(random() % text.size(), text.substr(at, 1 + random() % 200));
      break;
    default:
      text.replace(at, 1 + random() % 6, words[random() % std::size(words)]);
    }
  }
  return text;
}

TEST(Mutations, EveryDamagedDescriptionIsReadOrRefusedByCode) {
  static const std::set<std::string> known = {
      "DESCRIPTION_INVALID", "DESCRIPTION_UNSUPPORTED", "MEMORY_MISSING",    "PATH_NOT_ALLOWED",         "DISK_MISSING",
      "SOURCE_RUNNING",      "SOURCE_SUSPENDED",        "MANIFEST_MISMATCH", "DISK_TRUNCATED",           "NOT_A_DISK",
      "MACHINE_AMBIGUOUS",   "MACHINE_NOT_FOUND",       "IMAGE_CORRUPT",     "SNAPSHOT_CHAIN_INCOMPLETE"};
  TempDir dir;
  test::touch(dir.path() / "d.img");
  for (const Format& format : formats()) {
    SCOPED_TRACE(format.name);
    const fs::path path = dir.path() / (std::string("m.") + format.name);
    std::mt19937 random(20);
    unsigned read = 0, refused = 0;
    {
      test::touch(path, format.seed);
      EXPECT_NO_THROW(format.read(path, {}));
    }
    for (unsigned round = 0; round < 1500; round++) {
      {
        fs::remove(path);
        const UniqueFd fd = create_new(path);
        write_exact(fd.get(), 0, as_bytes(mutated(format.seed, random)), "mutation");
      }
      try {
        const Machine machine = format.read(path, {});
        for (const MachineDisk& disk : machine.disks)
          EXPECT_TRUE(disk.path.empty() || lies_in(disk.path, dir.path())) << disk.path;
        EXPECT_GT(machine.memory, 0U);
        EXPECT_GT(machine.cpu.count(), 0U);
        read++;
      } catch (const Error& error) {
        EXPECT_TRUE(known.contains(error.code())) << error.what();
        refused++;
      } // any other exception fails the test
    }
    EXPECT_GT(read, 50U);
    EXPECT_GT(refused, 50U);
  }
}

} // namespace
} // namespace kvmport
