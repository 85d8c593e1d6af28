// SPDX-License-Identifier: Apache-2.0
// What a guest's network configuration says about its cards: which interface names it relies on, and what ties a name
// to a card. Reads ifupdown, netplan, NetworkManager, systemd-networkd, ifcfg (initscripts, wicked), dhcpcd, netctl,
// udev rules and .link files.
#pragma once

#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <map>
#include <set>
#include <string>
#include <vector>

namespace kvmport::linux_guest {

/// One line of a udev rules file that names a network card.
struct NetRule {
  std::string file;
  std::size_t line = 0; ///< from 1
  std::string name, mac;
  bool bound_to_hardware = false; ///< matches a bus address or driver of the old hardware
};

struct NetworkConfig {
  /// Interface names of real cards that configuration relies on → the first file that does.
  std::map<std::string, std::string> names;
  /// Name of the card with this MAC, as configuration says it.
  std::map<std::string, std::string> name_of_mac;
  /// MAC addresses that configuration (not udev's own rules) is limited to → file.
  std::map<std::string, std::string> files_of_macs;
  /// MACs whose names the guest restores by itself on any hardware (clean udev rule, .link, netplan set-name).
  std::set<std::string> settled;
  /// Patterns ("en*") that configuration matches names with → file.
  std::map<std::string, std::string> patterns;
  std::vector<NetRule> rules;
  /// Files of systemd-networkd (.network, .link) with Path= or Driver= in [Match].
  std::vector<std::string> hardware_matches;
  /// Things that can't be carried over and why, for warnings.
  std::vector<std::string> troubles;
};

NetworkConfig read_network_config(const Draft& draft);

/// "AA-BB-…" or "aa:bb:…" as "aa:bb:cc:dd:ee:ff"; empty when it is no MAC address.
std::string normal_mac(std::string_view text);

/// Sections of an INI-like file: section → key → values in order.
using IniFile = std::map<std::string, std::map<std::string, std::vector<std::string>>>;
IniFile parse_ini(std::string_view text);

} // namespace kvmport::linux_guest
