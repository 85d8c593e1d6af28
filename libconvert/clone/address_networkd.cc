// SPDX-License-Identifier: Apache-2.0
// systemd.network(5): Address=, Gateway=, DNS= and DHCP= in [Network], and Address= in [Address], Gateway= in [Route]
// sections of their own.
#include "libconvert/clone/address_config.h"
#include "libconvert/clone/ini_text.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::identity {
namespace {

using Entry = IniText::Entry;

struct Dhcp {
  bool v4 = false, v6 = false;
};

Dhcp parse_dhcp(const std::string& value) {
  const std::string how = linux_guest::lower(value);
  const bool both =
      how == "yes" || how == "true" || how == "both" || how == "1" || how == "on" || how == "y" || how == "t";
  return {both || how == "ipv4" || how == "v4", both || how == "ipv6" || how == "v6"};
}

std::string dhcp_text(Dhcp how) {
  return how.v4 ? (how.v6 ? "yes" : "ipv4") : (how.v6 ? "ipv6" : "no");
}

std::optional<IpNetwork> address_of(const Entry& entry) {
  if (entry.key != "Address" || (entry.name != "Network" && entry.name != "Address"))
    return std::nullopt;
  if (const auto network = parse_network(entry.value))
    return network;
  const auto ip = parse_ip(entry.value);
  return ip ? std::optional(IpNetwork{*ip, ip->v6 ? 128U : 32U}) : std::nullopt;
}

/// Of [Network], or of a [Route] without a destination or to everywhere.
std::optional<IpAddress> gateway_of(const Entry& entry, const std::vector<Entry>& all) {
  if (entry.key != "Gateway" || (entry.name != "Network" && entry.name != "Route"))
    return std::nullopt;
  for (const Entry& other : all)
    if (other.section == entry.section && other.key == "Destination" && other.value != "0.0.0.0/0" &&
        other.value != "::/0" && !other.value.empty())
      return std::nullopt;
  return parse_ip(entry.value);
}

void edit_family(IniText& ini, const StaticAddress& wanted, bool v6) {
  const IpNetwork& network = *wanted.address(v6);
  auto all = ini.entries();
  const auto address = std::ranges::find_if(all, [&](const Entry& entry) {
    const auto found = address_of(entry);
    return found && found->address.v6 == v6;
  });
  if (address != all.end())
    ini.set(*address, "Address", network.text());
  else
    ini.add("Network", "Address", network.text());
  if (const IpAddress* gateway = wanted.gateway(v6)) {
    all = ini.entries();
    const auto old = std::ranges::find_if(all, [&](const Entry& entry) {
      const auto found = gateway_of(entry, all);
      return found && found->v6 == v6;
    });
    if (old != all.end())
      ini.set(*old, "Gateway", gateway->text());
    else
      ini.add("Network", "Gateway", gateway->text());
  }
  all = ini.entries();
  for (const Entry& entry : all)
    if (entry.name == "Network" && entry.key == "DHCP") {
      Dhcp how = parse_dhcp(entry.value);
      (v6 ? how.v6 : how.v4) = false;
      ini.set(entry, "DHCP", dhcp_text(how));
    }
}

} // namespace

std::vector<CardConfig> read_networkd(const std::string& text, const std::string& file) {
  CardConfig card{.kind = CardConfig::Kind::networkd, .file = file, .name = {}};
  const auto all = IniText(text).entries();
  for (const Entry& entry : all) {
    if (entry.name == "Match" && entry.key == "Name")
      card.name = entry.value;
    if (entry.name == "Match" && (entry.key == "MACAddress" || entry.key == "PermanentMACAddress"))
      card.mac = linux_guest::normal_mac(entry.value);
    if (entry.name == "Network" && entry.key == "DHCP") {
      card.dhcp4 = parse_dhcp(entry.value).v4;
      card.dhcp6 = parse_dhcp(entry.value).v6;
    }
    if (entry.name == "Match" && (entry.key == "Type" || entry.key == "Kind"))
      card.software = entry.value != "ether" && entry.value != "!*";
    if (const auto address = address_of(entry))
      card.addresses.push_back(*address);
    if (const auto gateway = gateway_of(entry, all))
      card.gateways.push_back(*gateway);
  }
  card.software = card.software || is_software_name(card.name);
  return {card};
}

std::string edit_networkd(const std::string& text, const CardConfig&, const StaticAddress& wanted) {
  IniText ini(text);
  for (const IpNetwork& network : wanted.addresses)
    edit_family(ini, wanted, network.address.v6);
  if (!wanted.dns.empty()) {
    std::string servers;
    for (const IpAddress& server : wanted.dns)
      servers += (servers.empty() ? "" : " ") + server.text();
    ini.set("Network", "DNS", servers);
  }
  return ini.text();
}

} // namespace kvmport::identity
