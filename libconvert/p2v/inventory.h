// SPDX-License-Identifier: Apache-2.0
// What a physical machine is made of: read from /sys, /proc and the firmware's own tables, with no other program and no
// text that is written for people. Reading changes nothing.
//
// All paths are taken below a root, so that a recorded tree gives the same answer as the machine it came from. Where
// the root is "/", what no file tells is asked of the kernel too: permanent MAC addresses (ethtool), whether the clock
// is synchronised (adjtimex); and the disks are opened for reading, to find arrays and volume groups that don't run.
// Sizes are bytes. What can't be read is left empty: a machine is never refused here, but `notes` says what is missing
// and why it matters. Most of it needs root.
#pragma once

#include "libconvert/machine/machine.h"

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// One Boot#### variable (UEFI 2.10, 3.1.3, EFI_LOAD_OPTION).
struct FirmwareBootOption {
  std::uint16_t number = 0;
  bool active = false;
  std::string description; ///< "debian", "UEFI: PXE IPv4"
  std::string kind;        ///< "disk", "network", "usb", "firmware", "legacy", "other": from its device path
  std::string partition;   ///< GUID of the GPT partition, lower case; empty: none
  std::string file;        ///< "\EFI\debian\shimx64.efi"
};

struct FirmwareInventory {
  enum class Kind { bios, uefi32, uefi64 };
  Kind kind = Kind::bios;
  /// Variables SecureBoot and SetupMode; nothing when they can't be read or aren't there.
  std::optional<bool> secure_boot, setup_mode;
  std::optional<std::uint16_t> boot_current;
  std::vector<std::uint16_t> boot_order;
  std::vector<FirmwareBootOption> boot_options; ///< in boot order, those outside of it last
};

struct MemoryInventory {
  enum class Source { none, smbios, memmap, meminfo };
  std::uint64_t size = 0;
  Source source = Source::none;
  /// What the kernel can use: somewhat less than is installed.
  std::uint64_t usable = 0;
  unsigned modules = 0; ///< that SMBIOS lists
  /// Only what the kernel can use is known, so that `size` is too small by some percent.
  bool approximate() const { return source == Source::meminfo; }
};

struct CpuInventory {
  std::string vendor, model_name; ///< "GenuineIntel", as /proc/cpuinfo says
  std::vector<std::string> flags;
  unsigned sockets = 0; ///< with a processor that is online
  unsigned cores = 0;   ///< in all
  unsigned online = 0;  ///< hardware threads in all
  unsigned present = 0;
  std::vector<unsigned> offline; ///< numbers of processors that are there but off
  std::string smt;               ///< "on", "off", "forceoff", "notsupported"; empty: unknown
  /// Every socket has as many cores and every core as many threads.
  bool uniform = true;
  bool hyper_threading() const { return online > cores; }
};

struct DiskPartitionInventory {
  std::string name;                   ///< "sda1"
  unsigned number = 0;                ///< as the table counts
  std::uint64_t start = 0, size = 0;  ///< bytes
  std::string uuid{};                 ///< PARTUUID, lower case; empty: not told
  std::vector<std::string> holders{}; ///< "md0", "dm-1"
};

struct DiskInventory {
  std::string name; ///< of the kernel: "sda", "nvme0n1", "cciss!c0d0"
  std::uint64_t size = 0;
  std::uint32_t logical_sector = 512, physical_sector = 512;
  bool rotational = false, removable = false, read_only = false;
  /// "sata", "ata", "sas", "scsi", "raid", "fc", "iscsi", "usb", "nvme", "virtio", "xen", "mmc", "other".
  std::string transport;
  std::string driver; ///< of the controller: "ahci", "megaraid_sas"
  std::string vendor, model, serial;
  std::string wwid; ///< "naa.5002538…", "eui.0025385…", "t10.ATA…"
  std::vector<DiskPartitionInventory> partitions;
  std::vector<std::string> holders; ///< of the whole disk
  bool selected = true;             ///< a capture that names no disk takes it
  std::string reason;               ///< why not selected
  /// "/dev/sda"
  std::filesystem::path device() const;
};

