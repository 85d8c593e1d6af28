// SPDX-License-Identifier: Apache-2.0
// Static IP addresses: the clone's own instead of the original's when one is given, else a warning for each, since two
// machines with one address take each other's connections. The address goes where the guest sets up its first network
// card; a card that uses DHCP becomes static then.
#include "base/error.h"
#include "libconvert/clone/address_config.h"
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>

namespace kvmport::identity {
namespace {

using linux_guest::edit_lines;
using linux_guest::natural_less;
using linux_guest::normal_mac;
using linux_guest::split_words;
using linux_guest::trim;

constexpr const char* rule_name = "static-address";
constexpr const char* reason = "the clone has an address of its own";
constexpr std::size_t most_config = 64U << 10;
constexpr const char* suse_directory = "/etc/sysconfig/network/";

/// Kept beside the real files by people and package managers; nothing reads them.
bool is_left_over(const std::string& path) {
  return path.ends_with('~') || path.ends_with(".bak") || path.ends_with(".orig") || path.ends_with(".rpmsave") ||
         path.ends_with(".rpmnew") || path.find(".dpkg-") != std::string::npos ||
         path.ends_with(linux_guest::aside_suffix);
}

std::string addresses_of(const CardConfig& card) {
  return card.name.empty() ? "its cards" : card.name;
}

/// A place of the configuration that belongs to this card or, when several are left, the first by name.
std::vector<CardConfig> choose(const std::vector<CardConfig>& all, const CloneIdentity& identity, Draft& draft) {
  std::vector<CardConfig> live, of_card;
  std::ranges::copy_if(all, std::back_inserter(live), &CardConfig::live);
  const auto names = linux_guest::read_network_config(draft).name_of_mac;
  std::set<std::string> first, others; // addresses of the first card, and of the others
  for (const auto& [before, after] : identity.macs) {
    auto& macs = first.empty() ? first : others;
    macs.insert({normal_mac(before), normal_mac(after)});
  }
  const auto mac_of = [&](const CardConfig& card) {
    for (const auto& [mac, name] : names)
      if (card.mac.empty() && name == card.name)
        return mac;
    return card.mac;
  };
  for (const CardConfig& card : live)
    if (!card.software && first.contains(mac_of(card)))
      of_card.push_back(card);
  if (!of_card.empty())
    return of_card;
  std::erase_if(live, [&](const CardConfig& card) { return others.contains(mac_of(card)); });
  const bool any_card = std::ranges::any_of(live, [](const CardConfig& card) { return !card.software; });
  std::erase_if(live, [&](const CardConfig& card) { return any_card && card.software; });
  std::vector<std::string> known;
  for (const CardConfig& card : live)
    if (std::ranges::find(known, card.name) == known.end())
      known.push_back(card.name);
  std::ranges::sort(known, natural_less);
  if (known.empty() || (!any_card && known.size() > 1))
    return {};
  std::erase_if(live, [&](const CardConfig& card) { return card.name != known.front(); });
  if (identity.macs.size() > 1 && known.front().find_first_of("*?[! ") != std::string::npos)
    throw Error("ADDRESS_NOT_PLACED", live.front().file + " configures several network cards at once",
                "an address there would be that of all of them", "give the first card a configuration of its own");
  if (known.size() > 1)
    draft.warn("which network card is the first isn't written anywhere: the address was given to " + known.front() +
               ", the first by name (" + live.front().file + ")");
  return live;
}

/// Gateways that stay must be reachable from the new address.
void check_kept_gateways(const CardConfig& card, const StaticAddress& wanted) {
  for (const IpAddress& gateway : card.gateways) {
    const IpNetwork* network = wanted.address(gateway.v6);
    const bool was_inside = std::ranges::any_of(card.addresses, [&](const auto& old) { return old.contains(gateway); });
    if (network != nullptr && wanted.gateway(gateway.v6) == nullptr && was_inside && !network->contains(gateway))
      throw Error("ADDRESS_INVALID",
                  "the guest's gateway " + gateway.text() + " (" + card.file + ") lies outside of " + network->text(),
                  {}, "give the gateway of that network too");
  }
}

void tell_of_dhcp(const CardConfig& card, const StaticAddress& wanted, Draft& draft) {
  for (const IpNetwork& network : wanted.addresses) {
    const bool v6 = network.address.v6;
    if (!card.dynamic(v6))
      continue;
    draft.note(fmt::format("{}: {} asked a server for its address; now it has {} and no other", card.file,
                           addresses_of(card), network.text()));
    const bool kept = std::ranges::any_of(card.gateways, [&](const IpAddress& old) { return old.v6 == v6; });
    if (wanted.gateway(v6) == nullptr && !kept)
      draft.warn(
          fmt::format("{} reaches its own network only: no gateway was given for {}, which asked a server before",
                      network.text(), addresses_of(card)));
    if (wanted.dns.empty())
      draft.warn(card.file + ": no name servers were given, and the server that told them is not asked any more");
  }
}

/// SUSE: the default route and the name servers stand in files of their own.
void write_suse(const CardConfig& card, const StaticAddress& wanted, Draft& draft) {
  for (const IpAddress& gateway : wanted.gateways) {
    const std::string own = std::string(suse_directory) + "ifroute-" + card.name,
                      common = std::string(suse_directory) + "routes";
    const std::string path = draft.exists(own) ? own : common;
    bool there = false;
    std::string text = edit_lines(read_config(draft, path).value_or(""), [&](std::string& line, std::size_t) {
      const auto words = split_words(line);
      if (words.size() < 2 || words[0].text != "default")
        return true;
      if (const auto old = parse_ip(words[1].text); old && old->v6 == gateway.v6) {
        line.replace(words[1].at, words[1].text.size(), gateway.text());
        there = true;
      }
      return true;
    });
    if (!there)
      text += "default " + gateway.text() + " - -\n";
    draft.write(path, text, reason);
  }
  std::string servers;
  for (const IpAddress& server : wanted.dns)
    servers += (servers.empty() ? "" : " ") + server.text();
  const std::string config = std::string(suse_directory) + "config";
  if (servers.empty())
    return;
  bool there = false;
  std::string text = edit_lines(read_config(draft, config).value_or(""), [&](std::string& line, std::size_t) {
    if (line.starts_with("NETCONFIG_DNS_STATIC_SERVERS=")) {
      line = "NETCONFIG_DNS_STATIC_SERVERS=\"" + servers + "\"";
      there = true;
    }
    return true;
  });
  draft.write(config, there ? text : text + "NETCONFIG_DNS_STATIC_SERVERS=\"" + servers + "\"\n", reason);
}

/// ifupdown gives name servers to resolvconf; without that they are what the file says.
void write_resolv_conf(const StaticAddress& wanted, Draft& draft) {
  constexpr const char* path = "/etc/resolv.conf";
  const auto st = draft.lstat(path);
  if (wanted.dns.empty() || draft.exists("/sbin/resolvconf") || draft.exists("/usr/sbin/resolvconf") ||
      (st && st->type != FileType::regular))
    return;
  std::string text = edit_lines(read_config(draft, path).value_or(""),
                                [](std::string& line, std::size_t) { return !trim(line).starts_with("nameserver"); });
  for (const IpAddress& server : wanted.dns)
    text += "nameserver " + server.text() + "\n";
  draft.write(path, text, reason);
}

/// cloud-init would write the configuration that it finds or guesses at the first boot.
void keep_from_cloud_init(const GuestInfo& info, Draft& draft) {
  if (!find_files(info, draft, {"/etc/cloud/cloud.cfg"}).empty())
    draft.write("/etc/cloud/cloud.cfg.d/99-kvmport-network.cfg", "network: {config: disabled}\n",
                "cloud-init would write another network configuration");
}

bool is_address_char(char c) {
  return std::isxdigit(static_cast<unsigned char>(c)) != 0 || c == '.' || c == ':';
}

/// `text` with the old address, where it stands alone, replaced.
std::string replace_address(const std::string& text, const IpAddress& before, const std::string& after) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && is_address_char(text[end]))
      end++;
    const bool alone = i == 0 || std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0;
    const auto ip = alone ? parse_ip(std::string_view(text).substr(i, end - i)) : std::nullopt;
    end = std::max(end, i + 1);
    out += ip && *ip == before ? after : text.substr(i, end - i);
    i = end;
  }
  return out;
}

