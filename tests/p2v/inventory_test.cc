// SPDX-License-Identifier: Apache-2.0
// Inventories of recorded machines (tests/p2v/trees) and of small trees written here. What a real kernel shows of
// hardware that QEMU was told is checked in tests/guests/inventory_guest_test.cc.
#include "libconvert/p2v/inventory.h"

#include "base/file.h"
#include "libconvert/p2v/sys_tree.h"
#include "libconvert/target/target.h"
#include "tests/support/lvm_disks.h"
#include "tests/support/recorded_tree.h"
#include "tests/support/tempdir.h"

#include <algorithm>
#include <gmock/gmock.h>

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

namespace kvmport::test {
namespace {

Inventory inventory_of(const std::string& name) {
  const TempDir dir;
  unpack_tree(name, dir.path());
  return read_inventory(dir.path());
}

/// Of a machine that has nothing but these entries.
Inventory inventory_of_entries(const std::string& entries) {
  const TempDir dir;
  unpack_entries("/sys/block/\n/proc/version = Linux\n" + entries, dir.path());
  return read_inventory(dir.path());
}

const DiskInventory& disk_of(const Inventory& inventory, const std::string& name) {
  for (const DiskInventory& disk : inventory.disks)
    if (disk.name == name)
      return disk;
  throw std::runtime_error("no disk " + name);
}

/// Each fact is a JSON pointer into the inventory's JSON and what stands there.
struct Fact {
  const char *machine, *pointer, *value;
};

constexpr Fact facts[] = {
    // A desktop: BIOS, two sockets with threads, five disks, a bond with a VLAN, half of a mirror.
    {"desktop", "/host_name", R"("desktop")"},
    {"desktop", "/firmware/type", R"("bios")"},
    {"desktop", "/firmware/secure_boot", "null"},
    {"desktop", "/smbios/uuid", R"("11223344-5566-7788-99aa-bbccddeeff00")"},
    {"desktop", "/smbios/system", R"({"manufacturer": "Contoso", "product": "Box 9000", "version": "v2",
                                      "serial": "SYS-1234", "sku": "SKU7", "family": "Boxes"})"},
    {"desktop", "/smbios/board", R"({"manufacturer": "Contoso Boards", "product": "BRD", "version": "1.1",
                                     "serial": "BRD-77", "asset": "BASSET"})"},
    {"desktop", "/smbios/chassis", R"({"manufacturer": "Contoso Metal", "version": "C3", "serial": "CH-5",
                                       "asset": "ASSET-42", "sku": "CSKU"})"},
    {"desktop", "/memory/size", "1048576000"},
    {"desktop", "/memory/source", R"("smbios")"},
    {"desktop", "/cpu/sockets", "2"},
    {"desktop", "/cpu/cores", "2"},
    {"desktop", "/cpu/threads", "4"},
    {"desktop", "/cpu/hyper_threading", "true"},
    {"desktop", "/cpu/vendor", R"("GenuineIntel")"},
    {"desktop", "/disks/0/name", R"("nvme0n1")"},
    {"desktop", "/disks/0/serial", R"("NVME-SER-42")"},
    {"desktop", "/disks/0/transport", R"("nvme")"},
    {"desktop", "/disks/0/rotational", "false"},
    {"desktop", "/disks/1/name", R"("sda")"},
    {"desktop", "/disks/1/serial", R"("SCSI-77")"},
    {"desktop", "/disks/1/vendor", R"("ACME")"},
    {"desktop", "/disks/1/wwid", R"("naa.5000c50015ea71aa")"},
    {"desktop", "/disks/1/transport", R"("scsi")"},
    {"desktop", "/disks/1/rotational", "true"},
    {"desktop", "/disks/2/name", R"("sdb")"},
    {"desktop", "/disks/2/serial", R"("SATA-9")"},
    {"desktop", "/disks/2/model", R"("Fast SSD")"},
    {"desktop", "/disks/2/transport", R"("sata")"},
    {"desktop", "/disks/2/driver", R"("ahci")"},
    {"desktop", "/disks/2/holders", R"(["md0"])"},
    {"desktop", "/disks/3/name", R"("sdc")"},
    {"desktop", "/disks/3/transport", R"("usb")"},
    {"desktop", "/disks/3/serial", R"("STICK-1")"},
    {"desktop", "/disks/3/selected", "false"},
    {"desktop", "/disks/3/reason", R"("removable")"},
    {"desktop", "/disks/4/name", R"("vda")"},
    {"desktop", "/disks/4/logical_sector", "4096"},
    {"desktop", "/disks/4/physical_sector", "4096"},
    {"desktop", "/disks/4/size", "67108864"},
    {"desktop", "/disks/4/serial", R"("VBLK-4KN-1")"},
    {"desktop", "/groups", R"([{"kind": "array", "name": "md0", "level": "raid1", "disks": ["sdb"], "wanted": 2,
                                "missing": 1, "complete": false, "problem": "md0 (raid1) runs with 1 of 2 members"}])"},
    {"desktop", "/problems", R"(["md0 (raid1) runs with 1 of 2 members"])"},
    {"desktop", "/nics/0/name", R"("eth1")"},
    {"desktop", "/nics/0/permanent_mac", R"("00:1b:21:0a:0b:0c")"},
    {"desktop", "/nics/0/pci", R"("0000:00:05.0")"},
    {"desktop", "/nics/0/vendor_id", R"("8086")"},
    {"desktop", "/nics/1/name", R"("eth0")"},
    {"desktop", "/nics/1/master", R"("bond0")"},
    {"desktop", "/nics/1/driver", R"("virtio_net")"},
    {"desktop", "/network/0", R"({"kind": "bond", "name": "bond0", "mode": "active-backup", "vlan": 0,
                                  "mac": "02:00:00:00:00:99", "ports": ["eth0"]})"},
    {"desktop", "/network/1", R"({"kind": "vlan", "name": "bond0.20", "mode": "", "vlan": 20,
                                  "mac": "02:00:00:00:00:99", "ports": ["bond0"]})"},
    {"desktop", "/clock/basis", R"("unknown")"},
    {"desktop", "/clock/offset_minutes", "0"},
    {"desktop", "/tpm", "0"},
    // A server: UEFI with Secure Boot, NVMe, a hardware clock in local time.
    {"server", "/firmware/type", R"("uefi64")"},
    {"server", "/firmware/secure_boot", "true"},
    {"server", "/firmware/setup_mode", "false"},
    {"server", "/firmware/boot_order", R"(["0001", "0003", "0000"])"},
    {"server", "/firmware/boot_current", R"("0001")"},
    {"server", "/firmware/boot_options/0",
     R"({"number": "0001", "active": true, "description": "debian", "kind": "disk",
         "partition": "0f0e0d0c-0b0a-0908-0706-050403020100", "file": "\\EFI\\debian\\shimx64.efi"})"},
    {"server", "/firmware/boot_options/1/kind", R"("network")"},
    {"server", "/firmware/boot_options/1/active", "false"},
    {"server", "/firmware/boot_options/2", R"({"number": "0000", "active": true, "description": "UiApp",
                                               "kind": "firmware", "partition": "", "file": ""})"},
    {"server", "/memory/size", "3221225472"},
    {"server", "/cpu/sockets", "1"},
    {"server", "/cpu/cores", "4"},
    {"server", "/cpu/hyper_threading", "false"},
    {"server", "/disks/0/partitions/0",
     R"({"name": "nvme0n1p1", "number": 1, "start": 1048576, "size": 16777216,
         "uuid": "0f0e0d0c-0b0a-0908-0706-050403020100", "holders": []})"},
    {"server", "/disks/1/logical_sector", "512"},
    {"server", "/disks/1/physical_sector", "4096"},
    {"server", "/clock/basis", R"("localtime")"},
    {"server", "/clock/offset_minutes", "60"},
    {"server", "/tpm", "2"},
};

