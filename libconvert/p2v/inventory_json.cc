// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/inventory.h"

#include <fmt/format.h>

using nlohmann::json;

namespace kvmport {
namespace {

template <class T> json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

std::string hex4(std::uint16_t number) {
  return fmt::format("{:04X}", number);
}

json to_json(const FirmwareInventory& firmware) {
  json order = json::array(), options = json::array();
  for (const std::uint16_t number : firmware.boot_order)
    order.push_back(hex4(number));
  for (const FirmwareBootOption& option : firmware.boot_options)
    options.push_back({{"number", hex4(option.number)},
                       {"active", option.active},
                       {"description", option.description},
                       {"kind", option.kind},
                       {"partition", option.partition},
                       {"file", option.file}});
  const char* kind = firmware.kind == FirmwareInventory::Kind::bios     ? "bios"
                     : firmware.kind == FirmwareInventory::Kind::uefi32 ? "uefi32"
                                                                        : "uefi64";
  return {{"type", kind},
          {"secure_boot", or_null(firmware.secure_boot)},
          {"setup_mode", or_null(firmware.setup_mode)},
          {"boot_current", firmware.boot_current ? json(hex4(*firmware.boot_current)) : json(nullptr)},
          {"boot_order", order},
          {"boot_options", options}};
}

json smbios_json(const Inventory& inventory) {
  const MachineSmbios& id = inventory.smbios;
  return {
      {"uuid", inventory.uuid},
      {"bios", {{"vendor", inventory.bios_vendor}, {"version", inventory.bios_version}, {"date", inventory.bios_date}}},
      {"system",
       {{"manufacturer", id.manufacturer},
        {"product", id.product},
        {"version", id.version},
        {"serial", id.serial},
        {"sku", id.sku},
        {"family", id.family}}},
      {"board",
       {{"manufacturer", id.board_manufacturer},
        {"product", id.board_product},
        {"version", id.board_version},
        {"serial", id.board_serial},
        {"asset", id.board_asset}}},
      {"chassis",
       {{"manufacturer", id.chassis_manufacturer},
        {"version", id.chassis_version},
        {"serial", id.chassis_serial},
        {"asset", id.chassis_asset},
        {"sku", id.chassis_sku}}}};
}

json to_json(const MemoryInventory& memory) {
  constexpr const char* sources[] = {"none", "smbios", "memmap", "meminfo"};
  return {{"size", memory.size},
          {"source", sources[static_cast<int>(memory.source)]},
          {"approximate", memory.approximate()},
          {"usable", memory.usable},
          {"modules", memory.modules}};
}

json to_json(const CpuInventory& cpu) {
  return {{"vendor", cpu.vendor},   {"model", cpu.model_name},
          {"flags", cpu.flags},     {"sockets", cpu.sockets},
          {"cores", cpu.cores},     {"threads", cpu.online},
          {"present", cpu.present}, {"offline", cpu.offline},
          {"smt", cpu.smt},         {"hyper_threading", cpu.hyper_threading()},
          {"uniform", cpu.uniform}};
}

json to_json(const DiskInventory& disk) {
  json partitions = json::array();
  for (const DiskPartitionInventory& p : disk.partitions)
    partitions.push_back({{"name", p.name},
                          {"number", p.number},
                          {"start", p.start},
                          {"size", p.size},
                          {"uuid", p.uuid},
                          {"holders", p.holders}});
  return {{"name", disk.name},
          {"device", disk.device().string()},
          {"size", disk.size},
          {"logical_sector", disk.logical_sector},
          {"physical_sector", disk.physical_sector},
          {"rotational", disk.rotational},
          {"removable", disk.removable},
          {"read_only", disk.read_only},
          {"transport", disk.transport},
          {"driver", disk.driver},
          {"vendor", disk.vendor},
          {"model", disk.model},
          {"serial", disk.serial},
          {"wwid", disk.wwid},
          {"partitions", partitions},
          {"holders", disk.holders},
          {"selected", disk.selected},
          {"reason", disk.reason}};
}

json to_json(const DiskGroup& group) {
  constexpr const char* kinds[] = {"array", "lvm", "multipath", "fake_raid"};
  return {{"kind", kinds[static_cast<int>(group.kind)]},
          {"name", group.name},
          {"level", group.level},
          {"disks", group.disks},
          {"wanted", group.wanted},
          {"missing", group.missing},
          {"complete", group.complete},
          {"problem", group.problem}};
}

json to_json(const NicInventory& nic) {
  return {{"name", nic.name},        {"mac", nic.mac},
          {"driver", nic.driver},    {"permanent_mac", nic.permanent_mac},
          {"pci", nic.pci_address},  {"vendor_id", nic.vendor_id},
          {"master", nic.master},    {"device_id", nic.device_id},
          {"link", nic.link},        {"speed", nic.speed},
          {"wireless", nic.wireless}};
}

json to_json(const NetworkStackInventory& device) {
  constexpr const char* kinds[] = {"bond", "vlan", "bridge", "team"};
  return {{"kind", kinds[static_cast<int>(device.kind)]},
          {"name", device.name},
          {"mode", device.mode},
          {"vlan", device.vlan},
          {"mac", device.mac},
          {"ports", device.ports}};
}

template <class T> json list(const std::vector<T>& items) {
  json array = json::array();
  for (const T& item : items)
    array.push_back(to_json(item));
  return array;
}

} // namespace

json to_json(const Inventory& inventory) {
  constexpr const char* bases[] = {"unknown", "utc", "localtime"};
  json devices = json::array();
  for (const DeviceInventory& d : inventory.devices)
    devices.push_back({{"kind", d.kind}, {"address", d.address}, {"id", d.id}, {"name", d.name}, {"driver", d.driver}});
  return {{"host_name", inventory.host_name},
          {"firmware", to_json(inventory.firmware)},
          {"smbios", smbios_json(inventory)},
          {"memory", to_json(inventory.memory)},
          {"cpu", to_json(inventory.cpu)},
          {"disks", list(inventory.disks)},
          {"groups", list(inventory.groups)},
          {"nics", list(inventory.nics)},
          {"network", list(inventory.network)},
          {"clock",
           {{"basis", bases[static_cast<int>(inventory.clock.basis)]},
            {"evidence", inventory.clock.evidence},
            {"offset_minutes", or_null(inventory.clock.offset_minutes)}}},
          {"tpm", inventory.tpm},
          {"devices", devices},
          {"problems", selection_problems(inventory)},
          {"notes", inventory.notes}};
}

} // namespace kvmport
