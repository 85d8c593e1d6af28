// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/libvirt_devices.h"

#include "libconvert/machine/limits.h"
#include "libconvert/machine/paths.h"

#include <algorithm>
#include <cstdio>
#include <set>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// "sdc" → 2; the place that libvirt gives a disk without an address.
unsigned device_number(const std::string& device) {
  std::uint64_t number = 0;
  const std::size_t prefix = device.rfind("xvd", 0) == 0 || device.rfind("ubd", 0) == 0 ? 3 : 2;
  for (std::size_t i = prefix; i < device.size() && device[i] >= 'a' && device[i] <= 'z' && number < 60000; i++)
    number = number * 26 + static_cast<std::uint64_t>(device[i] - 'a') + 1;
  return static_cast<unsigned>(number == 0 ? 0 : number - 1);
}

std::string bus_of(const XmlElement* target) {
  const std::string bus = attribute(target, "bus"), device = attribute(target, "dev");
  if (!bus.empty())
    return bus;
  static constexpr std::pair<const char*, const char*> prefixes[] = {{"hd", "ide"},  {"sd", "scsi"}, {"vd", "virtio"},
                                                                     {"xvd", "xen"}, {"ubd", "uml"}, {"fd", "fdc"}};
  for (const auto& [prefix, name] : prefixes)
    if (device.rfind(prefix, 0) == 0)
      return name;
  return "";
}

std::uint64_t address_number(const XmlElement* address, const char* name) {
  return std::min<std::uint64_t>(parse_number(attribute(address, name)).value_or(0), 65535);
}

ControllerType controller_type(const XmlElement& devices, const std::string& bus, std::uint64_t index) {
  if (bus == "ide")
    return ControllerType::ide;
  if (bus == "sata")
    return ControllerType::sata;
  if (bus == "virtio")
    return ControllerType::virtio_blk;
  if (bus == "usb")
    return ControllerType::usb;
  if (bus == "xen")
    return ControllerType::xen;
  if (bus == "nvme")
    return ControllerType::nvme;
  if (bus != "scsi")
    return ControllerType::unknown;
  for (const XmlElement* controller : children(&devices, "controller"))
    if (attribute(controller, "type") == "scsi" && address_number(controller, "index") == index &&
        attribute(controller, "model").rfind("virtio", 0) == 0)
      return ControllerType::virtio_scsi;
  return ControllerType::scsi;
}

void set_place(const XmlElement& devices, const XmlElement& element, MachineDisk& disk) {
  const XmlElement* target = child(&element, "target");
  const XmlElement* address = child(&element, "address");
  const std::string bus = bus_of(target);
  if (attribute(address, "type") == "drive") {
    const auto controller = address_number(address, "controller");
    disk.controller = controller_type(devices, bus, controller);
    disk.controller_index = static_cast<unsigned>(controller);
    const auto unit = address_number(address, "unit");
    disk.unit = static_cast<unsigned>(disk.controller == ControllerType::ide
                                          ? address_number(address, "bus") * 2 + unit
                                          : std::max(address_number(address, "target"), unit));
  } else {
    disk.controller = controller_type(devices, bus, 0);
    disk.unit = device_number(attribute(target, "dev"));
  }
}

std::uint32_t sector_size(const XmlElement* blockio, const char* name) {
  const auto size = parse_number(attribute(blockio, name)).value_or(512);
  return size == 4096 ? 4096 : 512;
}

/// Path of the disk's source as written; refuses sources that are no local file.
std::string source_path(const XmlElement& element, const std::string& what) {
  const std::string type = attribute(&element, "type");
  const XmlElement* source = child(&element, "source");
  if (type.empty() || type == "file")
    return attribute(source, "file");
  if (type == "block")
    return attribute(source, "dev");
  throw Error("DESCRIPTION_UNSUPPORTED", what + " is not a local file or block device",
              "disk type " + printable(type, 40) + " " +
                  printable(attribute(source, "name") + attribute(source, "volume"), 80),
              "copy the disk to a local file and name it with --disk TARGET=FILE");
}