TEST(RecordedMachine, IsReadAsItWas) {
  std::map<std::string, json> machines;
  for (const Fact& fact : facts) {
    if (!machines.contains(fact.machine))
      machines[fact.machine] = to_json(inventory_of(fact.machine));
    const json& machine = machines[fact.machine];
    const json::json_pointer pointer(fact.pointer);
    ASSERT_TRUE(machine.contains(pointer)) << fact.machine << fact.pointer;
    EXPECT_EQ(machine[pointer], json::parse(fact.value)) << fact.machine << fact.pointer;
  }
}

TEST(RecordedMachine, BecomesADomainThatLibvirtTakes) {
  const Machine machine = machine_of(inventory_of("desktop"));
  EXPECT_EQ(machine.source_type, "physical");
  EXPECT_EQ(machine.name, "desktop");
  EXPECT_EQ(machine.memory, 1000ULL << 20);
  EXPECT_EQ(machine.cpu.sockets, 2U);
  EXPECT_EQ(machine.cpu.cores, 1U);
  EXPECT_EQ(machine.cpu.threads, 2U);
  EXPECT_EQ(machine.firmware, MachineFirmware::bios);
  EXPECT_EQ(machine.smbios.chassis_asset, "ASSET-42");
  std::vector<std::string> names;
  for (const MachineDisk& disk : machine.disks)
    names.push_back(disk.source_name);
  EXPECT_THAT(names, ElementsAre("nvme0n1", "sda", "sdb", "vda"));
  EXPECT_EQ(machine.disks[3].path, "/dev/vda");
  EXPECT_EQ(machine.disks[3].logical_sector, 4096U);
  EXPECT_EQ(machine.disks[2].controller, ControllerType::sata);
  ASSERT_EQ(machine.nics.size(), 2U);
  EXPECT_EQ(machine.nics[0].mac, "00:1b:21:0a:0b:0c");
  EXPECT_EQ(machine.nics[1].network, "bond0");
  EXPECT_THAT(machine.notes, testing::Contains(HasSubstr("sdc is left out")));

  TargetMachine target;
  target.source = machine;
  for (const MachineDisk& disk : machine.disks)
    target.disks.push_back(
        {"/srv/" + disk.source_name, "qcow2", disk.logical_sector, disk.physical_sector, disk.serial, disk.boot_order});
  const std::string xml = libvirt_xml(target);
  const TempDir dir;
  write_file_durably(dir.path() / "d.xml", xml);
  must_run({"virt-xml-validate", (dir.path() / "d.xml").string(), "domain"});
  for (const char* part :
       {"<uuid>11223344-5566-7788-99aa-bbccddeeff00</uuid>", "<memory unit=\"KiB\">1024000</memory>",
        "<topology sockets=\"2\" cores=\"1\" threads=\"2\"/>", "logical_block_size=\"4096\"",
        "<serial>NVME-SER-42</serial>", "<entry name=\"asset\">ASSET-42</entry>", "<smbios mode=\"sysinfo\"/>"})
    EXPECT_THAT(xml, HasSubstr(part));
}

