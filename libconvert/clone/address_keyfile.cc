// SPDX-License-Identifier: Apache-2.0
// NetworkManager's keyfiles (nm-settings-keyfile(5)): [ipv4] and [ipv6] with method, address1=A/24[,GATEWAY], gateway
// and dns. Before NetworkManager 0.9.10 it was addresses1=A;24;GATEWAY;.
#include "libconvert/clone/address_config.h"
#include "libconvert/clone/ini_text.h"
#include "libconvert/guest/linux/network_config.h"

#include <algorithm>
#include <map>

namespace kvmport::identity {
namespace {

const char* section_of(bool v6) {
  return v6 ? "ipv6" : "ipv4";
}

/// "address", "addresses", "address1", "addresses2".
bool is_address_key(std::string_view key) {
  const std::size_t digits = key.find_last_not_of("0123456789");
  const std::string_view word = key.substr(0, digits == std::string_view::npos ? 0 : digits + 1);
  return word == "address" || word == "addresses";
}

std::vector<std::string> parts_of(std::string_view value) {
  std::vector<std::string> parts;
  while (!value.empty()) {
    const std::size_t end = std::min(value.find_first_of(",;"), value.size());
    parts.emplace_back(value.substr(0, end));
    value.remove_prefix(std::min(end + 1, value.size()));
  }
  return parts;
}

struct Address {
  std::optional<IpNetwork> network;
  std::string gateway; ///< as written; empty: none
};

Address parse_address(const std::string& value) {
  auto parts = parts_of(value);
  if (parts.empty())
    return {};
  std::string network = parts[0];
  std::size_t next = 1;
  if (network.find('/') == std::string::npos && parts.size() > 1)
    network += "/" + parts[next++];
  Address address{parse_network(network), {}};
  if (next < parts.size())
    if (const auto ip = parse_ip(parts[next]); ip && ip->text() != "0.0.0.0" && ip->text() != "::")
      address.gateway = ip->text();
  return address;
}

void read_family(const IniText& ini, bool v6, bool port, CardConfig& card) {
  std::map<std::string, std::string> values;
  for (const auto& entry : ini.entries()) {
    if (entry.name != section_of(v6))
      continue;
    values[entry.key] = entry.value;
    if (!is_address_key(entry.key))
      continue;
    const Address address = parse_address(entry.value);
    if (address.network)
      card.addresses.push_back(*address.network);
    if (const auto gateway = parse_ip(address.gateway))
      card.gateways.push_back(*gateway);
  }
  if (const auto gateway = parse_ip(values["gateway"]))
    card.gateways.push_back(*gateway);
  const std::string& method = values["method"];
  (v6 ? card.dhcp6 : card.dhcp4) = method == "auto" || method == "dhcp" || (method.empty() && !port);
}

void edit_family(IniText& ini, const StaticAddress& wanted, bool v6) {
  const IpNetwork& network = *wanted.address(v6);
  const std::string section = section_of(v6);
  const auto entries = ini.entries();
  const auto mine = [&](const auto& entry) { return entry.name == section; };
  const bool own_gateway =
      std::ranges::any_of(entries, [&](const auto& entry) { return mine(entry) && entry.key == "gateway"; });
  const auto first =
      std::ranges::find_if(entries, [&](const auto& entry) { return mine(entry) && is_address_key(entry.key); });
  std::string gateway = first != entries.end() ? parse_address(first->value).gateway : std::string();
  if (const IpAddress* given = wanted.gateway(v6))
    gateway = own_gateway ? std::string() : given->text();
  const std::string value = network.text() + (gateway.empty() ? "" : "," + gateway);
  if (first != entries.end()) {
    const bool legacy = first->key.starts_with("addresses");
    ini.set(*first, legacy ? "address" + first->key.substr(9) : first->key, value);
  } else {
    ini.add(section, "address1", value);
  }
  if (const IpAddress* given = wanted.gateway(v6); given != nullptr && own_gateway)
    ini.set(section, "gateway", given->text());
  ini.set(section, "method", "manual");
  std::string servers;
  for (const IpAddress& server : wanted.dns)
    if (server.v6 == v6)
      servers += server.text() + ";";
  if (!servers.empty())
    ini.set(section, "dns", servers);
}

} // namespace

std::vector<CardConfig> read_keyfile(const std::string& text, const std::string& file) {
  const auto parsed = linux_guest::parse_ini(text);
  const auto value = [&](const char* section, const char* key) {
    const auto s = parsed.find(section);
    if (s == parsed.end() || !s->second.contains(key))
      return std::string();
    return s->second.at(key).front();
  };
  if (!parsed.contains("connection"))
    return {};
  CardConfig card{.kind = CardConfig::Kind::keyfile, .file = file, .name = value("connection", "interface-name")};
  const std::string type = value("connection", "type");
  card.software = type != "ethernet" && type != "802-3-ethernet";
  for (const char* section : {"ethernet", "802-3-ethernet"})
    if (card.mac.empty())
      card.mac = linux_guest::normal_mac(value(section, "mac-address"));
  const bool port = !value("connection", "master").empty() || !value("connection", "controller").empty();
  const IniText ini(text);
  read_family(ini, false, port, card);
  read_family(ini, true, port, card);
  return {card};
}

std::string edit_keyfile(const std::string& text, const CardConfig&, const StaticAddress& wanted) {
  IniText ini(text);
  for (const IpNetwork& network : wanted.addresses)
    edit_family(ini, wanted, network.address.v6);
  return ini.text();
}

} // namespace kvmport::identity