/// Disks that only make sense together: what a device of the kernel or metadata on the disks joins.
struct DiskGroup {
  enum class Kind { array, lvm, multipath, fake_raid };
  Kind kind = Kind::array;
  std::string name;               ///< "md0", "vg0", "mpatha"
  std::string level;              ///< "raid1"; empty for others
  std::vector<std::string> disks; ///< names of disks of this machine
  unsigned wanted = 0;            ///< members that belong to it; 0: unknown
  unsigned missing = 0;           ///< of these
  bool complete = true;
  std::string problem; ///< why not complete
};

struct NicInventory {
  std::string name; ///< "eno1"
  /// The address in the card's own memory; empty: not known. `mac` may be another one: bonds and users set it.
  std::string permanent_mac;
  std::string mac;
  std::string driver, pci_address;
  std::string vendor_id, device_id; ///< "8086"; empty: not on PCI
  std::string master;               ///< bond, bridge or team that it is a port of
  bool link = false;
  unsigned speed = 0;    ///< Mbit/s; 0: unknown
  bool wireless = false; ///< stays out of the guest
  /// What to give to the guest.
  const std::string& guest_mac() const { return permanent_mac.empty() ? mac : permanent_mac; }
};

/// A network device made of others: the guest's own configuration makes it again.
struct NetworkStackInventory {
  enum class Kind { bond, vlan, bridge, team };
  Kind kind = Kind::bond;
  std::string name;
  std::string mode; ///< of a bond: "802.3ad"
  unsigned vlan = 0;
  std::string mac;
  std::vector<std::string> ports; ///< devices below it
};

struct ClockInventory {
  enum class Basis { unknown, utc, localtime };
  Basis basis = Basis::unknown;
  std::string evidence; ///< how it was found, for people
  /// RTC minus system clock, rounded to minutes, when both could be read.
  std::optional<int> offset_minutes;
};

/// Hardware that a guest does not have.
struct DeviceInventory {
  std::string kind;    ///< "display", "accelerator", "fibre channel", "usb", …
  std::string address; ///< "0000:01:00.0", "1-2"
  std::string id;      ///< "10de:2204"
  std::string name;    ///< as the device says; may be empty
  std::string driver;
};

struct Inventory {
  std::string host_name;
  FirmwareInventory firmware;
  MachineSmbios smbios;
  std::string uuid; ///< of SMBIOS, lower case; empty: none
  std::string bios_vendor, bios_version, bios_date;
  MemoryInventory memory;
  CpuInventory cpu;
  std::vector<DiskInventory> disks; ///< by name, "sdb" before "sdaa"
  std::vector<DiskGroup> groups;
  std::vector<NicInventory> nics; ///< by PCI address, then name
  std::vector<NetworkStackInventory> network;
  ClockInventory clock;
  unsigned tpm = 0; ///< version 1 or 2; 0: none
  std::vector<DeviceInventory> devices;
  std::vector<std::string> notes;
};

/// Reads the machine below `root`. Errors: NOT_FOUND when there is no /sys and /proc below it.
Inventory read_inventory(const std::filesystem::path& root = "/");

/// Bytes in which a superblock or a label may be looked for: a disk, a partition, or an array that runs.
struct DiskPlace {
  std::vector<std::string> disks; ///< names of the disks below it
  const Image* image = nullptr;   ///< borrowed
  Range range;
  bool running = false; ///< an array of the kernel's has it
};
/// Adds md arrays that don't run and LVM volume groups, with what of them is missing; completes groups that are known.
/// Errors only when a disk can't be read.
void add_groups_on_disks(const std::vector<DiskPlace>& places, Inventory& inventory);

/// What is wrong with the disks that are `selected`: a member of an array or volume group that is left out, a disk
/// taken through two paths, an array that is not whole. For people; empty: nothing.
std::vector<std::string> selection_problems(const Inventory& inventory);

/// The machine as a conversion takes it: its selected disks ("/dev/NAME" as path), its cards, what its firmware says.
Machine machine_of(const Inventory& inventory);

nlohmann::json to_json(const Inventory& inventory);

} // namespace kvmport
