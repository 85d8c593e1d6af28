// SPDX-License-Identifier: Apache-2.0
// Documentation/ABI/stable/sysfs-block of the kernel; the transport is told by the path of the device in /sys/devices,
// as udev's path_id does.
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory_parts.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport {

std::filesystem::path DiskInventory::device() const {
  std::string path = "/dev/" + name; // '!' stands for the '/' that a file of sysfs can't have
  std::replace(path.begin(), path.end(), '!', '/');
  return path;
}

namespace inventory_parts {
namespace {

bool starts_with_any(const std::string& name, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](auto prefix) { return name.starts_with(prefix); });
}

/// Names of block devices that are no disks of this machine: made of memory, files, other devices or the network, or
/// drives of removable media that hold no system (CD, floppy), or the boot areas of an eMMC.
bool is_disk_name(const std::string& name) {
  if (starts_with_any(name, {"loop", "ram", "zram", "dm-", "md", "sr", "fd", "mtdblock", "nbd", "rbd", "drbd", "ublk"}))
    return false;
  return !(name.starts_with("mmcblk") && (name.find("boot") != std::string::npos || name.ends_with("rpmb")));
}

/// The directory of the SCSI or ATA host above a device: ".../host2" of ".../host2/target2:0:0/2:0:0:0/block/sda".
std::string host_name_of(const std::string& path) {
  for (std::size_t at = path.find("/host"); at != std::string::npos; at = path.find("/host", at + 1)) {
    const std::string name = path.substr(at + 1, path.find('/', at + 1) - at - 1);
    if (name.size() > 4 && parse_number(name.substr(4)))
      return name;
  }
  return {};
}

/// Whether a PCI function in the path is an IDE controller in the old sense (class 0101).
bool on_ide_controller(const SysTree& tree, const std::string& path) {
  std::string at = path;
  for (; !at.empty() && !tree.exists(at + "/class"); at.resize(at.rfind('/')))
    if (at.rfind('/') == std::string::npos)
      return false;
  return !at.empty() && tree.hex(at + "/class").value_or(0) >> 8 == 0x0101;
}

/// `path`: resolved, of the disk.
std::string transport_of(const SysTree& tree, const DiskInventory& disk, const std::string& path) {
  const auto has = [&](std::string_view part) { return path.find(part) != std::string::npos; };
  if (disk.name.starts_with("nvme"))
    return "nvme";
  if (disk.name.starts_with("mmcblk"))
    return "mmc";
  if (disk.name.starts_with("vd"))
    return "virtio";
  if (disk.name.starts_with("xvd"))
    return "xen";
  if (disk.name.starts_with("cciss"))
    return "raid";
  if (has("/usb"))
    return "usb";
  if (has("/session"))
    return "iscsi";
  if (has("/rport-"))
    return "fc";
  if (has("/end_device-"))
    return "sas";
  const std::string& driver = disk.driver;
  if (has("/ata"))
    return driver.starts_with("pata_") || (driver == "ata_piix" && on_ide_controller(tree, path)) ? "ata" : "sata";
  if (disk.name.starts_with("hd"))
    return "ata";
  if (starts_with_any(driver, {"megaraid", "hpsa", "smartpqi", "aacraid", "3w-", "arcmsr", "ipr", "mpi3mr"}))
    return "raid";
  return disk.name.starts_with("sd") ? "scsi" : "other";
}

/// The text of a VPD page 80h, Unit Serial Number (SPC-4, 7.8.15): four bytes of header, then ASCII.
std::string vpd_serial(const Bytes& page) {
  if (page.size() < 4 || std::to_integer<unsigned>(page[1]) != 0x80)
    return {};
  const std::size_t length = std::min<std::size_t>(load_be<std::uint16_t>(page, 2), page.size() - 4);
  std::string serial(as_text(ByteSpan(page).subspan(4, length)));
  serial.erase(std::remove(serial.begin(), serial.end(), '\0'), serial.end());
  return std::string(trimmed(clean_utf8(serial)));
}

/// The serial number of the USB device above a disk; bridges seldom pass that of the disk on.
std::string usb_serial(const SysTree& tree, std::string path) {
  while (path.find("/usb") != std::string::npos && path.rfind('/') != std::string::npos) {
    if (tree.exists(path + "/idVendor"))
      return tree.word(path + "/serial");
    path.resize(path.rfind('/'));
  }
  return {};
}

/// The rest of the line that begins with `key`; empty: none.
std::string line_value(const std::string& text, const std::string& key) {
  const std::string lines = "\n" + text;
  const std::size_t at = lines.find("\n" + key);
  if (at == std::string::npos)
    return {};
  const std::size_t begin = at + 1 + key.size();
  return std::string(trimmed(std::string_view(lines).substr(begin, lines.find('\n', begin) - begin)));
}

/// What udev found out by asking the device itself, where the kernel shows less.
std::string udev_value(const SysTree& tree, const std::string& sys, const std::string& key) {
  const std::string device = tree.word(sys + "/dev");
  return device.empty() ? std::string() : line_value(tree.word("/run/udev/data/b" + device), "E:" + key + "=");
}

/// The kernel tells it since 6.11.
std::string partition_uuid(const SysTree& tree, const std::string& sys) {
  const std::string uuid = line_value(tree.word(sys + "/uevent"), "PARTUUID=");
  return lower(uuid.empty() ? udev_value(tree, sys, "ID_PART_ENTRY_UUID") : uuid);
}

void read_identity(const SysTree& tree, const std::string& sys, const std::string& path, DiskInventory& disk) {
  disk.vendor = tree.word(sys + "/device/vendor");
  disk.model = tree.word(sys + "/device/model");
  if (disk.model.empty())
    disk.model = tree.word(sys + "/device/name"); // eMMC
  disk.wwid = tree.word(sys + "/wwid");
  if (disk.wwid.empty())
    disk.wwid = tree.word(sys + "/device/wwid");
  if (disk.vendor.starts_with("0x")) // virtio's number
    disk.vendor.clear();
  for (const char* file : {"/serial", "/device/serial"})
    if (disk.serial.empty())
      disk.serial = tree.word(sys + file);
  if (disk.serial.empty())
    disk.serial = vpd_serial(tree.bytes(sys + "/device/vpd_pg80"));
  if (disk.serial.empty() && disk.transport == "usb")
    disk.serial = usb_serial(tree, path);
  if (disk.serial.empty())
    disk.serial = udev_value(tree, sys, "ID_SERIAL_SHORT");
}

constexpr std::uint64_t sector = 512; // of every size in sysfs

std::uint64_t sectors(const SysTree& tree, const std::string& path) {
  return multiplied(tree.number(path).value_or(0), sector).value_or(0);
}

void read_partitions(const SysTree& tree, const std::string& sys, DiskInventory& disk) {
  for (const std::string& name : tree.list(sys)) {
    const auto number = tree.number(sys + "/" + name + "/partition");
    if (!name.starts_with(disk.name) || !number)
      continue;
    const std::string part = sys + "/" + name;
    disk.partitions.push_back({name, static_cast<unsigned>(*number), sectors(tree, part + "/start"),
                               sectors(tree, part + "/size"), partition_uuid(tree, part),
                               tree.list(part + "/holders")});
  }
  std::sort(disk.partitions.begin(), disk.partitions.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
}

/// A size of a sector that makes sense: a power of two from 512 to 64 KiB.
std::uint32_t sector_size(const SysTree& tree, const std::string& path) {
  const std::uint64_t value = tree.number(path).value_or(sector);
  const bool good = value >= sector && value <= 65536 && (value & (value - 1)) == 0;
  return static_cast<std::uint32_t>(good ? value : sector);
}

void select(const SysTree& tree, const std::string& sys, DiskInventory& disk) {
  if (disk.size == 0)
    disk.reason = "no medium";
  else if (disk.removable)
    disk.reason = "removable";
  else if (disk.transport == "usb")
    disk.reason = "on USB";
  else if (disk.transport == "mmc" && tree.word(sys + "/device/type") == "SD")
    disk.reason = "an SD card";
  disk.selected = disk.reason.empty();
}

DiskInventory read_disk(const SysTree& tree, const std::string& name) {
  const std::string sys = "/sys/block/" + name, path = tree.resolved(sys);
  DiskInventory disk;
  disk.name = name;
  disk.size = sectors(tree, sys + "/size");
  disk.logical_sector = sector_size(tree, sys + "/queue/logical_block_size");
  disk.physical_sector = std::max(disk.logical_sector, sector_size(tree, sys + "/queue/physical_block_size"));
  disk.rotational = tree.number(sys + "/queue/rotational") == 1;
  disk.removable = tree.number(sys + "/removable") == 1;
  disk.read_only = tree.number(sys + "/ro") == 1;
  const std::string host = host_name_of(path);
  disk.driver = host.empty() ? tree.link_name(sys + "/device/driver") // of a virtio or Xen disk
                             : tree.word("/sys/class/scsi_host/" + host + "/proc_name");
  if (name.starts_with("nvme"))
    disk.driver = "nvme";
  disk.transport = transport_of(tree, disk, path);
  read_identity(tree, sys, path, disk);
  read_partitions(tree, sys, disk);
  disk.holders = tree.list(sys + "/holders");
  select(tree, sys, disk);
  return disk;
}

} // namespace

void read_disks(const SysTree& tree, Inventory& inventory) {
  for (const std::string& name : tree.list("/sys/block")) {
    // A path of an NVMe disk with several is hidden: the disk itself is another entry.
    if (!is_disk_name(name) || tree.number("/sys/block/" + name + "/hidden") == 1)
      continue;
    inventory.disks.push_back(read_disk(tree, name));
  }
}

} // namespace inventory_parts
} // namespace kvmport
