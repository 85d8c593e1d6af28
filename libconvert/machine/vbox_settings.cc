// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/vbox_settings.h"

#include "libconvert/machine/text.h"

#include <array>

namespace kvmport {
namespace {

/// Where VirtualBox plugs adapter `slot` on both of its chipsets (enp0s3, enp0s8, … in the guest).
std::string adapter_address(std::uint64_t slot) {
  static constexpr std::array<const char*, 8> devices = {"03", "08", "09", "0a", "10", "11", "12", "13"};
  return slot < devices.size() ? std::string("0000:00:") + devices[slot] + ".0" : "";
}

std::string adapter_network(const XmlElement& adapter) {
  // The mode in use is an element directly below; the others stand in DisabledModes.
  for (const XmlElement* mode : all_children(&adapter)) {
    const std::string_view name = local_name(*mode);
    if (name == "NAT")
      return "NAT";
    if (name == "BridgedInterface" || name == "InternalNetwork" || name == "HostOnlyInterface" ||
        name == "NATNetwork" || name == "HostOnlyNetwork")
      return attribute(mode, "name");
  }
  return "";
}

} // namespace

void read_vbox_platform(const XmlElement& machine_element, Machine& machine) {
  const XmlElement* hardware = child(&machine_element, "Hardware");
  if (const auto uuid = parse_uuid(attribute(&machine_element, "uuid")))
    machine.uuid = *uuid;
  // <Hardware uuid> is what the guest sees in its DMI tables when it differs (clones).
  if (const auto uuid = parse_uuid(attribute(hardware, "uuid")))
    machine.uuid = *uuid;
  if (const std::string os = attribute(&machine_element, "OSType"); !os.empty())
    machine.os_hint = os;
  const XmlElement* firmware = child(hardware, "Firmware");
  if (firmware == nullptr) // settings version 1.19: below Platform or BIOS
    firmware = descend(hardware, {"BIOS", "Firmware"});
  machine.firmware =
      starts_with_nocase(attribute(firmware, "type"), "EFI") ? MachineFirmware::uefi : MachineFirmware::bios;
  for (const XmlElement* nvram :
       {descend(hardware, {"BIOS", "NVRAM"}), child(hardware, "NVRAM"), child(firmware, "NVRAM")})
    for (const XmlElement* secure : {child(nvram, "SecureBoot"), child(hardware, "SecureBoot")})
      if (parse_bool(attribute(secure, "enabled")).value_or(false))
        machine.secure_boot = true;
  for (const XmlElement* tpm :
       {child(hardware, "TrustedPlatformModule"), descend(hardware, {"BIOS", "TrustedPlatformModule"})})
    if (const std::string type = attribute(tpm, "type"); !type.empty() && lower(type) != "none")
      machine.tpm = true;
  if (const XmlElement* rtc = child(hardware, "RTC"))
    machine.rtc_localtime = lower(attribute(rtc, "localOrUTC")) == "local";
  else if (const XmlElement* platform_rtc = descend(&machine_element, {"Platform", "RTC"}))
    machine.rtc_localtime = lower(attribute(platform_rtc, "localOrUTC")) == "local";
  MachineGraphics graphics;
  graphics.video = attribute(child(hardware, "Display"), "controller");
  if (const XmlElement* remote = child(hardware, "RemoteDisplay"))
    graphics.type = parse_bool(attribute(remote, "enabled")).value_or(false) ? "vnc" : "none";
  if (!graphics.type.empty() || !graphics.video.empty())
    machine.graphics = graphics;
}

std::vector<MachineNic> read_vbox_adapters(const XmlElement* hardware) {
  std::vector<MachineNic> nics;
  for (const XmlElement* adapter : children(child(hardware, "Network"), "Adapter")) {
    if (!parse_bool(attribute(adapter, "enabled")).value_or(false))
      continue;
    MachineNic nic;
    nic.mac = parse_mac(attribute(adapter, "MACAddress")).value_or("");
    nic.network = adapter_network(*adapter);
    nic.model = attribute(adapter, "type");
    nic.connected = parse_bool(attribute(adapter, "cable")).value_or(true);
    if (const auto slot = parse_number(attribute(adapter, "slot")))
      nic.pci_address = adapter_address(*slot);
    nics.push_back(nic);
  }
  return nics;
}

} // namespace kvmport