TEST(RecordedMachine, BootsAsItsFirmwareDid) {
  const Machine machine = machine_of(inventory_of("server"));
  EXPECT_EQ(machine.firmware, MachineFirmware::uefi);
  EXPECT_TRUE(machine.secure_boot);
  EXPECT_TRUE(machine.tpm);
  EXPECT_TRUE(machine.rtc_localtime);
  ASSERT_EQ(machine.disks.size(), 2U);
  EXPECT_EQ(machine.disks[0].boot_order, 1U);
  EXPECT_FALSE(machine.disks[1].boot_order.has_value());
}

TEST(Inventory, NeedsATreeOfAMachine) {
  const TempDir dir;
  EXPECT_THROW(read_inventory(dir.path()), Error);
  EXPECT_THROW(read_inventory(dir.path() / "none"), Error);
}

TEST(Inventory, FollowsNoLinkOutOfItsRoot) {
  const TempDir dir;
  write_file_durably(dir.path() / "secret", "131072\n");
  fs::create_directory(dir.path() / "root");
  unpack_entries("/proc/version = Linux\n/sys/block/sda/size -> ../../../../secret\n/sys/block/sdb -> " +
                     dir.path().string() + "\n/sys/block/sdc/size = 8\n",
                 dir.path() / "root");
  const Inventory inventory = read_inventory(dir.path() / "root");
  EXPECT_EQ(disk_of(inventory, "sda").size, 0U);
  EXPECT_EQ(disk_of(inventory, "sdb").size, 0U);
  EXPECT_EQ(disk_of(inventory, "sdc").size, 4096U);
}

