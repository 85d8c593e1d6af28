// SPDX-License-Identifier: Apache-2.0
// The inventory as the description that a conversion takes.
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport {
namespace {

/// UUIDs that makers of boards left in thousands of machines.
constexpr std::string_view shared_uuids[] = {"03000200-0400-0500-0006-000700080009",
                                             "00020003-0004-0005-0006-000700080009",
                                             "12345678-1234-5678-90ab-cddeefaabbcc"};

std::string machine_name(const Inventory& inventory) {
  const std::string& host = inventory.host_name;
  for (const std::string_view generic : {"", "(none)", "localhost", "localhost.localdomain", "p2v", "debian"})
    if (host == generic)
      return inventory.smbios.serial.empty() ? inventory.smbios.product
                                             : inventory.smbios.product + "-" + inventory.smbios.serial;
  return host;
}

ControllerType controller_of(const std::string& transport) {
  constexpr std::pair<std::string_view, ControllerType> types[] = {
      {"sata", ControllerType::sata}, {"ata", ControllerType::ide},           {"nvme", ControllerType::nvme},
      {"usb", ControllerType::usb},   {"virtio", ControllerType::virtio_blk}, {"xen", ControllerType::xen},
      {"sas", ControllerType::scsi},  {"scsi", ControllerType::scsi},         {"raid", ControllerType::scsi},
      {"fc", ControllerType::scsi},   {"iscsi", ControllerType::scsi}};
  for (const auto& [name, type] : types)
    if (transport == name)
      return type;
  return ControllerType::unknown;
}

/// What a disk of a guest can carry: the characters that libvirt takes and virtio-blk's 20 of them. The end of a longer
/// one is kept: LUNs of one array differ there.
std::string guest_serial(const std::string& serial) {
  constexpr std::size_t longest = 20; // VIRTIO_BLK_ID_BYTES (virtio 1.2, 5.2.6)
  std::string safe;
  for (const char c : serial) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      std::string_view("_.+-").find(c) != std::string_view::npos;
    safe += good ? c : '_';
  }
  return safe.size() > longest ? safe.substr(safe.size() - longest) : safe;
}

MachineCpu guest_cpu(const CpuInventory& cpu) {
  MachineCpu guest;
  guest.model = cpu.model_name;
  const unsigned total = std::max(cpu.online, 1U);
  if (cpu.uniform && cpu.sockets > 0 && cpu.cores > 0 && cpu.cores % cpu.sockets == 0 && total % cpu.cores == 0) {
    guest.sockets = cpu.sockets;
    guest.cores = cpu.cores / cpu.sockets;
    guest.threads = total / cpu.cores;
  } else {
    guest.sockets = cpu.sockets > 0 && total % cpu.sockets == 0 ? cpu.sockets : 1;
    guest.cores = total / guest.sockets;
  }
  return guest;
}

/// The partition that the firmware starts from; empty: unknown.
std::string boot_partition(const FirmwareInventory& firmware) {
  std::vector<std::uint16_t> order = firmware.boot_order;
  for (const std::uint16_t number : order)
    for (const FirmwareBootOption& option : firmware.boot_options)
      if (option.number == number && option.active && !option.partition.empty())
        return option.partition;
  return {};
}

void add_disks(const Inventory& inventory, Machine& machine) {
  const std::string boot = boot_partition(inventory.firmware);
  for (const DiskInventory& disk : inventory.disks) {
    if (!disk.selected) {
      machine.notes.push_back(fmt::format("disk {} is left out: {}", disk.name, disk.reason));
      continue;
    }
    MachineDisk guest;
    guest.path = disk.device();
    guest.format = "raw";
    guest.controller = controller_of(disk.transport);
    guest.unit = static_cast<unsigned>(machine.disks.size());
    guest.capacity = disk.size;
    guest.logical_sector = disk.logical_sector;
    guest.physical_sector = disk.physical_sector;
    guest.serial = guest_serial(disk.serial);
    guest.source_name = disk.device().lexically_relative("/dev").string();
    if (guest.serial != disk.serial)
      machine.notes.push_back(fmt::format("disk {}: the guest sees \"{}\" of its serial number \"{}\"", disk.name,
                                          guest.serial, disk.serial));
    const bool boots = !boot.empty() && std::any_of(disk.partitions.begin(), disk.partitions.end(),
                                                    [&](const auto& p) { return p.uuid == boot; });
    if (boots)
      guest.boot_order = 1;
    machine.disks.push_back(std::move(guest));
  }
}

void add_cards(const Inventory& inventory, Machine& machine) {
  for (const NicInventory& nic : inventory.nics) {
    if (nic.wireless) {
      machine.notes.push_back(fmt::format("the wireless card {} stays behind", nic.name));
      continue;
    }
    MachineNic guest;
    guest.mac = nic.guest_mac();
    guest.network = nic.master;
    guest.model = nic.driver;
    guest.pci_address = nic.pci_address;
    machine.nics.push_back(std::move(guest));
  }
}

} // namespace

Machine machine_of(const Inventory& inventory) {
  Machine machine;
  machine.source_type = "physical";
  machine.name = machine_name(inventory);
  machine.notes = inventory.notes;
  machine.uuid = inventory.uuid;
  if (std::find(std::begin(shared_uuids), std::end(shared_uuids), machine.uuid) != std::end(shared_uuids)) {
    machine.notes.push_back("the machine's UUID " + machine.uuid + " is that of many others: the guest gets a new one");
    machine.uuid.clear();
  }
  machine.smbios = inventory.smbios;
  machine.memory = inventory.memory.size;
  machine.cpu = guest_cpu(inventory.cpu);
  machine.firmware =
      inventory.firmware.kind == FirmwareInventory::Kind::bios ? MachineFirmware::bios : MachineFirmware::uefi;
  machine.secure_boot = inventory.firmware.secure_boot.value_or(false);
  machine.rtc_localtime = inventory.clock.basis == ClockInventory::Basis::localtime;
  machine.tpm = inventory.tpm != 0;
  add_disks(inventory, machine);
  add_cards(inventory, machine);
  for (const std::string& problem : selection_problems(inventory))
    if (std::find(machine.notes.begin(), machine.notes.end(), problem) == machine.notes.end())
      machine.notes.push_back(problem);
  return machine;
}

} // namespace kvmport
