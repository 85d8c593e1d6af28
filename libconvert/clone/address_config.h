// SPDX-License-Identifier: Apache-2.0
// A guest's static addresses: where its network configuration sets them, and another put in the place of one. One file
// per kind of configuration: ifupdown (interfaces(5)), netplan(5), NetworkManager's keyfiles (nm-settings-keyfile(5)),
// systemd.network(5), ifcfg of Red Hat's initscripts and of SUSE (ifcfg(5)). Inner part of the rule static-address.
// What an edit does not concern stays byte for byte.
#pragma once

#include "libconvert/clone/static_address.h"
#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport::identity {

/// What one file says of one card.
struct CardConfig {
  enum class Kind { ifupdown, netplan, keyfile, networkd, ifcfg_red_hat, ifcfg_suse };
  Kind kind = Kind::ifupdown;
  std::string file;
  std::string name;      ///< of the interface, or a pattern; empty: any
  std::string mac{};     ///< normal form; empty: not bound to one
  std::string key{};     ///< what the file calls it, when that is not the name: netplan's id
  bool software = false; ///< a bridge, bond, VLAN, alias, …
  bool dhcp4 = false, dhcp6 = false;
  std::vector<IpNetwork> addresses{}; ///< static ones; a prefix that is not told is that of one host
  std::vector<IpAddress> gateways{};

  bool dynamic(bool v6) const { return v6 ? dhcp6 : dhcp4; }
  /// It gives the card an address.
  bool live() const { return dhcp4 || dhcp6 || !addresses.empty(); }
};

/// All that the guest's files say.
std::vector<CardConfig> read_card_configs(const GuestInfo& info, const Draft& draft);

/// The card gets the address instead of the first of its family, or instead of DHCP; gateways and name servers that are
/// given replace those that are there. Errors: ADDRESS_NOT_PLACED for a file that can't be edited, those of the guest.
void write_card_address(const CardConfig& card, const StaticAddress& wanted, Draft& draft);

// The kinds: what a text says, and the text with the address in it.
std::vector<CardConfig> read_ifupdown(const std::string& text, const std::string& file);
std::string edit_ifupdown(const std::string& text, const CardConfig& card, const StaticAddress& wanted);
std::vector<CardConfig> read_netplan(const std::string& text, const std::string& file);
std::string edit_netplan(const std::string& text, const CardConfig& card, const StaticAddress& wanted);
std::vector<CardConfig> read_keyfile(const std::string& text, const std::string& file);
std::string edit_keyfile(const std::string& text, const CardConfig& card, const StaticAddress& wanted);
std::vector<CardConfig> read_networkd(const std::string& text, const std::string& file);
std::string edit_networkd(const std::string& text, const CardConfig& card, const StaticAddress& wanted);
std::vector<CardConfig> read_ifcfg(const std::string& text, const std::string& file, bool suse);
std::string edit_ifcfg(const std::string& text, const CardConfig& card, const StaticAddress& wanted);

/// "br0", "eth0.5", "eth0:1": no card of its own.
bool is_software_name(std::string_view name);

} // namespace kvmport::identity
