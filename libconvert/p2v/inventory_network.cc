// SPDX-License-Identifier: Apache-2.0
// Documentation/ABI/testing/sysfs-class-net of the kernel.
#include "base/file.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory_parts.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sstream>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace kvmport::inventory_parts {
namespace {

constexpr const char* net = "/sys/class/net/";
constexpr unsigned ethernet = 1; // ARPHRD_ETHER

/// Asks a network driver; false: it doesn't answer.
bool ask_driver(const std::string& name, void* command) {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  if (!fd || name.size() >= sizeof request.ifr_name)
    return false;
  std::memcpy(request.ifr_name, name.c_str(), name.size() + 1);
  request.ifr_data = static_cast<char*>(command);
  return ::ioctl(fd.get(), SIOCETHTOOL, &request) == 0;
}

/// The address in the card's memory, from its driver.
std::string asked_permanent_mac(const std::string& name) {
  constexpr std::size_t longest = 32, octets = 6;
  alignas(ethtool_perm_addr) std::byte buffer[sizeof(ethtool_perm_addr) + longest] = {};
  auto* query = reinterpret_cast<ethtool_perm_addr*>(buffer);
  query->cmd = ETHTOOL_GPERMADDR;
  query->size = longest;
  if (!ask_driver(name, buffer) || query->size != octets)
    return {};
  std::string text;
  for (std::size_t i = 0; i < octets; i++)
    text += fmt::format("{:02x}", std::to_integer<unsigned>(buffer[sizeof(ethtool_perm_addr) + i]));
  return parse_mac(text).value_or(std::string());
}

std::string mac_at(const SysTree& tree, const std::string& path) {
  return parse_mac(tree.word(path)).value_or(std::string());
}

std::string permanent_mac(const SysTree& tree, const std::string& name) {
  std::string mac = tree.live() ? asked_permanent_mac(name) : std::string();
  if (mac.empty())
    mac = mac_at(tree, net + name + "/bonding_slave/perm_hwaddr");
  if (mac.empty() && tree.number(net + name + "/addr_assign_type") == 0) // NET_ADDR_PERM
    mac = mac_at(tree, net + name + "/address");
  return mac;
}

/// The last "0000:03:00.0" in a path of /sys/devices.
std::string pci_address(const std::string& path) {
  std::string found;
  std::istringstream parts(path);
  for (std::string part; std::getline(parts, part, '/');)
    if (part.size() >= 12 && part[4] == ':' && part[7] == ':' && part[10] == '.')
      found = part;
  return found;
}

std::string pci_id(const SysTree& tree, const std::string& address, const char* file) {
  const auto value = tree.hex("/sys/bus/pci/devices/" + address + "/" + file);
  return address.empty() || !value ? std::string() : fmt::format("{:04x}", *value);
}

NicInventory read_nic(const SysTree& tree, const std::string& name) {
  const std::string at = net + name;
  NicInventory nic;
  nic.name = name;
  nic.mac = mac_at(tree, at + "/address");
  nic.permanent_mac = permanent_mac(tree, name);
  nic.driver = tree.link_name(at + "/device/driver");
  nic.pci_address = pci_address(tree.resolved(at + "/device"));
  nic.vendor_id = pci_id(tree, nic.pci_address, "vendor");
  nic.device_id = pci_id(tree, nic.pci_address, "device");
  nic.master = tree.link_name(at + "/master");
  nic.link = tree.number(at + "/carrier") == 1;
  nic.speed = static_cast<unsigned>(std::min<std::uint64_t>(tree.number(at + "/speed").value_or(0), 10'000'000));
  nic.wireless = tree.exists(at + "/wireless") || tree.exists(at + "/phy80211");
  return nic;
}

/// Names N of links "lower_N": what the device is made of.
std::vector<std::string> lower_devices(const SysTree& tree, const std::string& name) {
  std::vector<std::string> ports;
  constexpr std::string_view prefix = "lower_";
  for (const std::string& entry : tree.list(net + name))
    if (entry.starts_with(prefix))
      ports.push_back(entry.substr(prefix.size()));
  return ports;
}

/// The number of a VLAN device: lines "NAME | NUMBER | PARENT" of the kernel's own list.
unsigned vlan_number(const SysTree& tree, const std::string& name) {
  std::istringstream lines(tree.word("/proc/net/vlan/config"));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find('|'), second = line.find('|', first + 1);
    if (first == std::string::npos || second == std::string::npos || trimmed(line.substr(0, first)) != name)
      continue;
    const auto number = parse_number(line.substr(first + 1, second - first - 1));
    return number && *number < 4096 ? static_cast<unsigned>(*number) : 0;
  }
  return 0;
}

/// What the driver of a virtual device calls itself; empty: unknown.
std::string asked_driver(const std::string& name) {
  ethtool_drvinfo info{};
  info.cmd = ETHTOOL_GDRVINFO;
  return ask_driver(name, &info) ? std::string(info.driver, ::strnlen(info.driver, sizeof info.driver)) : std::string();
}

std::optional<NetworkStackInventory> read_stacked(const SysTree& tree, const std::string& name) {
  using Kind = NetworkStackInventory::Kind;
  const std::string at = net + name;
  NetworkStackInventory device;
  device.name = name;
  device.mac = mac_at(tree, at + "/address");
  device.ports = lower_devices(tree, name);
  if (const std::string mode = tree.word(at + "/bonding/mode"); !mode.empty()) {
    device.kind = Kind::bond;
    device.mode = mode.substr(0, mode.find(' ')); // "802.3ad 4"
  } else if (tree.word(at + "/uevent").find("DEVTYPE=vlan") != std::string::npos) {
    device.kind = Kind::vlan;
    device.vlan = vlan_number(tree, name);
  } else if (tree.exists(at + "/bridge")) {
    device.kind = Kind::bridge;
    if (device.ports.empty())
      device.ports = tree.list(at + "/brif");
  } else {
    // A team has no attributes of its own; it is known by its driver or, in a recorded tree, by its ports alone.
    const std::string driver = tree.live() ? asked_driver(name) : device.ports.empty() ? "" : "team";
    const bool plain = tree.word(at + "/uevent").find("DEVTYPE=") == std::string::npos;
    if (driver != "team" || !plain)
      return std::nullopt;
    device.kind = Kind::team;
  }
  return device;
}

} // namespace

void read_network(const SysTree& tree, Inventory& inventory) {
  for (const std::string& name : tree.list("/sys/class/net")) {
    if (tree.number(net + name + "/type") != ethernet)
      continue;
    if (tree.exists(net + name + "/device")) {
      if (!tree.exists(net + name + "/device/physfn")) // no card, but a part of one for guests
        inventory.nics.push_back(read_nic(tree, name));
    } else if (auto device = read_stacked(tree, name)) {
      inventory.network.push_back(std::move(*device));
    }
  }
  std::stable_sort(inventory.nics.begin(), inventory.nics.end(),
                   [](const auto& a, const auto& b) { return a.pci_address < b.pci_address; });
  for (const NicInventory& nic : inventory.nics)
    if (nic.permanent_mac.empty())
      inventory.notes.push_back(
          fmt::format("{}: the permanent MAC address can't be read, the present one is taken", nic.name));
    else if (nic.permanent_mac != nic.mac)
      inventory.notes.push_back(fmt::format("{}: its MAC address is {} now; the guest gets the permanent one, {}",
                                            nic.name, nic.mac, nic.permanent_mac));
}

} // namespace kvmport::inventory_parts
