// SPDX-License-Identifier: Apache-2.0
// ifcfg files: KEY=value lines. Red Hat (initscripts' sysconfig.txt): BOOTPROTO, IPADDR, PREFIX or NETMASK, GATEWAY,
// DNS1, …, IPV6ADDR, IPV6_DEFAULTGW. SUSE (ifcfg(5) of wicked): BOOTPROTO, IPADDR with "/24" or NETMASK, PREFIXLEN, and
// IPADDR_LABEL for further ones.
#include "libconvert/clone/address_config.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport::identity {
namespace {

using linux_guest::base_name;
using linux_guest::lower;
using linux_guest::shell_value;
using linux_guest::split_lines;
using linux_guest::trim;

/// A file of KEY=value lines that gets new values; a value keeps the quotes that it had.
class Values {
 public:
  explicit Values(const std::string& text) : lines_(split_lines(text)) {
    if (!lines_.empty() && !lines_.back().ends_with('\n'))
      lines_.back() += '\n';
  }
  static std::string key_of(const std::string& line) {
    const std::string_view body = trim(line);
    const std::size_t equals = body.find('=');
    return equals == std::string_view::npos || body.starts_with('#') ? std::string()
                                                                     : std::string(body.substr(0, equals));
  }
  std::string value(const std::string& key) const { return shell_value(text(), key).value_or(""); }
  bool has(const std::string& key) const {
    return std::ranges::any_of(lines_, [&](const std::string& line) { return key_of(line) == key; });
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> all;
    for (const std::string& line : lines_)
      if (const std::string key = key_of(line); !key.empty())
        all.push_back(key);
    return all;
  }
  void set(const std::string& key, const std::string& value) {
    bool there = false;
    std::string style;
    for (std::string& line : lines_) {
      const std::string own = key_of(line);
      if (own.empty())
        continue;
      const std::size_t quote = line.find('=') + 1;
      const std::string quotes = quote < line.size() && (line[quote] == '\'' || line[quote] == '"')
                                     ? std::string(1, line[quote])
                                     : std::string();
      style = quotes.empty() ? style : quotes;
      if (own == key) {
        line = key + "=" + quotes + value + quotes + "\n";
        there = true;
      }
    }
    if (!there)
      lines_.push_back(key + "=" + style + value + style + "\n");
  }
  void remove(const std::string& key) {
    std::erase_if(lines_, [&](const std::string& line) { return key_of(line) == key; });
  }
  std::string text() const {
    std::string all;
    for (const std::string& line : lines_)
      all += line;
    return all;
  }

