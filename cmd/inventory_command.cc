// SPDX-License-Identifier: Apache-2.0
#include "cmd/inventory_command.h"

#include "libconvert/p2v/inventory.h"
#include "libconvert/target/target.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-p2v inventory
  kvm-p2v inventory --json | jq '.disks[] | select(.selected) | .name'
  kvm-p2v inventory --xml >machine.xml
)";

std::string row(std::string_view name, const std::string& value) {
  return value.empty() ? std::string() : fmt::format("{:<11} {}\n", name, value);
}

/// The words that are not empty, with a blank between them.
std::string joined(std::initializer_list<std::string> words) {
  std::string text;
  for (const std::string& word : words)
    text += (text.empty() || word.empty() ? "" : " ") + word;
  return text;
}

std::string yes_no(const std::optional<bool>& value) {
  return !value ? "unknown" : *value ? "on" : "off";
}

std::string describe_firmware(const FirmwareInventory& firmware) {
  if (firmware.kind == FirmwareInventory::Kind::bios)
    return row("firmware", "BIOS");
  std::string text = row("firmware", fmt::format("UEFI, {} bits, Secure Boot {}",
                                                 firmware.kind == FirmwareInventory::Kind::uefi32 ? 32 : 64,
                                                 yes_no(firmware.secure_boot)));
  for (const FirmwareBootOption& option : firmware.boot_options)
    text += row("boot", fmt::format("{:04X}{} {}", option.number, option.active ? " " : "-",
                                    joined({option.description, "(" + option.kind + ")", option.file})));
  return text;
}

std::string describe_identity(const Inventory& inventory) {
  const MachineSmbios& id = inventory.smbios;
  return row("name", inventory.host_name) + row("system", joined({id.manufacturer, id.product, id.version})) +
         row("serial", id.serial) + row("uuid", inventory.uuid) +
         row("board", joined({id.board_manufacturer, id.board_product, id.board_serial})) +
         row("chassis", joined({id.chassis_manufacturer, id.chassis_serial})) + row("asset", id.chassis_asset);
}

std::string describe_processor(const Inventory& inventory) {
  const CpuInventory& cpu = inventory.cpu;
  const MemoryInventory& memory = inventory.memory;
  std::string threads = fmt::format("{} sockets, {} cores, {} threads", cpu.sockets, cpu.cores, cpu.online);
  if (!cpu.offline.empty())
    threads += fmt::format(", {} offline", cpu.offline.size());
  return row("memory", fmt::format("{} MiB{}", memory.size >> 20, memory.approximate() ? ", approximately" : "")) +
         row("processor", joined({cpu.model_name})) + row("topology", threads);
}

std::string describe_disks(const Inventory& inventory) {
  std::string text;
  for (const DiskInventory& disk : inventory.disks) {
    text += row("disk",
                fmt::format("{:<9} {:>10} {:>4}/{:<4} {:<7} {}", disk.name, human_size(disk.size), disk.logical_sector,
                            disk.physical_sector, disk.transport, joined({disk.vendor, disk.model, disk.serial})));
    if (!disk.selected)
      text += row("", "not taken: " + disk.reason);
  }
  constexpr const char* kinds[] = {"array", "volumes", "multipath", "fake RAID"};
  for (const DiskGroup& group : inventory.groups)
    text += row(kinds[static_cast<int>(group.kind)],
                joined({group.name, group.level, fmt::format("on {}", fmt::join(group.disks, ", ")),
                        group.complete ? "" : "(not whole)"}));
  return text;
}

std::string describe_network(const Inventory& inventory) {
  std::string text;
  for (const NicInventory& nic : inventory.nics)
    text += row("network", fmt::format("{:<9} {} {:<9} {}", nic.name, nic.guest_mac(), nic.driver,
                                       joined({nic.pci_address, nic.link ? "link" : "no link",
                                               nic.master.empty() ? "" : "in " + nic.master})));
  constexpr const char* kinds[] = {"bond", "vlan", "bridge", "team"};
  for (const NetworkStackInventory& device : inventory.network)
    text += row(kinds[static_cast<int>(device.kind)],
                joined({device.name, device.mode, device.vlan == 0 ? "" : std::to_string(device.vlan),
                        fmt::format("on {}", fmt::join(device.ports, ", "))}));
  return text;
}

std::string describe(const Inventory& inventory) {
  constexpr const char* clocks[] = {"unknown, UTC is taken", "UTC", "local time"};
  std::string text = describe_identity(inventory) + describe_firmware(inventory.firmware) +
                     describe_processor(inventory) + describe_disks(inventory) + describe_network(inventory) +
                     row("clock", clocks[static_cast<int>(inventory.clock.basis)]) +
                     row("TPM", inventory.tpm == 0 ? "" : "version " + std::to_string(inventory.tpm));
  for (const DeviceInventory& device : inventory.devices)
    text += row(device.kind, joined({device.id, device.name, device.address, device.driver}));
  for (const std::string& note : machine_of(inventory).notes)
    text += row("note", note);
  return text;
}

/// The domain as a conversion would describe it, its disks where libvirt keeps them.
std::string describe_domain(const Inventory& inventory) {
  TargetMachine target;
  target.source = machine_of(inventory);
  target.uefi = target.source.firmware == MachineFirmware::uefi;
  target.secure_boot = target.source.secure_boot;
  const std::string stem = "/var/lib/libvirt/images/" + safe_name(target.source.name);
  for (const MachineDisk& disk : target.source.disks) {
    std::string name = disk.source_name;
    std::replace(name.begin(), name.end(), '/', '!');
    target.disks.push_back({stem + "-" + name + ".qcow2", "qcow2", disk.logical_sector, disk.physical_sector,
                            disk.serial, disk.boot_order});
  }
  return libvirt_xml(target);
}

} // namespace

CLI::App* add_inventory_command(CLI::App& app, InventoryArguments& arguments) {
  CLI::App* command = app.add_subcommand("inventory", "Tell what this machine is made of");
  command->add_flag("--xml", arguments.xml, "Print the libvirt domain that it would become");
  command->add_option("--root", arguments.root, "Read /sys, /proc and /etc below this directory");
  command->footer(examples);
  return command;
}

int run_inventory(const InventoryArguments& arguments, Console& console) {
  if (arguments.xml && console.json())
    throw Error("USAGE", "--xml and --json can't be had together");
  const Inventory inventory = read_inventory(arguments.root);
  console.result(arguments.xml ? describe_domain(inventory) : describe(inventory), to_json(inventory));
  return exit_done;
}

} // namespace kvmport
