// SPDX-License-Identifier: Apache-2.0
// interfaces(5): stanzas "iface NAME inet|inet6 METHOD" with a line for each option.
#include "libconvert/clone/address_config.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace kvmport::identity {
namespace {

using linux_guest::line_body;
using linux_guest::split_lines;
using linux_guest::split_words;

/// One stanza: the lines first..end of the file, the first being "iface".
struct Stanza {
  std::size_t first = 0, end = 0;
  std::string name, method;
  bool v6 = false;
};

std::string_view word(const std::string& line, std::size_t index) {
  const auto words = split_words(line_body(line));
  return index < words.size() ? words[index].text : std::string_view{};
}

bool begins_another(std::string_view key) {
  static constexpr std::array keys{"iface",      "auto",         "mapping", "source",  "source-directory",
                                   "no-scripts", "no-auto-down", "rename",  "template"};
  return key.starts_with("allow-") || std::ranges::find(keys, key) != keys.end();
}

std::vector<Stanza> stanzas_of(const std::vector<std::string>& lines) {
  std::vector<Stanza> all;
  bool inside = false;
  for (std::size_t i = 0; i < lines.size(); i++) {
    const std::string_view key = word(lines[i], 0);
    if (begins_another(key))
      inside = false;
    const std::string_view family = word(lines[i], 2);
    if (key == "iface" && (family == "inet" || family == "inet6")) {
      all.push_back({i, i + 1, std::string(word(lines[i], 1)), std::string(word(lines[i], 3)), family == "inet6"});
      inside = true;
    } else if (inside && !key.empty() && !key.starts_with('#')) {
      all.back().end = i + 1; // blank lines and comments behind the options are not the stanza's
    }
  }
  return all;
}

void read_options(const std::vector<std::string>& lines, const Stanza& stanza, CardConfig& card) {
  std::optional<IpNetwork> network;
  std::optional<unsigned> mask;
  for (std::size_t i = stanza.first + 1; i < stanza.end; i++) {
    const auto words = split_words(line_body(lines[i]));
    const std::string_view key = words.empty() ? std::string_view{} : words[0].text;
    const std::string_view value = words.size() > 1 ? words[1].text : std::string_view{};
    if (key == "address" && !network) {
      network = parse_network(value);
      if (const auto ip = parse_ip(value); ip && !network)
        network = IpNetwork{*ip, ip->v6 ? 128U : 32U};
    } else if (key == "netmask") {
      mask = parse_netmask(value);
    } else if (const auto ip = parse_ip(value); key == "gateway" && ip) {
      card.gateways.push_back(*ip);
    } else if (key.starts_with("bridge") || key.starts_with("bond-") || key.starts_with("vlan") || key == "slaves") {
      card.software = true;
    } else if (key == "hwaddress") {
      card.mac = linux_guest::normal_mac(words.back().text);
    } else if (std::ranges::any_of(words, [](const auto& w) { return w.text == "add"; })) {
      for (const auto& w : words) // "up ip addr add 192.0.2.7/24 dev eth0"
        if (const auto more = parse_network(w.text); more && key.find("up") != std::string_view::npos)
          if (std::ranges::any_of(words, [](const auto& x) { return x.text.starts_with('a') && x.text != "add"; }))
            card.addresses.push_back(*more);
    }
  }
  if (network && mask)
    network->prefix = *mask;
  if (network && stanza.method == "static")
    card.addresses.insert(card.addresses.begin(), *network);
}

/// The options of one stanza with the address in them.
std::vector<std::string> edited_options(const std::vector<std::string>& lines, const Stanza& stanza,
                                        const StaticAddress& wanted) {
  const IpNetwork& network = *wanted.address(stanza.v6);
  const IpAddress* gateway = wanted.gateway(stanza.v6);
  std::vector<std::string> kept;
  std::string indent = "    ", address = network.text(), netmask;
  for (std::size_t i = stanza.first + 1; i < stanza.end; i++) {
    const std::string_view key = word(lines[i], 0);
    if (i == stanza.first + 1)
      indent = lines[i].substr(0, lines[i].find_first_not_of(" \t"));
    if (key == "netmask") { // in the file's own style
      const bool dotted = !stanza.v6 && word(lines[i], 1).find('.') != std::string_view::npos;
      netmask = dotted ? netmask_text(network.prefix) : std::to_string(network.prefix);
      address = network.address.text();
    }
    const bool goes = key == "address" || key == "netmask" || key == "broadcast" || key == "network" ||
                      (key == "gateway" && gateway != nullptr) ||
                      (key.starts_with("dns-nameserver") && !wanted.dns.empty());
    if (!goes)
      kept.push_back(lines[i]);
  }
  std::vector<std::string> options{indent + "address " + address + "\n"};
  if (!netmask.empty())
    options.push_back(indent + "netmask " + netmask + "\n");
  if (gateway != nullptr)
    options.push_back(indent + "gateway " + gateway->text() + "\n");
  std::vector<std::string> servers;
  for (const IpAddress& server : wanted.dns)
    servers.push_back(server.text());
  if (!servers.empty())
    options.push_back(fmt::format("{}dns-nameservers {}\n", indent, fmt::join(servers, " ")));
  options.insert(options.end(), kept.begin(), kept.end());
  return options;
}

const Stanza* stanza_for(const std::vector<Stanza>& all, const std::string& name, bool v6) {
  const Stanza* found = nullptr;
  for (const Stanza& stanza : all)
    if (stanza.name == name && stanza.v6 == v6 &&
        (found == nullptr || (found->method != "static" && stanza.method == "static")))
      found = &stanza;
  return found;
}

void edit_family(std::vector<std::string>& lines, const CardConfig& card, const StaticAddress& wanted, bool v6) {
  const auto all = stanzas_of(lines);
  Stanza stanza;
  if (const Stanza* found = stanza_for(all, card.name, v6)) {
    stanza = *found;
  } else { // behind that of the other family
    const Stanza* other = stanza_for(all, card.name, !v6);
    stanza.v6 = v6;
    stanza.first = other->end;
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(stanza.first), "\n");
    stanza.end = ++stanza.first + 1;
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(stanza.first), "");
  }
  const auto options = edited_options(lines, stanza, wanted);
  lines[stanza.first] = fmt::format("iface {} {} static\n", card.name, v6 ? "inet6" : "inet");
  const auto at = lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(stanza.first) + 1,
                              lines.begin() + static_cast<std::ptrdiff_t>(stanza.end));
  lines.insert(at, options.begin(), options.end());
}

} // namespace

std::vector<CardConfig> read_ifupdown(const std::string& text, const std::string& file) {
  const auto lines = split_lines(text);
  std::vector<CardConfig> cards;
  for (const Stanza& stanza : stanzas_of(lines)) {
    if (stanza.method == "loopback")
      continue;
    auto card = std::ranges::find_if(cards, [&](const CardConfig& c) { return c.name == stanza.name; });
    if (card == cards.end())
      card = cards.insert(cards.end(), {.kind = CardConfig::Kind::ifupdown, .file = file, .name = stanza.name});
    card->software = card->software || is_software_name(stanza.name);
    (stanza.v6 ? card->dhcp6 : card->dhcp4) |= stanza.method == "dhcp" || stanza.method == "auto";
    read_options(lines, stanza, *card);
  }
  return cards;
}

std::string edit_ifupdown(const std::string& text, const CardConfig& card, const StaticAddress& wanted) {
  auto lines = split_lines(text);
  if (!lines.empty() && !lines.back().ends_with('\n'))
    lines.back() += '\n';
  for (const IpNetwork& network : wanted.addresses)
    edit_family(lines, card, wanted, network.address.v6);
  std::string out;
  for (const std::string& line : lines)
    out += line;
  return out;
}

} // namespace kvmport::identity
