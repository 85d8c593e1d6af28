// SPDX-License-Identifier: Apache-2.0
#include "libconvert/boot_machine.h"

#include "formats/partitions.h"

#include <algorithm>
#include <numeric>
#include <thread>

namespace kvmport {
namespace {

constexpr std::uint64_t default_memory = 1ULL << 30;

DiskBus bus_of(const MachineDisk& disk) {
  switch (disk.controller) {
  case ControllerType::ide:
    return DiskBus::ide;
  case ControllerType::sata:
    return DiskBus::sata;
  case ControllerType::scsi:
  case ControllerType::virtio_scsi:
    return DiskBus::virtio_scsi;
  default:
    return DiskBus::virtio_blk;
  }
}

/// The machine's disks in the order in which they are booted from.
std::vector<std::size_t> boot_order(const Machine& machine) {
  std::vector<std::size_t> order(machine.disks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return machine.disks[a].boot_order.value_or(1000) < machine.disks[b].boot_order.value_or(1000);
  });
  return order;
}

std::string nic_model(const std::string& model) {
  return model == "e1000" || model == "e1000e" ? model : "virtio";
}

Firmware firmware_of(const Machine& machine, const std::vector<Overlay*>& disks) {
  if (machine.firmware != MachineFirmware::unknown || disks.empty())
    return machine.firmware == MachineFirmware::uefi ? Firmware::uefi : Firmware::bios;
  return made_for_uefi(*disks.front()) ? Firmware::uefi : Firmware::bios;
}

} // namespace

BootSpec boot_spec_of(const Machine& machine, const std::vector<Overlay*>& disks) {
  BootSpec spec;
  spec.name = machine.name;
  spec.memory = machine.memory != 0 ? machine.memory : default_memory;
  spec.cpus = std::clamp(machine.cpu.count(), 1U, std::max(1U, std::thread::hardware_concurrency()));
  spec.firmware = firmware_of(machine, disks);
  spec.secure_boot = spec.firmware == Firmware::uefi && machine.secure_boot;
  spec.nvram = machine.nvram;
  for (const MachineNic& nic : machine.nics)
    spec.nics.push_back({nic.mac, nic_model(nic.model)});
  for (const std::size_t i : boot_order(machine)) {
    const MachineDisk& disk = machine.disks[i];
    spec.disks.push_back({disks.at(i), bus_of(disk), disk.logical_sector, disk.serial});
  }
  return spec;
}

} // namespace kvmport