 private:
  std::vector<std::string> lines_;
};

/// "IPADDR", "IPADDR0", "IPADDR_1" → what stands behind; nothing for another key.
std::optional<std::string> address_suffix(const std::string& key) {
  if (!key.starts_with("IPADDR"))
    return std::nullopt;
  return key.substr(6);
}

std::optional<IpNetwork> address_at(const Values& values, const std::string& suffix) {
  const std::string text = values.value("IPADDR" + suffix);
  if (const auto network = parse_network(text))
    return network;
  const auto ip = parse_ip(text);
  if (!ip)
    return std::nullopt;
  for (const char* key : {"PREFIX", "PREFIXLEN", "NETMASK"})
    if (const auto prefix = parse_netmask(values.value(key + suffix)); prefix && *prefix > 0)
      return IpNetwork{*ip, *prefix};
  return IpNetwork{*ip, ip->v6 ? 128U : 32U};
}

/// Which IPADDR holds the first address of the family.
std::optional<std::string> first_suffix(const Values& values, bool v6) {
  for (const std::string& key : values.keys())
    if (const auto suffix = address_suffix(key))
      if (const auto found = address_at(values, *suffix); found && found->address.v6 == v6)
        return suffix;
  return std::nullopt;
}

void set_address(Values& values, const std::string& suffix, const IpNetwork& network, bool suse) {
  const bool slash = suse && !values.has("NETMASK" + suffix) && !values.has("PREFIXLEN" + suffix);
  values.set("IPADDR" + suffix, slash ? network.text() : network.address.text());
  for (const char* key : {"NETWORK", "BROADCAST"})
    values.remove(key + suffix);
  if (slash)
    return;
  if (values.has("NETMASK" + suffix) && !network.address.v6) {
    values.set("NETMASK" + suffix, netmask_text(network.prefix));
    for (const char* key : {"PREFIX", "PREFIXLEN"}) // both would contradict each other
      values.remove(key + suffix);
  } else {
    values.remove("NETMASK" + suffix);
    values.set((suse ? "PREFIXLEN" : "PREFIX") + suffix, std::to_string(network.prefix));
  }
}

void set_red_hat_v6(Values& values, const StaticAddress& wanted) {
  values.set("IPV6INIT", "yes");
  values.set("IPV6ADDR", wanted.address(true)->text());
  for (const char* key : {"IPV6_AUTOCONF", "DHCPV6C"})
    if (values.has(key))
      values.set(key, "no");
  if (const IpAddress* gateway = wanted.gateway(true))
    values.set("IPV6_DEFAULTGW", gateway->text());
}

void edit_red_hat(Values& values, const StaticAddress& wanted) {
  if (const IpNetwork* network = wanted.address(false)) {
    if (const std::string how = lower(values.value("BOOTPROTO")); how != "none" && how != "static")
      values.set("BOOTPROTO", "none");
    set_address(values, first_suffix(values, false).value_or(""), *network, false);
    if (const IpAddress* gateway = wanted.gateway(false))
      values.set(values.has("GATEWAY0") ? "GATEWAY0" : "GATEWAY", gateway->text());
  }
  if (wanted.address(true) != nullptr)
    set_red_hat_v6(values, wanted);
  if (wanted.dns.empty())
    return;
  for (const std::string& key : values.keys())
    if (key.starts_with("DNS") && key.find_first_not_of("0123456789", 3) == std::string::npos)
      values.remove(key);
  for (std::size_t i = 0; i < wanted.dns.size(); i++)
    values.set(fmt::format("DNS{}", i + 1), wanted.dns[i].text());
}

/// Routes and name servers stand elsewhere there: see identity_address.cc.
void edit_suse(Values& values, const CardConfig& card, const StaticAddress& wanted) {
  const bool still4 = card.dhcp4 && wanted.address(false) == nullptr;
  const bool still6 = card.dhcp6 && wanted.address(true) == nullptr;
  values.set("BOOTPROTO", still4 ? "dhcp4" : still6 ? "dhcp6" : "static");
  for (const IpNetwork& network : wanted.addresses) {
    auto suffix = first_suffix(values, network.address.v6);
    if (!suffix)
      suffix = values.value("IPADDR").empty() ? "" : "_kvmport";
    set_address(values, *suffix, network, true);
  }
}

bool is_software(const Values& values, const std::string& name) {
  const std::string type = lower(values.value("TYPE") + values.value("DEVICETYPE"));
  return is_software_name(name) || type.find("bridge") != std::string::npos || type.find("bond") != std::string::npos ||
         type.find("vlan") != std::string::npos || type.find("team") != std::string::npos ||
         lower(values.value("BRIDGE")) == "yes" || lower(values.value("BONDING_MASTER")) == "yes" ||
         lower(values.value("VLAN")) == "yes" || !values.value("ETHERDEVICE").empty();
}

} // namespace

std::vector<CardConfig> read_ifcfg(const std::string& text, const std::string& file, bool suse) {
  const Values values(text);
  const std::string after(base_name(file).substr(6)); // "ifcfg-"
  CardConfig card{.kind = suse ? CardConfig::Kind::ifcfg_suse : CardConfig::Kind::ifcfg_red_hat,
                  .file = file,
                  .name = values.value("DEVICE")};
  card.mac = linux_guest::normal_mac(values.value(suse ? "LLADDR" : "HWADDR"));
  if (card.name.empty() && (suse || (card.mac.empty() && after.find(' ') == std::string::npos)))
    card.name = after;
  if (card.name == "lo")
    return {};
  card.software = is_software(values, after.find(':') != std::string::npos ? after : card.name);
  const std::string how = lower(values.value("BOOTPROTO"));
  card.dhcp4 = how == "dhcp" || how == "bootp" || how == "dhcp4" || how == "dhcp+autoip";
  card.dhcp6 = suse ? how == "dhcp" || how == "dhcp6" : lower(values.value("DHCPV6C")) == "yes";
  for (const std::string& key : values.keys())
    if (const auto suffix = address_suffix(key))
      if (const auto network = address_at(values, *suffix))
        card.addresses.push_back(*network);
  for (const char* key : {"IPV6ADDR", "IPV6ADDR_SECONDARIES"}) {
    const std::string all = values.value(key);
    for (const auto& word : linux_guest::split_words(all))
      if (const auto network = parse_network(word.text))
        card.addresses.push_back(*network);
  }
  for (const char* key : {"GATEWAY", "GATEWAY0", "IPV6_DEFAULTGW"})
    if (const auto gateway = parse_ip(values.value(key)))
      card.gateways.push_back(*gateway);
  return {card};
}

std::string edit_ifcfg(const std::string& text, const CardConfig& card, const StaticAddress& wanted) {
  Values values(text);
  if (card.kind == CardConfig::Kind::ifcfg_suse)
    edit_suse(values, card, wanted);
  else
    edit_red_hat(values, wanted);
  return values.text();
}

} // namespace kvmport::identity