/// Where else the old address stands: /etc/hosts is edited, the rest named.
void follow_address(const GuestInfo& info, const IpAddress& before, const IpAddress& after, Draft& draft) {
  if (const auto text = read_config(draft, "/etc/hosts"))
    draft.write("/etc/hosts", replace_address(*text, before, after.text()), reason);
  for (const std::string& path : find_files(info, draft,
                                            {"/etc/ssh/sshd_config",
                                             "/etc/ssh/sshd_config.d/*",
                                             "/etc/postfix/main.cf",
                                             "/etc/bind/*",
                                             "/etc/named.conf",
                                             "/etc/nginx/nginx.conf",
                                             "/etc/nginx/conf.d/*",
                                             "/etc/nginx/sites-enabled/*",
                                             "/etc/apache2/ports.conf",
                                             "/etc/apache2/sites-enabled/*",
                                             "/etc/httpd/conf/*",
                                             "/etc/httpd/conf.d/*",
                                             "/etc/nftables.conf",
                                             "/etc/iptables/*",
                                             "/etc/sysconfig/iptables",
                                             "/etc/exports",
                                             "/etc/corosync/corosync.conf",
                                             "/etc/keepalived/*",
                                             "/etc/haproxy/haproxy.cfg",
                                             "/etc/mysql/my.cnf",
                                             "/etc/mysql/*/*.cnf",
                                             "/etc/postgresql/*/*/*.conf",
                                             "/etc/default/grub"}))
    if (const auto text = read_config(draft, path); text && replace_address(*text, before, "") != *text)
      draft.warn(path + " names " + before.text() + ", the original's address; it was left as it is");
}