TEST(Disks, AreOnlyWhatTheMachineHas) {
  std::string entries;
  for (const char* name : {"loop0", "ram1", "zram0", "dm-0", "md127", "sr0", "fd0", "nbd0", "mmcblk0", "mmcblk0boot0",
                           "mmcblk0rpmb", "hda", "xvda", "cciss!c0d0", "sdaa", "sdb", "nvme0c0n1"})
    entries += "/sys/block/" + std::string(name) + "/size = 2048\n";
  entries += "/sys/block/nvme0c0n1/hidden = 1\n";
  const Inventory inventory = inventory_of_entries(entries);
  std::vector<std::string> names;
  for (const DiskInventory& disk : inventory.disks)
    names.push_back(disk.name + " " + disk.transport);
  EXPECT_THAT(names, ElementsAre("cciss!c0d0 raid", "hda ata", "mmcblk0 mmc", "sdb scsi", "sdaa scsi", "xvda xen"));
  EXPECT_EQ(inventory.disks[0].device(), "/dev/cciss/c0d0");
  EXPECT_EQ(machine_of(inventory).disks[0].source_name, "cciss/c0d0");
}

TEST(Disks, NonsenseInAttributesIsNotBelieved) {
  const Inventory inventory = inventory_of_entries("/sys/block/sda/size = 99999999999999999999\n"
                                                   "/sys/block/sda/queue/logical_block_size = 3000\n"
                                                   "/sys/block/sdb/size = 18446744073709551615\n"
                                                   "/sys/block/sdb/queue/logical_block_size = 4096\n"
                                                   "/sys/block/sdb/queue/physical_block_size = 512\n"
                                                   "/sys/block/sdb/device/vpd_pg80 : 0080ffff4142\n"
                                                   "/sys/block/sdc/size = 8\n"
                                                   "/sys/block/sdc/device/vpd_pg80 : 00\n"
                                                   "/sys/block/sdc/device/model : ff1b5b33316d41\n");
  EXPECT_EQ(disk_of(inventory, "sda").size, 0U);
  EXPECT_EQ(disk_of(inventory, "sda").logical_sector, 512U);
  EXPECT_EQ(disk_of(inventory, "sda").reason, "no medium");
  EXPECT_EQ(disk_of(inventory, "sdb").size, 0U);
  EXPECT_EQ(disk_of(inventory, "sdb").physical_sector, 4096U);
  EXPECT_EQ(disk_of(inventory, "sdb").serial, "AB");
  EXPECT_EQ(disk_of(inventory, "sdc").serial, "");
  EXPECT_EQ(disk_of(inventory, "sdc").model.find('\x1b'), std::string::npos);
  to_json(inventory).dump(); // throws when a string is no UTF-8
}

TEST(Disks, LongSerialNumbersKeepTheirEnd) {
  const Inventory inventory = inventory_of_entries("/sys/block/sda/size = 8\n"
                                                   "/sys/block/sda/serial = 600508b1001c0123456789abcdef0001\n"
                                                   "/sys/block/sdb/size = 8\n"
                                                   "/sys/block/sdb/serial = 600508b1001c0123456789abcdef0002\n");
  const Machine machine = machine_of(inventory);
  EXPECT_EQ(machine.disks[0].serial, "0123456789abcdef0001");
  EXPECT_EQ(machine.disks[1].serial, "0123456789abcdef0002");
  EXPECT_THAT(machine.notes, testing::Contains(HasSubstr("600508b1001c0123456789abcdef0002")));
}

constexpr const char* two_paths = "/sys/block/sda/size = 8\n/sys/block/sda/wwid = naa.6001\n"
                                  "/sys/block/sdb/size = 8\n/sys/block/sdb/wwid = naa.6001\n"
                                  "/sys/block/sdc/size = 8\n/sys/block/sdc/wwid = naa.6002\n";

TEST(Groups, TwoPathsAreOneDisk) {
  Inventory inventory = inventory_of_entries(two_paths);
  ASSERT_EQ(inventory.groups.size(), 1U);
  EXPECT_EQ(inventory.groups[0].kind, DiskGroup::Kind::multipath);
  EXPECT_EQ(disk_of(inventory, "sdb").reason, "another path to sda (naa.6001)");
  EXPECT_EQ(machine_of(inventory).disks.size(), 2U);
  inventory.disks[1].selected = true;
  EXPECT_THAT(selection_problems(inventory), ElementsAre("naa.6001 is taken 2 times"));

  const Inventory mapped = inventory_of_entries(std::string(two_paths) + "/sys/block/dm-0/dm/name = mpatha\n"
                                                                         "/sys/block/dm-0/dm/uuid = mpath-36001\n"
                                                                         "/sys/block/dm-0/slaves/sda/\n"
                                                                         "/sys/block/dm-0/slaves/sdb/\n");
  ASSERT_EQ(mapped.groups.size(), 1U);
  EXPECT_EQ(mapped.groups[0].name, "mpatha");
  EXPECT_FALSE(disk_of(mapped, "sdb").selected);
}

