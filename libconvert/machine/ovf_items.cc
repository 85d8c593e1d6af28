// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/ovf_items.h"

#include "libconvert/machine/limits.h"
#include "libconvert/machine/vmware_pci.h"

#include <algorithm>

namespace kvmport {
namespace {

bool is(const OvfItem& item, ResourceType type) {
  return item.type == static_cast<unsigned>(type);
}

std::string shown(const OvfItem& item) {
  return printable(item.name.empty() ? "item " + item.instance : item.name, 80);
}

OvfItem read_item(const XmlElement& element) {
  OvfItem item;
  item.type = static_cast<unsigned>(
      std::min<std::uint64_t>(parse_number(child_text(&element, "ResourceType")).value_or(0), 65535));
  item.instance = child_text(&element, "InstanceID");
  if (item.instance.empty()) // OVF 0.9
    item.instance = child_text(&element, "InstanceId");
  item.parent = child_text(&element, "Parent");
  item.subtype = lower(child_text(&element, "ResourceSubType"));
  item.name = child_text(&element, "ElementName");
  if (item.name.empty())
    item.name = child_text(&element, "Caption");
  item.address = child_text(&element, "Address");
  item.address_on_parent = child_text(&element, "AddressOnParent");
  item.host_resource = child_text(&element, "HostResource");
  item.quantity = child_text(&element, "VirtualQuantity");
  item.units = child_text(&element, "VirtualQuantityUnits");
  if (item.units.empty())
    item.units = child_text(&element, "AllocationUnits");
  item.connection = child_text(&element, "Connection");
  item.cores_per_socket = child_text(&element, "CoresPerSocket");
  item.connected = parse_bool(child_text(&element, "AutomaticAllocation")).value_or(true);
  for (const XmlElement* e : all_children(&element))
    if (local_name(*e) == "Config")
      item.config[lower(attribute(e, "key"))] = attribute(e, "value");
  return item;
}

bool names_configuration(const std::string& list, const std::string& configuration) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find_first_of(" \t\r\n", at), list.size());
    if (end > at && list.substr(at, end - at) == configuration)
      return true;
    at = end + 1;
  }
  return false;
}

} // namespace

std::vector<OvfItem> read_items(const XmlElement& hardware, const std::string& configuration,
                                std::vector<std::string>& notes) {
  std::vector<OvfItem> items;
  std::map<std::string, std::pair<std::size_t, bool>>
      by_instance; ///< instance → where, and whether configuration-specific
  for (const XmlElement* element : all_children(&hardware)) {
    const std::string_view kind = local_name(*element);
    if (kind != "Item" && kind != "StorageItem" && kind != "EthernetPortItem")
      continue;
    const std::string bound = lower(attribute(element, "bound"));
    if (!bound.empty() && bound != "normal")
      continue;
    const bool specific = has_attribute(element, "configuration");
    if (specific && !names_configuration(attribute(element, "configuration"), configuration))
      continue;
    OvfItem item = read_item(*element);
    if (kind == "EthernetPortItem" && item.type == 0)
      item.type = static_cast<unsigned>(ResourceType::ethernet);
    if (kind == "StorageItem" && item.type == 0)
      item.type = static_cast<unsigned>(ResourceType::disk);
    const auto before = by_instance.find(item.instance);
    if (before == by_instance.end() || item.instance.empty()) {
      by_instance[item.instance] = {items.size(), specific};
      items.push_back(item);
    } else if (specific && !before->second.second) {
      items[before->second.first] = item;
      before->second.second = true;
    } else if (!before->second.second || specific) {
      notes.push_back("two items have the number " + printable(item.instance, 40));
      items.push_back(item);
    }
  }
  return items;
}

void read_processor_and_memory(const std::vector<OvfItem>& items, const std::string& package, Machine& machine) {
  std::uint64_t processors = 0, cores = 1;
  std::optional<std::uint64_t> memory;
  for (const OvfItem& item : items) {
    if (is(item, ResourceType::processor)) {
      const auto quantity = parse_number(item.quantity);
      if (!quantity)
        throw Error("DESCRIPTION_INVALID", package + ": the number of processors is not a number",
                    printable(item.quantity, 80));
      processors += std::min(*quantity, max_cpus + 1);
      if (const auto n = parse_number(item.cores_per_socket))
        cores = *n;
    } else if (is(item, ResourceType::memory)) {
      const auto quantity = parse_number(item.quantity);
      auto unit = item.units.empty() ? std::optional<std::uint64_t>(1) : parse_byte_unit(item.units);
      if (!quantity || !unit)
        throw Error("DESCRIPTION_INVALID", package + ": the amount of memory is not understood",
                    printable(item.quantity + " " + item.units, 80));
      // Bytes is what the standard means without a unit; writers that leave it out mean MiB.
      if (item.units.empty() && *quantity < (1U << 20)) {
        unit = 1U << 20;
        machine.notes.push_back("memory " + std::to_string(*quantity) + " without a unit: taken as MiB");
      }
      const auto bytes = multiplied(*quantity, *unit);
      if (!bytes)
        throw Error("DESCRIPTION_INVALID", package + " gives the machine an impossible amount of memory",
                    printable(item.quantity + " " + item.units, 80));
      memory = std::min(memory.value_or(0), max_memory + 1) + std::min(*bytes, max_memory + 1);
    }
  }
  if (processors == 0) {
    machine.notes.push_back("the number of processors is missing: one is assumed");
    processors = 1;
  }
  machine.cpu = checked_cpu(processors, cores, 1, package, machine.notes);
  machine.memory = checked_memory(memory, package);
}

void read_network_cards(const std::vector<OvfItem>& items, Machine& machine) {
  for (const OvfItem& item : items) {
    if (!is(item, ResourceType::ethernet))
      continue;
    MachineNic nic;
    nic.mac = parse_mac(item.address).value_or("");
    nic.network = item.connection;
    nic.model = item.subtype;
    nic.connected = item.connected;
    if (const auto slot = item.config.find("slotinfo.pcislotnumber"); slot != item.config.end())
      set_vmware_slot(nic, parse_number(slot->second).value_or(0));
    machine.nics.push_back(nic);
  }
}

void read_other_items(const std::vector<OvfItem>& items, Machine& machine) {
  for (const OvfItem& item : items) {
    if (item.subtype.find("vtpm") != std::string::npos || item.subtype == "tpm") {
      machine.tpm = true;
      continue;
    }
    switch (static_cast<ResourceType>(item.type)) {
    case ResourceType::processor:
    case ResourceType::memory:
    case ResourceType::ethernet:
    case ResourceType::disk:
    case ResourceType::ide:
    case ResourceType::scsi:
    case ResourceType::other_storage:
    case ResourceType::usb:
      break;
    case ResourceType::graphics:
      machine.graphics = MachineGraphics{"", item.subtype};
      break;
    case ResourceType::floppy:
      machine.notes.push_back("floppy drive dropped: " + shown(item));
      break;
    case ResourceType::cd:
    case ResourceType::dvd:
      machine.notes.push_back("CD/DVD drive dropped: " + shown(item));
      break;
    default:
      machine.notes.push_back("device dropped: " + shown(item) + " (resource type " + std::to_string(item.type) +
                              (item.subtype.empty() ? "" : ", " + printable(item.subtype, 80)) + ")");
    }
  }
}

} // namespace kvmport