/// NetworkManager connects cards that nothing is written about by DHCP.
bool write_new_keyfile(const std::vector<CardConfig>& all, const CloneIdentity& identity, Draft& draft) {
  const bool runs = draft.exists("/usr/sbin/NetworkManager") || draft.exists("/usr/bin/NetworkManager");
  if (!runs || identity.macs.empty() || std::ranges::any_of(all, &CardConfig::live))
    return false;
  const std::string skeleton =
      fmt::format("[connection]\nid=kvmport-address\nuuid={}\ntype=ethernet\n\n[ethernet]\nmac-address={}\n\n"
                  "[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n",
                  derived_uuid(identity, "kvmport-address"), identity.macs.front().second);
  write_discreetly(
      draft, "/etc/NetworkManager/system-connections/kvmport-address.nmconnection",
      edit_keyfile(skeleton, {.kind = CardConfig::Kind::keyfile, .file = {}, .name = {}}, identity.address), reason,
      0600);
  draft.note("NetworkManager had no connection of its own for the network card; it has one now");
  return true;
}

void place(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  const StaticAddress& wanted = identity.address;
  const auto all = read_card_configs(info, draft);
  if (write_new_keyfile(all, identity, draft))
    return keep_from_cloud_init(info, draft);
  const auto cards = choose(all, identity, draft);
  if (cards.empty())
    throw Error("ADDRESS_NOT_PLACED", "the guest has no network configuration that the address could be written into",
                "looked for: ifupdown, netplan, NetworkManager's keyfiles, systemd-networkd, ifcfg",
                "set the network card up in the source, or let DHCP give the clone its address");
  for (const CardConfig& card : cards) {
    check_kept_gateways(card, wanted);
    for (const IpNetwork& network : wanted.addresses)
      for (const IpNetwork& old : card.addresses)
        if (old.address == network.address)
          draft.warn(card.file + ": " + network.address.text() + ", which was asked for, is the original's address");
    write_card_address(card, wanted, draft);
    if (card.kind == CardConfig::Kind::ifcfg_suse)
      write_suse(card, wanted, draft);
    if (card.kind == CardConfig::Kind::ifupdown)
      write_resolv_conf(wanted, draft);
    tell_of_dhcp(card, wanted, draft);
  }
  keep_from_cloud_init(info, draft);
  for (const IpNetwork& network : wanted.addresses)
    for (const CardConfig& card : cards)
      if (const auto old =
              std::ranges::find_if(card.addresses, [&](const auto& n) { return n.address.v6 == network.address.v6; });
          old != card.addresses.end() && old->address != network.address)
        follow_address(info, old->address, network.address, draft);
}