void read_disk(const fs::path& path, const XmlElement& devices, const XmlElement& element, const ReadOptions& options,
               Machine& machine) {
  const std::string device = attribute(&element, "device"), dev = attribute(child(&element, "target"), "dev");
  const std::string what = "disk " + printable(dev, 40);
  if (device == "cdrom" || device == "floppy") {
    machine.notes.push_back((device == "cdrom" ? "CD/DVD drive dropped: " : "floppy drive dropped: ") +
                            printable(dev, 40));
    return;
  }
  if (machine.disks.size() >= max_disks)
    throw Error("DESCRIPTION_INVALID", path.string() + " describes too many disks");
  MachineDisk disk;
  if (const auto named = options.disk_paths.find(dev); named != options.disk_paths.end())
    disk.path = resolve_file(path, dev, what, options, machine.notes);
  else
    disk.path = resolve_file(path, source_path(element, what), what, options, machine.notes);
  disk.format = attribute(child(&element, "driver"), "type");
  if (disk.format == "aio")
    disk.format = "raw";
  if (disk.format == "vpc")
    disk.format = "vhd";
  if (disk.format.empty() && lower(disk.path.extension().string()) != ".vmdk") {
    // What libvirt does, so that a guest can't make its disk look like something else.
    disk.format = "raw";
    machine.notes.push_back(what + " has no format: raw is taken");
  }
  set_place(devices, element, disk);
  disk.serial = child_text(&element, "serial");
  if (const auto order = parse_number(attribute(child(&element, "boot"), "order"));
      order && *order > 0 && *order < 10000)
    disk.boot_order = static_cast<unsigned>(*order);
  const XmlElement* blockio = child(&element, "blockio");
  disk.logical_sector = sector_size(blockio, "logical_block_size");
  disk.physical_sector = std::max(sector_size(blockio, "physical_block_size"), disk.logical_sector);
  if (child(&element, "transient") != nullptr)
    machine.notes.push_back(what + " is transient: what the machine wrote since it was started is not in it");
  for (const char* flag : {"shareable", "readonly", "iotune", "throttlefilters", "wwn", "mirror"})
    if (child(&element, flag) != nullptr)
      machine.notes.push_back(what + ": <" + flag + "> dropped");
  machine.disks.push_back(disk);
}

/// The first of these attributes that <source> has.
std::string network_of(const XmlElement* source) {
  for (const char* name : {"network", "bridge", "dev", "portgroup", "path", "name"})
    if (const std::string value = attribute(source, name); !value.empty())
      return value;
  return "";
}

std::optional<std::uint64_t> hex_number(const std::string& text) {
  std::uint64_t value = 0;
  if (text.rfind("0x", 0) != 0)
    return parse_number(text);
  if (text.size() > 10)
    return std::nullopt;
  for (char c : lower(text.substr(2))) {
    const char* digits = "0123456789abcdef";
    const char* at = std::find(digits, digits + 16, c);
    if (at == digits + 16)
      return std::nullopt;
    value = value * 16 + static_cast<std::uint64_t>(at - digits);
  }
  return value;
}

void set_address(const XmlElement* address, bool i440fx, MachineNic& nic) {
  if (attribute(address, "type") != "pci")
    return;
  const auto domain = hex_number(attribute(address, "domain")), bus = hex_number(attribute(address, "bus")),
             slot = hex_number(attribute(address, "slot")), function = hex_number(attribute(address, "function"));
  if (!slot || *slot > 31 || bus.value_or(0) > 255 || domain.value_or(0) > 0xFFFF || function.value_or(0) > 7)
    return;
  char text[24];
  std::snprintf(text, sizeof text, "%04x:%02x:%02x.%x", static_cast<unsigned>(domain.value_or(0)),
                static_cast<unsigned>(bus.value_or(0)), static_cast<unsigned>(*slot),
                static_cast<unsigned>(function.value_or(0)));
  nic.pci_address = text;
  if (i440fx && bus.value_or(0) == 0) // QEMU's ACPI tables number the slots of i440fx for hotplug
    nic.hotplug_slot = static_cast<unsigned>(*slot);
}

