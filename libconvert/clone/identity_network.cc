// SPDX-License-Identifier: Apache-2.0
// The network cards that configuration is tied to, and what DHCP servers know the guest by. A clone's cards have new
// MAC addresses: configuration that names the old ones would find no card, and the clone would have no network.
#include "base/error.h"
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <cctype>
#include <set>

namespace kvmport::identity {
namespace {

using linux_guest::edit_lines;
using linux_guest::lower;
using linux_guest::normal_mac;
using linux_guest::split_lines;
using linux_guest::trim;

constexpr const char* mac_rule = "mac-addresses";
constexpr const char* persistent_rule = "persistent-net-rules";

const std::vector<std::string>& persistent_files() {
  static const std::vector<std::string> files{"/etc/udev/rules.d/70-persistent-net.rules",
                                              "/etc/udev/rules.d/30-net_persistent_names.rules",
                                              "/etc/udev/rules.d/z25_persistent-net.rules"};
  return files;
}

/// Files that tie configuration to cards.
std::vector<std::string> bound_files(const GuestInfo& info, const Draft& draft) {
  std::vector<std::string> files = find_files(info, draft,
                                              {"/etc/netplan/*.yaml",
                                               "/etc/systemd/network/*.link",
                                               "/etc/systemd/network/*.network",
                                               "/etc/systemd/network/*.netdev",
                                               "/etc/systemd/network/*.d/*.conf",
                                               "/etc/NetworkManager/system-connections/*",
                                               "/etc/NetworkManager/NetworkManager.conf",
                                               "/etc/NetworkManager/conf.d/*.conf",
                                               "/var/lib/NetworkManager/no-auto-default.state",
                                               "/etc/network/interfaces",
                                               "/etc/network/interfaces.d/*",
                                               "/etc/sysconfig/network-scripts/ifcfg-*",
                                               "/etc/sysconfig/network/ifcfg-*",
                                               "/etc/udev/rules.d/*.rules",
                                               "/etc/cloud/cloud.cfg.d/*.cfg",
                                               "/etc/wicked/ifconfig/*.xml",
                                               "/etc/netctl/*",
                                               "/etc/iftab",
                                               "/etc/mactab",
                                               "/etc/dhcpcd.conf",
                                               "/etc/conf.d/net"});
  std::erase_if(files, [](const std::string& path) {
    return std::ranges::find(persistent_files(), path) != persistent_files().end();
  });
  return files;
}

struct FoundMac {
  std::size_t at = 0;
  std::string mac; ///< normal form
};

/// MAC addresses in a text, with colons or hyphens; not parts of longer rows of bytes (DUIDs, InfiniBand addresses).
std::vector<FoundMac> find_macs(std::string_view text) {
  constexpr std::size_t length = 17;
  const auto is_hex = [&](std::size_t at) {
    return at < text.size() && std::isxdigit(static_cast<unsigned char>(text[at])) != 0;
  };
  std::vector<FoundMac> found;
  for (std::size_t at = 0; at + length <= text.size(); at++) {
    const char separator = text[at + 2];
    if (!is_hex(at) || (separator != ':' && separator != '-'))
      continue;
    const bool more_before = (at > 0 && std::isalnum(static_cast<unsigned char>(text[at - 1])) != 0) ||
                             (at > 1 && text[at - 1] == separator && is_hex(at - 2));
    const bool more_after =
        is_hex(at + length) || (at + length < text.size() && text[at + length] == separator && is_hex(at + length + 1));
    const std::string_view token = text.substr(at, length);
    const bool mixed = token.find(separator == ':' ? '-' : ':') != std::string_view::npos;
    const std::string mac = normal_mac(token);
    // Broadcast, multicast and the empty address are no card's.
    if (mac.empty() || mixed || more_before || more_after || mac == "00:00:00:00:00:00" ||
        (std::string_view("13579bdf").find(mac[1]) != std::string_view::npos))
      continue;
    found.push_back({at, mac});
    at += length - 1;
  }
  return found;
}

/// The clone's addresses by the original's, all in normal form.
std::map<std::string, std::string> mac_map(const CloneIdentity& identity) {
  std::map<std::string, std::string> map;
  for (const auto& [before, after] : identity.macs) {
    if (normal_mac(before).empty() || normal_mac(after).empty())
      throw Error("MAC_INVALID", "\"" + (normal_mac(before).empty() ? before : after) + "\" is no MAC address");
    map[normal_mac(before)] = normal_mac(after);
  }
  return map;
}

/// `text` with the clone's addresses in place of the original's; addresses of neither go to `unknown`.
std::string replace_macs(std::string text, const std::map<std::string, std::string>& macs,
                         std::set<std::string>* unknown) {
  for (const FoundMac& found : find_macs(text)) {
    const auto known = macs.find(found.mac);
    if (known == macs.end()) {
      if (unknown && std::ranges::none_of(macs, [&](const auto& pair) { return pair.second == found.mac; }))
        unknown->insert(found.mac);
      continue;
    }
    const bool upper = std::any_of(text.begin() + static_cast<std::ptrdiff_t>(found.at),
                                   text.begin() + static_cast<std::ptrdiff_t>(found.at + 17),
                                   [](unsigned char c) { return std::isupper(c) != 0; });
    for (std::size_t i = 0; i < known->second.size(); i++)
      if (known->second[i] != ':')
        text[found.at + i] =
            upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(known->second[i]))) : known->second[i];
  }
  return text;
}

