// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/ovf_envelope.h"

#include "libconvert/machine/limits.h"
#include "libconvert/machine/ovf_items.h"
#include "libconvert/machine/vbox_settings.h"

#include <algorithm>
#include <set>

namespace kvmport {
namespace {

std::string list_names(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names)
    text += (text.empty() ? "" : ", ") + printable(name, 80);
  return text;
}

void collect_systems(const XmlElement* from, std::vector<const XmlElement*>& systems) {
  for (const XmlElement* e : all_children(from)) {
    if (local_name(*e) == "VirtualSystem" || local_name(*e) == "Content") // OVF 0.9: Content
      systems.push_back(e);
    else if (local_name(*e) == "VirtualSystemCollection")
      collect_systems(e, systems);
  }
}

std::string system_name(const XmlElement& system) {
  const std::string name = child_text(&system, "Name");
  return name.empty() ? attribute(&system, "id") : name;
}

const XmlElement& choose_system(const XmlElement& envelope, const std::string& package, const std::string& select) {
  std::vector<const XmlElement*> systems;
  collect_systems(&envelope, systems);
  if (systems.empty())
    throw Error("DESCRIPTION_INVALID", package + " describes no machine", "there is no VirtualSystem");
  std::vector<std::string> names;
  for (const XmlElement* system : systems) {
    if (!select.empty() && (system_name(*system) == select || attribute(system, "id") == select))
      return *system;
    names.push_back(system_name(*system));
  }
  if (!select.empty())
    throw Error("MACHINE_NOT_FOUND", package + " has no machine " + printable(select), "it has: " + list_names(names));
  if (systems.size() > 1)
    throw Error("MACHINE_AMBIGUOUS", package + " describes several machines", list_names(names),
                "choose one of them with --select");
  return *systems.front();
}

/// The configuration (DSP0243, 9.8) that counts: the one marked as default, else the first.
std::string choose_configuration(const XmlElement& envelope, std::vector<std::string>& notes) {
  const auto all = children(child(&envelope, "DeploymentOptionSection"), "Configuration");
  if (all.empty())
    return "";
  const XmlElement* chosen = all.front();
  std::vector<std::string> others;
  for (const XmlElement* c : all)
    if (parse_bool(attribute(c, "default")).value_or(false))
      chosen = c;
  for (const XmlElement* c : all)
    if (c != chosen)
      others.push_back(attribute(c, "id"));
  if (!others.empty())
    notes.push_back("configuration " + printable(attribute(chosen, "id"), 80) + " was taken; there is also " +
                    list_names(others));
  return attribute(chosen, "id");
}

/// vmw:Config and vmw:ExtraConfig pairs directly below `element`.
std::map<std::string, std::string> vmware_config(const XmlElement* element) {
  std::map<std::string, std::string> config;
  for (const XmlElement* e : all_children(element))
    if (local_name(*e) == "Config" || local_name(*e) == "ExtraConfig")
      config[lower(attribute(e, "key"))] = attribute(e, "value");
  return config;
}

void read_vmware(const XmlElement* hardware, Machine& machine) {
  const auto config = vmware_config(hardware);
  const auto value = [&](const char* key) {
    const auto found = config.find(key);
    return found == config.end() ? std::string() : found->second;
  };
  if (const std::string firmware = lower(value("firmware")); firmware == "efi")
    machine.firmware = MachineFirmware::uefi;
  else if (firmware == "bios")
    machine.firmware = MachineFirmware::bios;
  else if (!firmware.empty())
    machine.notes.push_back("firmware " + printable(firmware, 40) + " is not known");
  for (const char* key : {"bootoptions.efisecurebootenabled", "uefi.secureboot.enabled"})
    if (parse_bool(value(key)).value_or(false))
      machine.secure_boot = true;
  if (const std::string difference = value("rtc.difffromutc"); !difference.empty() && difference != "0")
    machine.rtc_localtime = true;
  if (const std::string nvram = value("nvram"); !nvram.empty())
    machine.notes.push_back("VMware's UEFI variables (" + printable(nvram, 80) + ") are not carried over");
}

void read_virtualbox(const XmlElement& vbox, Machine& machine) {
  machine.source_type = "ovf";
  const std::string os = machine.os_hint;
  read_vbox_platform(vbox, machine);
  if (machine.os_hint.empty())
    machine.os_hint = os;
  // The items name the cards; MAC addresses and slots stand only here.
  const std::vector<MachineNic> adapters = read_vbox_adapters(child(&vbox, "Hardware"));
  if (adapters.size() != machine.nics.size())
    return;
  for (std::size_t i = 0; i < adapters.size(); i++) {
    if (machine.nics[i].mac.empty())
      machine.nics[i].mac = adapters[i].mac;
    machine.nics[i].pci_address = adapters[i].pci_address;
    machine.nics[i].connected = adapters[i].connected;
  }
}

} // namespace

Machine read_envelope(const tinyxml2::XMLDocument& document, const std::string& name, const FindFile& find,
                      const ReadOptions& options) {
  const XmlElement* envelope = document.RootElement();
  if (local_name(*envelope) != "Envelope")
    throw Error("DESCRIPTION_INVALID", name + " is not an OVF description",
                "its root element is " + printable(envelope->Name(), 80));
  const XmlElement& system = choose_system(*envelope, name, options.select);
  Machine machine;
  machine.source_type = "ovf";
  machine.name = system_name(system);
  const std::string configuration = choose_configuration(*envelope, machine.notes);

  auto sections = children(&system, "VirtualHardwareSection");
  if (sections.empty()) // OVF 0.9: <Section xsi:type="ovf:VirtualHardwareSection_Type">
    for (const XmlElement* section : children(&system, "Section"))
      if (attribute(section, "type").find("VirtualHardwareSection") != std::string::npos)
        sections.push_back(section);
  if (sections.empty())
    throw Error("DESCRIPTION_INVALID", name + " does not describe the machine's hardware",
                "there is no VirtualHardwareSection");
  if (sections.size() > 1)
    machine.notes.push_back("several hardware descriptions: the first one was taken");
  const XmlElement* hardware = sections.front();

  const XmlElement* os = child(&system, "OperatingSystemSection");
  machine.os_hint = attribute(os, "osType");
  if (machine.os_hint.empty())
    machine.os_hint = child_text(os, "OSType");
  if (machine.os_hint.empty())
    machine.os_hint = child_text(os, "Description");
  machine.description = child_text(child(&system, "AnnotationSection"), "Annotation");
  if (machine.name.empty())
    machine.name = descend(hardware, {"System"}) != nullptr
                       ? child_text(child(hardware, "System"), "VirtualSystemIdentifier")
                       : "";

  const auto items = read_items(*hardware, configuration, machine.notes);
  read_processor_and_memory(items, name, machine);
  read_network_cards(items, machine);
  read_disks(items, *envelope, name, find, machine);
  read_other_items(items, machine);
  read_vmware(hardware, machine);
  if (const XmlElement* vbox = child(&system, "Machine"))
    read_virtualbox(*vbox, machine);
  else if (machine.firmware == MachineFirmware::unknown)
    machine.firmware = MachineFirmware::bios; // what VMware means when it says nothing
  sort_disks(machine);
  name_source_disks(machine);
  return machine;
}

} // namespace kvmport