void read_interface(const XmlElement& element, bool i440fx, Machine& machine) {
  MachineNic nic;
  nic.mac = parse_mac(attribute(child(&element, "mac"), "address")).value_or("");
  nic.network = network_of(child(&element, "source"));
  nic.model = attribute(child(&element, "model"), "type");
  nic.connected = attribute(child(&element, "link"), "state") != "down";
  if (const auto order = parse_number(attribute(child(&element, "boot"), "order"));
      order && *order > 0 && *order < 10000)
    nic.boot_order = static_cast<unsigned>(*order);
  set_address(child(&element, "address"), i440fx, nic);
  machine.nics.push_back(nic);
}

/// <os><boot dev='network'/><boot dev='hd'/></os>: kinds in order, when no device has an order of its own.
void apply_boot_kinds(const XmlElement* os, Machine& machine) {
  const bool own =
      std::any_of(machine.disks.begin(), machine.disks.end(), [](const auto& d) { return d.boot_order.has_value(); }) ||
      std::any_of(machine.nics.begin(), machine.nics.end(), [](const auto& n) { return n.boot_order.has_value(); });
  unsigned next = 1;
  for (const XmlElement* boot : children(os, "boot")) {
    if (own)
      return;
    if (attribute(boot, "dev") == "hd" && !machine.disks.empty() && !machine.disks.front().boot_order)
      machine.disks.front().boot_order = next++;
    if (attribute(boot, "dev") == "network" && !machine.nics.empty() && !machine.nics.front().boot_order)
      machine.nics.front().boot_order = next++;
  }
}

} // namespace

void read_libvirt_devices(const fs::path& path, const XmlElement& domain, const ReadOptions& options,
                          Machine& machine) {
  // What every machine has on KVM anyway, or what means nothing to the guest.
  static const std::set<std::string_view> silent = {"emulator",   "controller", "console", "serial", "channel", "input",
                                                    "memballoon", "rng",        "panic",   "audio",  "hub"};
  const XmlElement* devices = child(&domain, "devices");
  const std::string type = attribute(descend(&domain, {"os", "type"}), "machine");
  const bool i440fx =
      type == "pc" || type.rfind("pc-i440fx", 0) == 0 || type.rfind("pc-1.", 0) == 0 || type.rfind("pc-0.", 0) == 0;
  for (const XmlElement* element : all_children(devices)) {
    const std::string_view name = local_name(*element);
    if (name == "disk") {
      read_disk(path, *devices, *element, options, machine);
    } else if (name == "interface") {
      read_interface(*element, i440fx, machine);
    } else if (name == "tpm") {
      machine.tpm = true;
      if (attribute(child(element, "backend"), "type") == "passthrough")
        machine.notes.push_back("the machine used the TPM of its host: it gets an emulated one");
    } else if (name == "graphics" || name == "video") {
      if (!machine.graphics)
        machine.graphics.emplace();
      std::string& field = name == "graphics" ? machine.graphics->type : machine.graphics->video;
      if (field.empty())
        field = name == "graphics" ? attribute(element, "type") : attribute(child(element, "model"), "type");
    } else if (!silent.contains(name)) {
      const std::string detail = attribute(element, "type") + attribute(element, "model");
      machine.notes.push_back("device dropped: " + printable(name, 40) +
                              (detail.empty() ? "" : " (" + printable(detail, 40) + ")"));
    }
  }
  sort_disks(machine);
  apply_boot_kinds(child(&domain, "os"), machine);
}

} // namespace kvmport
