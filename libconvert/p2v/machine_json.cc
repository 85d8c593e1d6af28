// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/machine_json.h"

#include "libconvert/machine/limits.h"

#include <bit>

namespace kvmport {

using nlohmann::json;

// Words of the enumerations. A word that is not known reads as the first entry, "unknown".
NLOHMANN_JSON_SERIALIZE_ENUM(MachineFirmware, {{MachineFirmware::unknown, "unknown"},
                                               {MachineFirmware::bios, "bios"},
                                               {MachineFirmware::uefi, "uefi"}})
NLOHMANN_JSON_SERIALIZE_ENUM(ControllerType, {{ControllerType::unknown, "unknown"},
                                              {ControllerType::ide, "ide"},
                                              {ControllerType::sata, "sata"},
                                              {ControllerType::scsi, "scsi"},
                                              {ControllerType::nvme, "nvme"},
                                              {ControllerType::virtio_blk, "virtio-blk"},
                                              {ControllerType::virtio_scsi, "virtio-scsi"},
                                              {ControllerType::usb, "usb"},
                                              {ControllerType::xen, "xen"}})

namespace {

[[noreturn]] void reject(const std::string& why) {
  throw Error("PROTOCOL_ERROR", "the description of the machine makes no sense", why);
}

void require(bool condition, const std::string& why) {
  if (!condition)
    reject(why);
}

template <class T> void put(json& j, const char* key, const std::optional<T>& value) {
  if (value)
    j[key] = *value;
}

std::string get_text(const json& j, const char* key) {
  return clean_utf8(j.value(key, std::string()));
}

std::optional<unsigned> get_number(const json& j, const char* key) {
  return j.contains(key) ? std::optional(j.at(key).get<unsigned>()) : std::nullopt;
}

struct SmbiosField {
  const char* key;
  std::string MachineSmbios::*text;
};
constexpr SmbiosField smbios_fields[] = {
    {"manufacturer", &MachineSmbios::manufacturer},
    {"product", &MachineSmbios::product},
    {"version", &MachineSmbios::version},
    {"serial", &MachineSmbios::serial},
    {"sku", &MachineSmbios::sku},
    {"family", &MachineSmbios::family},
    {"board_manufacturer", &MachineSmbios::board_manufacturer},
    {"board_product", &MachineSmbios::board_product},
    {"board_version", &MachineSmbios::board_version},
    {"board_serial", &MachineSmbios::board_serial},
    {"board_asset", &MachineSmbios::board_asset},
    {"chassis_manufacturer", &MachineSmbios::chassis_manufacturer},
    {"chassis_version", &MachineSmbios::chassis_version},
    {"chassis_serial", &MachineSmbios::chassis_serial},
    {"chassis_asset", &MachineSmbios::chassis_asset},
    {"chassis_sku", &MachineSmbios::chassis_sku},
};

json disk_to_json(const MachineDisk& d) {
  json j{{"controller", d.controller},
         {"controller_index", d.controller_index},
         {"unit", d.unit},
         {"capacity", d.capacity},
         {"logical_sector", d.logical_sector},
         {"physical_sector", d.physical_sector},
         {"serial", d.serial},
         {"source_name", d.source_name}};
  put(j, "boot_order", d.boot_order);
  return j;
}

MachineDisk disk_from_json(const json& j) {
  MachineDisk d;
  d.controller = j.at("controller").get<ControllerType>();
  d.controller_index = j.at("controller_index").get<unsigned>();
  d.unit = j.at("unit").get<unsigned>();
  d.capacity = j.at("capacity").get<std::uint64_t>();
  d.logical_sector = j.at("logical_sector").get<std::uint32_t>();
  d.physical_sector = j.at("physical_sector").get<std::uint32_t>();
  d.serial = get_text(j, "serial");
  d.source_name = get_text(j, "source_name");
  d.boot_order = get_number(j, "boot_order");
  for (const std::uint32_t sector : {d.logical_sector, d.physical_sector})
    require(std::has_single_bit(sector) && sector >= 512 && sector <= 1U << 20, "a sector size");
  require(d.source_name.size() <= 64 && d.source_name == printable(d.source_name), "the name of a disk");
  return d;
}

json nic_to_json(const MachineNic& n) {
  json j{{"mac", n.mac},
         {"network", n.network},
         {"model", n.model},
         {"connected", n.connected},
         {"pci_address", n.pci_address}};
  put(j, "boot_order", n.boot_order);
  put(j, "hotplug_slot", n.hotplug_slot);
  return j;
}

MachineNic nic_from_json(const json& j) {
  MachineNic n;
  n.mac = get_text(j, "mac");
  n.network = get_text(j, "network");
  n.model = get_text(j, "model");
  n.connected = j.value("connected", true);
  n.pci_address = get_text(j, "pci_address");
  n.boot_order = get_number(j, "boot_order");
  n.hotplug_slot = get_number(j, "hotplug_slot");
  require(n.mac.empty() || parse_mac(n.mac) == n.mac, "a MAC address");
  return n;
}

} // namespace

json machine_to_json(const Machine& m) {
  json j{
      {"name", m.name},
      {"uuid", m.uuid},
      {"genid", m.genid},
      {"description", m.description},
      {"memory", m.memory},
      {"cpu", {{"sockets", m.cpu.sockets}, {"cores", m.cpu.cores}, {"threads", m.cpu.threads}, {"model", m.cpu.model}}},
      {"firmware", m.firmware},
      {"secure_boot", m.secure_boot},
      {"rtc_localtime", m.rtc_localtime},
      {"tpm", m.tpm},
      {"os_hint", m.os_hint},
      {"source_type", m.source_type},
      {"notes", m.notes},
      {"smbios", json::object()},
      {"disks", json::array()},
      {"nics", json::array()}};
  for (const auto& field : smbios_fields)
    j["smbios"][field.key] = m.smbios.*field.text;
  for (const auto& disk : m.disks)
    j["disks"].push_back(disk_to_json(disk));
  for (const auto& nic : m.nics)
    j["nics"].push_back(nic_to_json(nic));
  return j;
}

Machine machine_from_json(const json& j) {
  try {
    Machine m;
    m.name = get_text(j, "name");
    m.uuid = get_text(j, "uuid");
    m.genid = get_text(j, "genid");
    m.description = get_text(j, "description");
    m.memory = j.at("memory").get<std::uint64_t>();
    const json& cpu = j.at("cpu");
    m.cpu = {cpu.at("sockets").get<unsigned>(), cpu.at("cores").get<unsigned>(), cpu.at("threads").get<unsigned>(),
             get_text(cpu, "model")};
    m.firmware = j.at("firmware").get<MachineFirmware>();
    m.secure_boot = j.value("secure_boot", false);
    m.rtc_localtime = j.value("rtc_localtime", false);
    m.tpm = j.value("tpm", false);
    m.os_hint = get_text(j, "os_hint");
    m.source_type = get_text(j, "source_type");
    for (const auto& note : j.value("notes", std::vector<std::string>()))
      m.notes.push_back(clean_utf8(note));
    for (const auto& field : smbios_fields)
      m.smbios.*field.text = printable(get_text(j.at("smbios"), field.key));
    for (const auto& disk : j.at("disks"))
      m.disks.push_back(disk_from_json(disk));
    for (const auto& nic : j.at("nics"))
      m.nics.push_back(nic_from_json(nic));
    for (const auto* uuid : {&m.uuid, &m.genid})
      require(uuid->empty() || parse_uuid(*uuid) == *uuid, "a UUID");
    require(m.memory <= max_memory, "the size of its memory");
    for (const unsigned n : {m.cpu.sockets, m.cpu.cores, m.cpu.threads})
      require(n != 0 && n <= max_cpus, "its processors");
    require(std::uint64_t{m.cpu.sockets} * m.cpu.cores * m.cpu.threads <= max_cpus, "its processors");
    return m;
  } catch (const json::exception& error) {
    reject(printable(error.what()));
  }
}

} // namespace kvmport