TEST(Groups, AVolumeGroupNeedsAllOfItsDisks) {
  const std::string group = "abcdefghijklmnopqrstuvwxyz012345";
  Inventory inventory = inventory_of_entries(
      "/sys/block/sda/size = 80\n/sys/block/sda/sda1/partition = 1\n/sys/block/sda/sda1/size = 40\n"
      "/sys/block/sda/sda1/start = 8\n/sys/block/sdb/size = 80\n/sys/block/sdc/size = 80\n"
      "/sys/block/md0/md/level = raid0\n/sys/block/md0/md/raid_disks = 1\n/sys/block/md0/slaves/sdb/\n"
      "/sys/block/dm-0/dm/name = my--vg-root\n/sys/block/dm-0/dm/uuid = LVM-" +
      group +
      "rootrootrootrootrootrootrootroot\n/sys/block/dm-0/slaves/sda1/\n/sys/block/dm-1/dm/name = my--vg-data\n" +
      "/sys/block/dm-1/dm/uuid = LVM-" + group +
      "datadatadatadatadatadatadatadata\n/sys/block/dm-1/slaves/md0/\n"
      "/sys/block/dm-2/dm/uuid = CRYPT-LUKS2-1\n/sys/block/dm-2/slaves/sdc/\n");
  ASSERT_EQ(inventory.groups.size(), 2U);
  const auto lvm = std::find_if(inventory.groups.begin(), inventory.groups.end(),
                                [](const DiskGroup& g) { return g.kind == DiskGroup::Kind::lvm; });
  ASSERT_NE(lvm, inventory.groups.end());
  EXPECT_EQ(lvm->name, "my-vg");
  EXPECT_THAT(lvm->disks, ElementsAre("sda", "sdb"));
  EXPECT_EQ(disk_of(inventory, "sda").partitions.at(0).start, 4096U);
  EXPECT_TRUE(selection_problems(inventory).empty());
  inventory.disks[1].selected = false;
  EXPECT_THAT(selection_problems(inventory), ElementsAre("my-vg needs sdb too"));
}

TEST(Groups, LoopsOfDevicesEnd) {
  const Inventory inventory = inventory_of_entries("/sys/block/sda/size = 8\n/sys/block/md0/md/level = raid1\n"
                                                   "/sys/block/md0/slaves/md1/\n/sys/block/md1/md/level = raid1\n"
                                                   "/sys/block/md1/slaves/md0/\n/sys/block/md1/slaves/sda/\n");
  ASSERT_EQ(inventory.groups.size(), 2U);
  EXPECT_THAT(inventory.groups[0].disks, ElementsAre("sda"));
}

TEST(Groups, AreFoundOnDisksWhereNothingRunsThem) {
  const LvmDisks disks(0);
  const auto first = disks.open(0), second = disks.open(1);
  const auto group_of = [](const std::vector<DiskPlace>& places) {
    Inventory inventory;
    add_groups_on_disks(places, inventory);
    EXPECT_EQ(inventory.groups.size(), 1U);
    return inventory.groups.empty() ? DiskGroup{} : inventory.groups[0];
  };
  const DiskPlace sda{{"sda"}, first.get(), {0, first->size()}, false};
  const DiskPlace sdb{{"sdb"}, second.get(), {0, second->size()}, false};
  const DiskGroup whole = group_of({sda, sdb});
  EXPECT_EQ(whole.name, "vg-a");
  EXPECT_THAT(whole.disks, ElementsAre("sda", "sdb"));
  EXPECT_TRUE(whole.complete) << whole.problem;
  const DiskGroup half = group_of({sdb});
  EXPECT_EQ(half.missing, 1U);
  EXPECT_EQ(half.problem, "the volume group vg-a lacks 1 of 2 physical volumes");

  // The kernel's devices told of the group already: it is completed, not told twice.
  Inventory known;
  known.groups.push_back({DiskGroup::Kind::lvm, "vg-a", "", {"sda"}, 0, 0, true, ""});
  add_groups_on_disks({sda}, known);
  ASSERT_EQ(known.groups.size(), 1U);
  EXPECT_EQ(known.groups[0].missing, 1U);
  EXPECT_FALSE(known.groups[0].complete);
}

