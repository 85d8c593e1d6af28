// SPDX-License-Identifier: Apache-2.0
// What stays behind: the TPM's secrets, graphics cards, accelerators, adapters for storage networks, USB devices. PCI
// classes: PCI Code and ID Assignment Specification 1.15; USB classes: usb.org, Defined Class Codes.
#include "libconvert/p2v/inventory_parts.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>

namespace kvmport::inventory_parts {
namespace {

struct PciKind {
  std::uint32_t value, mask; ///< of the class's three bytes
  const char* kind;
  const char* note; ///< null: nothing to say
};

constexpr PciKind pci_kinds[] = {
    {0x030200, 0xffff00, "display", "programs that compute on it find none"},
    {0x030000, 0xff0000, "display", nullptr},
    {0x120000, 0xff0000, "accelerator", "programs that compute on it find none"},
    {0x0b4000, 0xffff00, "accelerator", "programs that compute on it find none"},
    {0x100000, 0xff0000, "encryption", "what is encrypted with its keys can't be read without it"},
    {0x0c0400, 0xffff00, "fibre channel", "disks behind it are copied, or must be given to the guest by the host"},
    {0x0c0600, 0xffff00, "infiniband", "give its network to the guest by the host"},
    {0x020700, 0xffff00, "infiniband", "give its network to the guest by the host"},
};

/// Drivers of graphics cards that do more than show a picture.
constexpr std::string_view graphics_drivers[] = {"nvidia", "nouveau", "amdgpu", "radeon", "xe"};

void read_pci(const SysTree& tree, Inventory& inventory) {
  for (const std::string& address : tree.list("/sys/bus/pci/devices")) {
    const std::string at = "/sys/bus/pci/devices/" + address;
    const std::uint64_t class_code = tree.hex(at + "/class").value_or(0);
    const auto* const kind = std::find_if(std::begin(pci_kinds), std::end(pci_kinds),
                                          [&](const PciKind& k) { return (class_code & k.mask) == k.value; });
    if (kind == std::end(pci_kinds))
      continue;
    const std::string id = fmt::format("{:04x}:{:04x}", tree.hex(at + "/vendor").value_or(0) & 0xffff,
                                       tree.hex(at + "/device").value_or(0) & 0xffff);
    const std::string driver = tree.link_name(at + "/driver");
    inventory.devices.push_back({kind->kind, address, id, tree.word(at + "/label"), driver});
    const bool graphics =
        std::find(std::begin(graphics_drivers), std::end(graphics_drivers), driver) != std::end(graphics_drivers);
    const char* note = kind->note == nullptr && graphics ? pci_kinds[0].note : kind->note;
    if (note != nullptr)
      inventory.notes.push_back(fmt::format("the {} device {} ({}) stays behind: {}", kind->kind, id, address, note));
  }
}

/// Vendors of licence keys, whatever class their devices claim.
constexpr std::string_view key_vendors[] = {"0529", "04b9", "064f", "096e", "1bc0"};

/// Classes of the device's interfaces.
std::set<std::uint64_t> usb_classes(const SysTree& tree, const std::string& at, const std::string& name) {
  std::set<std::uint64_t> classes;
  for (const std::string& entry : tree.list(at))
    if (entry.starts_with(name + ":"))
      if (const auto value = tree.hex(at + "/" + entry + "/bInterfaceClass"))
        classes.insert(*value);
  return classes;
}

/// Keyboards and mice, which guests have, and disks, which are listed as disks.
bool is_plain_usb(std::uint64_t interface_class) {
  return interface_class == 0x03 || interface_class == 0x08;
}

void read_usb(const SysTree& tree, Inventory& inventory) {
  constexpr std::uint64_t hub = 0x09;
  for (const std::string& name : tree.list("/sys/bus/usb/devices")) {
    const std::string at = "/sys/bus/usb/devices/" + name, vendor = tree.word(at + "/idVendor");
    if (vendor.empty() || name.starts_with("usb") || tree.hex(at + "/bDeviceClass") == hub)
      continue; // an interface, or a port of the machine itself
    const std::string id = vendor + ":" + tree.word(at + "/idProduct");
    const std::string maker = tree.word(at + "/manufacturer"), product = tree.word(at + "/product");
    const std::string title = maker.empty() || product.empty() ? maker + product : maker + " " + product;
    inventory.devices.push_back({"usb", name, id, title, tree.link_name(at + "/" + name + ":1.0/driver")});
    const auto classes = usb_classes(tree, at, name);
    const bool key = std::find(std::begin(key_vendors), std::end(key_vendors), vendor) != std::end(key_vendors);
    const bool plain = !classes.empty() && std::all_of(classes.begin(), classes.end(), is_plain_usb);
    if (key)
      inventory.notes.push_back(fmt::format("the USB device {} ({}) looks like a licence key: it must be given to the "
                                            "guest by the host",
                                            id, title));
    else if (!plain)
      inventory.notes.push_back(fmt::format("the USB device {} ({}) stays behind", id, title));
  }
}

unsigned tpm_version(const SysTree& tree) {
  const std::string at = "/sys/class/tpm/tpm0";
  if (!tree.exists(at))
    return 0;
  if (const auto version = tree.number(at + "/tpm_version_major"))
    return *version == 2 ? 2 : 1;
  // Before Linux 5.6; "caps" is there for version 1 only.
  return tree.exists(at + "/device/caps") || tree.exists(at + "/caps") ? 1 : 2;
}

} // namespace

void read_devices(const SysTree& tree, Inventory& inventory) {
  inventory.tpm = tpm_version(tree);
  if (inventory.tpm != 0)
    inventory.notes.push_back(
        fmt::format("the TPM (version {}) stays behind with what is sealed to it: have the recovery "
                    "keys of encrypted disks at hand",
                    inventory.tpm));
  read_pci(tree, inventory);
  read_usb(tree, inventory);
}

} // namespace kvmport::inventory_parts