void set_address(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  if (!identity.address.empty())
    place(info, identity, draft);
  std::set<std::pair<std::string, IpAddress>> told;
  for (const CardConfig& card : read_card_configs(info, draft))
    for (const IpNetwork& network : card.addresses) {
      const IpNetwork* own = identity.address.address(network.address.v6);
      if (network.address.is_local() || (own != nullptr && own->address == network.address) ||
          !told.emplace(card.file, network.address).second)
        continue;
      draft.warn(card.file + ": the address " + network.address.text() + " of " + addresses_of(card) +
                 " is the original's; two machines with one address on one network can't be reached reliably");
    }
}

void report_addresses(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const CardConfig& card : read_card_configs(info, draft))
    for (const IpNetwork& network : card.addresses)
      if (const IdentityFinding one{rule_name, card.file, network.address.text()};
          !network.address.is_local() && std::ranges::find(found, one) == found.end())
        found.push_back(one);
}

} // namespace

bool is_software_name(std::string_view name) {
  static constexpr std::string_view prefixes[] = {"br",    "bond", "virbr", "docker", "veth", "tun", "tap",    "wg",
                                                  "dummy", "team", "vlan",  "ppp",    "ovs",  "gre", "macvlan"};
  return name.find('.') != std::string_view::npos || name.find(':') != std::string_view::npos ||
         std::ranges::any_of(prefixes, [&](std::string_view prefix) { return name.starts_with(prefix); });
}

std::vector<CardConfig> read_card_configs(const GuestInfo& info, const Draft& draft) {
  using Read = std::vector<CardConfig> (*)(const std::string&, const std::string&);
  const std::vector<std::pair<std::vector<std::string>, Read>> kinds{
      {{"/etc/network/interfaces", "/etc/network/interfaces.d/*"}, read_ifupdown},
      {{"/etc/netplan/*.yaml"}, read_netplan},
      {{"/etc/NetworkManager/system-connections/*"}, read_keyfile},
      {{"/etc/systemd/network/*.network"}, read_networkd},
      {{"/etc/sysconfig/network-scripts/ifcfg-*"},
       [](const std::string& text, const std::string& file) { return read_ifcfg(text, file, false); }},
      {{"/etc/sysconfig/network/ifcfg-*"},
       [](const std::string& text, const std::string& file) { return read_ifcfg(text, file, true); }}};
  std::vector<CardConfig> all;
  for (const auto& [patterns, read] : kinds)
    for (const std::string& path : find_files(info, draft, patterns))
      if (const auto text = read_config(draft, path); text && text->size() <= most_config && !is_left_over(path))
        std::ranges::move(read(*text, path), std::back_inserter(all));
  return all;
}

void write_card_address(const CardConfig& card, const StaticAddress& wanted, Draft& draft) {
  const std::string text = read_config(draft, card.file).value_or("");
  using Kind = CardConfig::Kind;
  std::string after;
  switch (card.kind) {
  case Kind::ifupdown:
    after = edit_ifupdown(text, card, wanted);
    break;
  case Kind::netplan:
    after = edit_netplan(text, card, wanted);
    break;
  case Kind::keyfile:
    after = edit_keyfile(text, card, wanted);
    break;
  case Kind::networkd:
    after = edit_networkd(text, card, wanted);
    break;
  case Kind::ifcfg_red_hat:
  case Kind::ifcfg_suse:
    after = edit_ifcfg(text, card, wanted);
    break;
  }
  write_discreetly(draft, card.file, after, reason);
}

std::vector<IdentityRule> address_rules() {
  return {{.name = rule_name,
           .summary = "static IP addresses: that of the first network card becomes the clone's (needs an address), and "
                      "for each other a warning says that the clone has it too (ifupdown, netplan, NetworkManager's "
                      "keyfiles, systemd-networkd, ifcfg)",
           .edit = set_address,
           .report = report_addresses}};
}

} // namespace kvmport::identity