std::string cpu_entries(const std::vector<std::array<int, 2>>& socket_and_core, const std::string& present) {
  std::string entries = "/sys/devices/system/cpu/present = " + present + "\n/sys/devices/system/cpu/online = 0-" +
                        std::to_string(socket_and_core.size() - 1) + "\n";
  for (std::size_t i = 0; i < socket_and_core.size(); i++) {
    const std::string at = "/sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/";
    entries += at + "physical_package_id = " + std::to_string(socket_and_core[i][0]) + "\n" + at +
               "core_id = " + std::to_string(socket_and_core[i][1]) + "\n";
  }
  return entries;
}

TEST(Processors, UnevenOnesBecomePlainCores) {
  // Two cores with two threads, four with one: a hybrid processor.
  const Inventory hybrid =
      inventory_of_entries(cpu_entries({{0, 0}, {0, 0}, {0, 4}, {0, 4}, {0, 8}, {0, 9}, {0, 10}, {0, 11}}, "0-7"));
  EXPECT_FALSE(hybrid.cpu.uniform);
  EXPECT_EQ(hybrid.cpu.cores, 6U);
  const MachineCpu cpu = machine_of(hybrid).cpu;
  EXPECT_EQ(cpu.count(), 8U);
  EXPECT_EQ(cpu.cores, 8U);
  EXPECT_EQ(cpu.threads, 1U);
}

TEST(Processors, OfflineOnesAreCountedOut) {
  const Inventory inventory = inventory_of_entries(cpu_entries({{0, 0}, {1, 0}}, "0-3"));
  EXPECT_THAT(inventory.cpu.offline, ElementsAre(2U, 3U));
  EXPECT_EQ(inventory.cpu.present, 4U);
  EXPECT_EQ(machine_of(inventory).cpu.sockets, 2U);
  EXPECT_THAT(inventory.notes, testing::Contains(HasSubstr("2 of 4 processors are offline")));
  const Inventory off =
      inventory_of_entries(cpu_entries({{0, 0}, {1, 0}}, "0-3") + "/sys/devices/system/cpu/smt/control = off\n");
  EXPECT_THAT(off.notes, testing::Not(testing::Contains(HasSubstr("offline")))) << "as the owner wants it";
}

struct ClockCase {
  const char *name, *entries;
  ClockInventory::Basis basis;
};

TEST(Clock, BasisIsToldByDifferenceOrByTheSystem) {
  using Basis = ClockInventory::Basis;
  const std::string now = "/proc/stat = cpu 0\\nbtime 1000000000\n/proc/uptime = 500.25 1\n/sys/class/rtc/rtc0/";
  const ClockCase cases[] = {
      {"same time", "since_epoch = 1000000500\n", Basis::unknown},
      {"two hours ahead", "since_epoch = 1000007701\n", Basis::localtime},
      {"India", "since_epoch = 1000020297\n", Basis::localtime},
      {"behind", "since_epoch = 999982500\n", Basis::localtime},
      {"seven minutes: it just goes wrong", "since_epoch = 1000000920\n", Basis::unknown},
      {"years away", "since_epoch = 1000\n", Basis::unknown},
      {"UTC by the system", "since_epoch = 1000000500\n/etc/adjtime = 0.0 0 0.0\\n0\\nUTC\n", Basis::utc},
      {"local by the system", "since_epoch = 1000000500\n/etc/adjtime = 0.0 0 0.0\\n0\\nLOCAL\n", Basis::localtime},
      {"by date and time", "date = 2001-09-09\n/sys/class/rtc/rtc0/time = 03:55:00\n", Basis::localtime},
      {"nonsense", "since_epoch = 18446744073709551615\n", Basis::unknown},
  };
  for (const ClockCase& c : cases)
    EXPECT_EQ(inventory_of_entries(now + c.entries).clock.basis, c.basis) << c.name;
  EXPECT_EQ(inventory_of_entries("").clock.basis, Basis::unknown);
}

