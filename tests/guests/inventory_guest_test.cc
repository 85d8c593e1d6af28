// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v inventory` on machines whose hardware is known to the last serial number: QEMU was told. Debian's kernel
// with a small initramfs (tests/p2v/make-probe-initramfs), the answer over the serial console.
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {
namespace {

class InventoryOfAGuest : public testing::Test {
 protected:
  /// Boots a machine with these options and returns the inventory that it printed.
  json inventory(const std::string& words, const std::vector<std::string>& options) {
    const fs::path initramfs = dir_.path() / "initramfs";
    std::string kernel = must_run({"tests/p2v/make-probe-initramfs", command("kvm-p2v").string(), initramfs.string()});
    kernel.resize(kernel.find('\n'));
    std::vector<std::string> argv = {"qemu-system-x86_64",
                                     "-machine",
                                     "q35",
                                     "-accel",
                                     "tcg",
                                     "-display",
                                     "none",
                                     "-serial",
                                     "stdio",
                                     "-monitor",
                                     "none",
                                     "-nodefaults",
                                     "-no-reboot",
                                     "-kernel",
                                     kernel,
                                     "-initrd",
                                     initramfs.string(),
                                     "-append",
                                     "console=ttyS0 quiet " + words};
    argv.insert(argv.end(), options.begin(), options.end());
    const ProcessResult guest = run_process(argv, std::chrono::minutes(10));
    const std::string begin = "=== inventory", end = "=== status 0";
    const std::size_t from = guest.out.find(begin), to = guest.out.find(end);
    EXPECT_NE(to, std::string::npos) << guest.out << guest.err;
    if (from == std::string::npos || to == std::string::npos)
      return {};
    return json::parse(guest.out.substr(from + begin.size(), to - from - begin.size()));
  }
  /// Options for an empty disk of 64 MiB, the drive's id being `id`.
  std::vector<std::string> drive(const std::string& id) {
    const fs::path file = dir_.path() / id;
    must_run({"truncate", "-s", "64M", file.string()});
    return {"-drive", "if=none,format=raw,id=" + id + ",file=" + file.string()};
  }
  static json named(const json& list, const std::string& key, const std::string& value) {
    for (const json& item : list)
      if (item.value(key, "") == value)
        return item;
    ADD_FAILURE() << "no " << key << " " << value << " in " << list.dump(2);
    return json::object();
  }

  TempDir dir_;
};

void append(std::vector<std::string>& options, const std::vector<std::string>& more) {
  options.insert(options.end(), more.begin(), more.end());
}

TEST_F(InventoryOfAGuest, WithBiosIsWhatQemuWasTold) {
  std::vector<std::string> options = {
      "-cpu",    "Nehalem",
      "-m",      "1000M",
      "-smp",    "4,sockets=2,cores=1,threads=2",
      "-uuid",   "11223344-5566-7788-99aa-bbccddeeff00",
      "-smbios", "type=1,manufacturer=Contoso,product=Box 9000,version=v2,serial=SYS-1234,sku=SKU7,family=Boxes",
      "-smbios", "type=2,manufacturer=Contoso Boards,product=BRD,version=1.1,serial=BRD-77,asset=BASSET",
      "-smbios", "type=3,manufacturer=Contoso Metal,version=C3,serial=CH-5,asset=ASSET-42,sku=CSKU",
      "-device", "virtio-scsi-pci,id=vs",
      "-device", "qemu-xhci",
      "-netdev", "user,id=n0",
      "-device", "e1000,netdev=n0,mac=00:1b:21:0a:0b:0c",
      "-netdev", "user,id=n1",
      "-device", "virtio-net-pci,netdev=n1,mac=52:54:00:aa:bb:cc"};
  const std::pair<const char*, const char*> disks[] = {
      {"d1", "virtio-blk-pci,logical_block_size=4096,physical_block_size=4096,serial=VBLK-4KN-1"},
      {"d2", "nvme,serial=NVME-SER-42"},
      {"d3", "scsi-hd,bus=vs.0,serial=SCSI-77,wwn=0x5000c50015ea71aa,vendor=ACME,product=Spinner,rotation_rate=7200"},
      {"d4", "ide-hd,bus=ide.0,serial=SATA-9,model=Fast SSD,rotation_rate=1"},
      {"d5", "usb-storage,removable=on,serial=STICK-1"}};
  for (const auto& [id, device] : disks) {
    append(options, drive(id));
    append(options, {"-device", std::string(device) + ",drive=" + id});
  }
  const json machine = inventory("probe.disks=5 probe.name=box probe.bond probe.md", options);
  ASSERT_TRUE(machine.is_object());
  EXPECT_EQ(machine["host_name"], "box");
  EXPECT_EQ(machine["firmware"]["type"], "bios");
  EXPECT_EQ(machine["smbios"]["uuid"], "11223344-5566-7788-99aa-bbccddeeff00");
  EXPECT_EQ(machine["smbios"]["system"]["serial"], "SYS-1234");
  EXPECT_EQ(machine["smbios"]["system"]["sku"], "SKU7");
  EXPECT_EQ(machine["smbios"]["board"]["asset"], "BASSET");
  EXPECT_EQ(machine["smbios"]["chassis"]["serial"], "CH-5");
  EXPECT_EQ(machine["smbios"]["chassis"]["asset"], "ASSET-42");
  EXPECT_EQ(machine["memory"]["size"], 1000ULL << 20);
  EXPECT_EQ(machine["memory"]["approximate"], false);
  EXPECT_EQ(machine["cpu"]["sockets"], 2);
  EXPECT_EQ(machine["cpu"]["cores"], 2);
  EXPECT_EQ(machine["cpu"]["threads"], 4);
  EXPECT_EQ(machine["cpu"]["hyper_threading"], true);

  const json vda = named(machine["disks"], "name", "vda"), nvme = named(machine["disks"], "name", "nvme0n1");
  EXPECT_EQ(vda["logical_sector"], 4096);
  EXPECT_EQ(vda["serial"], "VBLK-4KN-1");
  EXPECT_EQ(vda["size"], 64U << 20);
  EXPECT_EQ(nvme["serial"], "NVME-SER-42");
  EXPECT_THAT(nvme["wwid"].get<std::string>(), testing::StartsWith("nvme."));
  const json scsi = named(machine["disks"], "serial", "SCSI-77"), sata = named(machine["disks"], "serial", "SATA-9");
  EXPECT_EQ(scsi["wwid"], "naa.5000c50015ea71aa");
  EXPECT_EQ(scsi["vendor"], "ACME");
  EXPECT_EQ(scsi["rotational"], true);
  EXPECT_EQ(sata["transport"], "sata");
  EXPECT_EQ(sata["model"], "Fast SSD");
  EXPECT_EQ(sata["rotational"], false);
  const json stick = named(machine["disks"], "transport", "usb");
  EXPECT_EQ(stick["selected"], false);
  EXPECT_EQ(stick["serial"], "STICK-1");

  ASSERT_EQ(machine["groups"].size(), 1U);
  EXPECT_EQ(machine["groups"][0]["complete"], false);
  EXPECT_EQ(machine["groups"][0]["disks"], json({sata["name"]}));

  // The card under the bond has another address now: what its memory says counts.
  const json virtio = named(machine["nics"], "driver", "virtio_net"), e1000 = named(machine["nics"], "driver", "e1000");
  const json& bonded = virtio["master"] == "bond0" ? virtio : e1000;
  EXPECT_EQ(bonded["mac"], "02:00:00:00:00:99");
  EXPECT_EQ(virtio["permanent_mac"], "52:54:00:aa:bb:cc");
  EXPECT_EQ(e1000["permanent_mac"], "00:1b:21:0a:0b:0c");
  EXPECT_EQ(named(machine["network"], "kind", "bond")["mode"], "active-backup");
  EXPECT_EQ(named(machine["network"], "kind", "vlan")["vlan"], 20);
}

TEST_F(InventoryOfAGuest, WithUefiIsWhatQemuWasTold) {
  const std::string vars = (dir_.path() / "vars.fd").string();
  fs::copy_file("/usr/share/OVMF/OVMF_VARS_4M.fd", vars);
  std::vector<std::string> options = {
      "-cpu",   "Westmere",
      "-m",     "1G",
      "-smp",   "1,sockets=1,cores=1",
      "-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
      "-drive", "if=pflash,unit=1,format=raw,file=" + vars,
      "-uuid",  "564d7088-01a1-9832-e72b-6790c73b64ea"};
  append(options, drive("e1"));
  append(options, {"-device", "nvme,drive=e1,serial=NV-A"});
  append(options, drive("e2"));
  append(options, {"-device", "ide-hd,bus=ide.0,drive=e2,serial=SATA-1"});
  const json machine = inventory("probe.disks=2 probe.name=server probe.md probe.mdstop", options);
  ASSERT_TRUE(machine.is_object());
  EXPECT_EQ(machine["firmware"]["type"], "uefi64");
  EXPECT_EQ(machine["firmware"]["secure_boot"], false);
  ASSERT_FALSE(machine["firmware"]["boot_options"].empty());
  EXPECT_EQ(machine["firmware"]["boot_options"][0]["number"], machine["firmware"]["boot_order"][0]);
  EXPECT_EQ(machine["smbios"]["uuid"], "564d7088-01a1-9832-e72b-6790c73b64ea");
  EXPECT_EQ(machine["memory"]["size"], 1ULL << 30);
  EXPECT_EQ(named(machine["disks"], "name", "nvme0n1")["serial"], "NV-A");
  // Half of a mirror that nothing runs, as on a boot medium.
  ASSERT_EQ(machine["groups"].size(), 1U);
  EXPECT_EQ(machine["groups"][0]["level"], "raid1");
  EXPECT_EQ(machine["groups"][0]["disks"], json({"sda"}));
  EXPECT_EQ(machine["groups"][0]["missing"], 1);
}

} // namespace
} // namespace kvmport::test