void rewrite_macs(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  const auto macs = mac_map(identity);
  for (const std::string& path : bound_files(info, draft)) {
    const auto text = read_config(draft, path);
    if (!text)
      continue;
    std::set<std::string> unknown;
    const std::string after = edit_lines(*text, [&](std::string& line, std::size_t) {
      if (!trim(line).starts_with('#'))
        line = replace_macs(line, macs, &unknown);
      return true;
    });
    write_discreetly(draft, path, after, "it is tied to a network card; the clone's card has another MAC address");
    for (const std::string& mac : unknown)
      draft.warn(
          path + " names the MAC address " + mac +
          ", which is none of the machine's cards: what it is tied to doesn't work in the clone, and a card that "
          "is given this address has that of the original");
    // SUSE once named files after cards.
    const std::string renamed = replace_macs(path, macs, nullptr);
    if (renamed != path)
      draft.rename(path, renamed, "it is named after a network card; the clone's card has another MAC address");
  }
}

void report_macs(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  std::set<std::pair<std::string, std::string>> seen;
  auto files = bound_files(info, draft);
  std::ranges::copy(find_files(info, draft, persistent_files()), std::back_inserter(files));
  for (const std::string& path : files)
    if (const auto text = read_config(draft, path))
      for (const std::string& line : split_lines(*text))
        if (!trim(line).starts_with('#'))
          for (const FoundMac& mac : find_macs(line))
            if (seen.emplace(path, mac.mac).second)
              found.push_back({mac_rule, path, mac.mac});
}

/// udev's own record of cards: entries of cards that the clone has get the new address, others go.
void rewrite_persistent(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  const auto macs = mac_map(identity);
  for (const std::string& path : find_files(info, draft, persistent_files())) {
    const auto text = read_config(draft, path);
    if (!text)
      continue;
    bool any_left = false;
    const std::string after = edit_lines(*text, [&](std::string& line, std::size_t) {
      if (trim(line).empty() || trim(line).starts_with('#'))
        return true;
      std::set<std::string> unknown;
      line = replace_macs(line, macs, &unknown);
      any_left = any_left || unknown.empty();
      return unknown.empty();
    });
    const std::string reason = "it gives names to the original's network cards by their MAC addresses";
    if (any_left)
      draft.write(path, after, reason);
    else
      draft.remove(path, reason);
  }
}

/// A DUID is set by hand in configuration: only its owner knows what the clone's shall be.
void warn_of_fixed_duids(const GuestInfo& info, const CloneIdentity&, Draft& draft) {
  for (const std::string& path : find_files(info, draft,
                                            {"/etc/systemd/networkd.conf", "/etc/systemd/networkd.conf.d/*.conf",
                                             "/etc/systemd/network/*.network", "/etc/dhcp/dhclient*.conf",
                                             "/etc/dhclient.conf", "/etc/NetworkManager/system-connections/*"}))
    if (const auto text = read_config(draft, path))
      for (const std::string& line : split_lines(*text)) {
        const std::string body = lower(trim(line));
        if (body.starts_with("duidrawdata=") || body.starts_with("send dhcp-client-identifier") ||
            body.starts_with("default-duid") || (body.starts_with("dhcp-duid=") && body.find(':') != body.npos))
          draft.warn(path + " sets the DHCP client's identity by hand; the clone has the same and may get the "
                            "original's address");
      }
}

} // namespace

std::string stored_duid(const GuestInfo& info, const Draft& draft) {
  for (const std::string& path : find_files(info, draft, {"/var/lib/dhcp/*", "/var/lib/dhclient/*"}))
    for (const std::string& line : split_lines(read_config(draft, path).value_or("")))
      if (constexpr std::string_view key = "default-duid "; trim(line).starts_with(key))
        return std::string(trim(trim(line).substr(key.size())));
  for (const char* path : {"/var/lib/dhcpcd/duid", "/etc/dhcpcd.duid", "/var/lib/wicked/duid.xml"})
    if (const auto text = read_config(draft, path))
      return std::string(trim(*text));
  return {};
}

std::vector<IdentityRule> network_rules() {
  return {
      {.name = mac_rule,
       .summary = "MAC addresses in the network configuration (netplan, NetworkManager, systemd, ifupdown, ifcfg, udev "
                  "rules, cloud-init), which become those of the clone's cards, so that the clone has a network",
       .edit = rewrite_macs,
       .report = report_macs},
      {.name = persistent_rule,
       .summary =
           "udev's record of network cards: entries get the clone's MAC addresses, those of unknown cards go, so "
           "that eth0 doesn't become eth1",
       .edit = rewrite_persistent,
       .report = [](const GuestInfo&, const Draft&, std::vector<IdentityFinding>&) {}},
      {.name = "dhcp-leases",
       .summary = "leases and DUIDs of DHCP clients, so that the clone doesn't ask for the original's address",
       .paths = {"/var/lib/dhcp/dhclient*", "/var/lib/dhclient/*", "/var/lib/dhcp3/dhclient*", "/var/lib/dhcpcd/*",
                 "/var/lib/dhcpcd5/*", "/var/db/dhcpcd/*", "/etc/dhcpcd.duid", "/etc/dhcpcd.secret",
                 "/var/lib/dhcpcd.duid", "/var/lib/wicked/duid.xml", "/var/lib/wicked/iaid.xml",
                 "/var/lib/wicked/lease-*.xml", "/var/lib/systemd/network/**", "/var/lib/NetworkManager/*.lease",
                 "/var/lib/NetworkManager/*.leases", "/var/lib/NetworkManager/dhclient*"},
       .edit = warn_of_fixed_duids},
  };
}

} // namespace kvmport::identity