TEST(Memory, MapOfTheFirmwareIsTakenWithoutSmbios) {
  const Inventory map =
      inventory_of_entries("/sys/firmware/memmap/0/start = 0x0\n/sys/firmware/memmap/0/end = 0x9fbff\n"
                           "/sys/firmware/memmap/0/type = System RAM\n/sys/firmware/memmap/1/start = 0x100000\n"
                           "/sys/firmware/memmap/1/end = 0x3fffffff\n/sys/firmware/memmap/1/type = System RAM\n"
                           "/sys/firmware/memmap/2/start = 0xf0000000\n/sys/firmware/memmap/2/end = 0xffffffff\n"
                           "/sys/firmware/memmap/2/type = Reserved\n/proc/meminfo = MemTotal:  1000000 kB\n");
  EXPECT_EQ(map.memory.size, 1024ULL << 20);
  EXPECT_EQ(map.memory.source, MemoryInventory::Source::memmap);
  const Inventory kernel = inventory_of_entries("/proc/meminfo = MemTotal:  1000000 kB\\nMemFree: 1 kB\n");
  EXPECT_EQ(kernel.memory.size, 1000000ULL << 10);
  EXPECT_TRUE(kernel.memory.approximate());
  EXPECT_THAT(kernel.notes, testing::Contains(HasSubstr("what the kernel can use")));
}

TEST(Devices, WhatStaysBehindIsSaid) {
  const Inventory inventory = inventory_of_entries(
      "/sys/bus/pci/devices/0000:01:00.0/class = 0x030000\n/sys/bus/pci/devices/0000:01:00.0/vendor = 0x10de\n"
      "/sys/bus/pci/devices/0000:01:00.0/device = 0x2204\n"
      "/sys/bus/pci/devices/0000:01:00.0/driver -> ../../../../bus/pci/drivers/nouveau\n"
      "/sys/bus/pci/devices/0000:02:00.0/class = 0x030000\n/sys/bus/pci/devices/0000:03:00.0/class = 0x120000\n"
      "/sys/bus/usb/devices/1-1/idVendor = 0529\n/sys/bus/usb/devices/1-1/idProduct = 0001\n"
      "/sys/bus/usb/devices/1-1/product = HASP HL\n/sys/bus/usb/devices/1-1/1-1:1.0/bInterfaceClass = 03\n"
      "/sys/bus/usb/devices/1-2/idVendor = 046d\n/sys/bus/usb/devices/1-2/1-2:1.0/bInterfaceClass = 03\n"
      "/sys/bus/usb/devices/usb1/idVendor = 1d6b\n/sys/class/tpm/tpm0/tpm_version_major = 2\n");
  EXPECT_EQ(inventory.tpm, 2U);
  EXPECT_TRUE(machine_of(inventory).tpm);
  EXPECT_EQ(inventory.devices.size(), 5U);
  std::vector<std::string> notes;
  for (const std::string& note : inventory.notes)
    if (note.find("stays behind") != std::string::npos || note.find("licence") != std::string::npos)
      notes.push_back(note);
  EXPECT_THAT(notes, ElementsAre(HasSubstr("TPM (version 2)"), HasSubstr("10de:2204"), HasSubstr("0000:03:00.0"),
                                 HasSubstr("0529:0001 (HASP HL) looks like a licence key")));
}

TEST(MachineOf, SharedUuidsAndGenericNamesAreNotTaken) {
  Inventory inventory;
  inventory.uuid = "03000200-0400-0500-0006-000700080009";
  inventory.host_name = "localhost";
  inventory.smbios.product = "PowerEdge R640";
  inventory.smbios.serial = "ABC123";
  const Machine machine = machine_of(inventory);
  EXPECT_EQ(machine.uuid, "");
  EXPECT_EQ(machine.name, "PowerEdge R640-ABC123");
  EXPECT_EQ(machine.cpu.count(), 1U);
}

TEST(SysTree, NamesAreSortedAsPeopleCount) {
  std::vector<std::string> names = {"sdaa", "sda10", "nvme10n1", "sdb", "sda2", "nvme2n1", "sda", "vda"};
  std::sort(names.begin(), names.end(), natural_less);
  EXPECT_THAT(names, ElementsAre("nvme2n1", "nvme10n1", "sda", "sda2", "sda10", "sdb", "sdaa", "vda"));
}

TEST(SysTree, ListsOfProcessors) {
  EXPECT_THAT(parse_cpu_list("0-2,8,10-11\n"), ElementsAre(0U, 1U, 2U, 8U, 10U, 11U));
  for (const char* bad : {"", "x", "3-1", "0-4294967295", "1,,2", "-1", "0-70000"})
    EXPECT_TRUE(parse_cpu_list(bad).empty()) << bad;
}

} // namespace
} // namespace kvmport::test
