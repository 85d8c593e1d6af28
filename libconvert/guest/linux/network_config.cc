// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/network_config.h"

#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <cctype>

namespace kvmport::linux_guest {

namespace {

bool is_glob(std::string_view name) {
  return name.find_first_of("*?[/") != std::string_view::npos;
}

/// Names that software makes: bridges, bonds, tunnels, …, and wireless cards, which virtual machines don't have.
bool is_virtual_name(std::string_view name) {
  static constexpr std::string_view prefixes[] = {
      "br", "bond", "virbr", "docker", "veth", "tun", "tap", "wg",  "dummy",   "team", "vlan", "sit",    "ppp",
      "wl", "ovs",  "vxlan", "gre",    "ib",   "lxc", "lxd", "cni", "macvlan", "ip6",  "nm-",  "podman", "cali"};
  return name == "lo" || std::any_of(std::begin(prefixes), std::end(prefixes),
                                     [&](std::string_view prefix) { return name.starts_with(prefix); });
}

/// Gathers names; those that turn out to be made by software are dropped at the end.
class Collector {
 public:
  explicit Collector(const Draft& draft) : draft_(draft) {}

  void name(std::string_view text, const std::string& file) {
    std::string name = unquote(trim(text));
    name = name.substr(0, name.find(':')); // eth0:1 is another address of eth0
    if (const std::size_t dot = name.find('.'); dot != std::string::npos)
      name.resize(dot); // eth0.100 is a VLAN of eth0
    if (name.empty() || name.starts_with('!') || name.starts_with('-'))
      return;
    if (is_glob(name))
      config.patterns.emplace(name, file);
    else if (!is_virtual_name(name) && name.size() < 16)
      config.names.emplace(name, file);
  }
  void bind(const std::string& mac, const std::string& name) {
    if (!mac.empty() && !name.empty() && !is_glob(name))
      config.name_of_mac.emplace(mac, name);
  }
  /// Configuration in `file` works only for this card.
  void limited_to(const std::string& mac, const std::string& file) {
    if (!mac.empty())
      config.files_of_macs.emplace(mac, file);
  }
  void made_by_software(std::string_view name) { virtual_names_.insert(std::string(name)); }
  void finish() {
    for (const std::string& name : virtual_names_)
      config.names.erase(name);
  }

  const Draft& draft() const { return draft_; }
  std::vector<std::string> files(const std::string& directory, std::string_view ending = {}) const {
    std::vector<std::string> found;
    for (const std::string& name : draft_.list(directory)) {
      if (!name.ends_with(ending) || name.ends_with(aside_suffix) || name.ends_with('~') || name.ends_with(".bak") ||
          name.ends_with(".orig") || name.ends_with(".rpmsave") || name.ends_with(".rpmnew") ||
          name.find(".dpkg-") != std::string::npos)
        continue;
      found.push_back(join_path(directory, name));
    }
    return found;
  }

  NetworkConfig config;

 private:
  const Draft& draft_;
  std::set<std::string> virtual_names_;
};

// --- ifupdown (interfaces(5)) --------------------------------------------------------------------------------------

void read_ifupdown(Collector& c) {
  std::vector<std::string> files{"/etc/network/interfaces"};
  for (const std::string& path : c.files("/etc/network/interfaces.d"))
    files.push_back(path);
  for (const std::string& path : files) {
    const auto text = c.draft().try_read(path);
    if (!text)
      continue;
    std::string stanza;
    for (const std::string& line : split_lines(*text)) {
      const auto words = split_words(line_body(line));
      if (words.size() < 2 || words[0].text.starts_with('#'))
        continue;
      const std::string_view key = words[0].text;
      if (key == "auto" || key.starts_with("allow-")) {
        for (std::size_t i = 1; i < words.size(); i++)
          c.name(words[i].text, path);
      } else if (key == "iface") {
        stanza = words[1].text;
        c.name(stanza, path);
      } else if (key == "bridge_ports" || key == "bridge-ports" || key == "bond-slaves" || key == "slaves" ||
                 key == "bond_slaves" || key == "vlan-raw-device" || key == "vlan_raw_device") {
        c.made_by_software(stanza);
        for (std::size_t i = 1; i < words.size(); i++)
          if (words[i].text != "none" && words[i].text != "all" && words[i].text != "regex")
            c.name(words[i].text, path);
      } else if (key.starts_with("bond-mode") || key.starts_with("tunnel") || key.starts_with("wireguard-")) {
        c.made_by_software(stanza);
      }
    }
  }
}

// --- netplan -------------------------------------------------------------------------------------------------------

/// "key: value" lines of block-style YAML with their path of keys; sequences and flow style are skipped.
void walk_yaml(std::string_view text,
               const std::function<void(const std::vector<std::string>&, const std::string&)>& f) {
  std::vector<std::pair<std::size_t, std::string>> stack;
  for (const std::string& line : split_lines(text)) {
    std::string_view body = line_body(line);
    const std::size_t indent = body.find_first_not_of(' ');
    if (indent == std::string_view::npos || body[indent] == '#' || body[indent] == '-')
      continue;
    body.remove_prefix(indent);
    const std::size_t colon = body.find(body.starts_with('"') ? "\":" : ":");
    if (colon == std::string_view::npos)
      continue;
    const std::string_view raw_key = body.substr(0, body.starts_with('"') ? colon + 1 : colon);
    std::string_view value = body.substr(raw_key.size() + 1);
    if (const std::size_t comment = value.find(" #"); comment != std::string_view::npos)
      value = value.substr(0, comment);
    while (!stack.empty() && stack.back().first >= indent)
      stack.pop_back();
    stack.emplace_back(indent, unquote(trim(raw_key)));
    std::vector<std::string> path;
    for (const auto& entry : stack)
      path.push_back(entry.second);
    f(path, unquote(trim(value)));
  }
}

struct NetplanCard {
  std::string mac, match_name, driver, set_name;
};

/// The keys of "match: {macaddress: …, name: …}".
void read_flow_match(const std::string& value, NetplanCard& card) {
  std::string_view rest = value;
  rest.remove_prefix(std::min<std::size_t>(1, rest.size()));
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find_first_of(",}"));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const std::size_t colon = item.find(':');
    if (colon == std::string_view::npos)
      continue;
    const std::string_view key = trim(item.substr(0, colon));
    const std::string text = unquote(trim(item.substr(colon + 1)));
    (key == "macaddress" ? card.mac : key == "name" ? card.match_name : card.driver) = text;
  }
}

void read_netplan(Collector& c) {
  for (const std::string& path : c.files("/etc/netplan", ".yaml")) {
    const auto text = c.draft().try_read(path);
    if (!text)
      continue;
    std::map<std::string, NetplanCard> cards;
    walk_yaml(*text, [&](const std::vector<std::string>& keys, const std::string& value) {
      if (keys.size() < 3 || keys[0] != "network" || keys[1] != "ethernets")
        return;
      NetplanCard& card = cards[keys[2]];
      if (keys.size() == 4 && keys[3] == "set-name")
        card.set_name = value;
      else if (keys.size() == 4 && keys[3] == "match" && value.starts_with('{'))
        read_flow_match(value, card);
      else if (keys.size() == 5 && keys[3] == "match")
        (keys[4] == "macaddress" ? card.mac : keys[4] == "name" ? card.match_name : card.driver) = value;
    });
    for (const auto& [id, card] : cards) {
      const std::string mac = normal_mac(card.mac);
      c.limited_to(mac, path);
      if (!mac.empty() && card.driver.empty() && card.match_name.empty()) {
        c.bind(mac, card.set_name);
        if (!card.set_name.empty())
          c.config.settled.insert(mac);
      } else if (!card.match_name.empty()) {
        c.bind(mac, card.match_name);
        c.name(card.match_name, path);
      } else if (card.driver.empty()) {
        c.name(id, path);
      }
      if (!card.driver.empty() && card.driver.find("virtio") == std::string::npos)
        c.config.troubles.push_back(path + ": '" + id + "' matches cards by the driver " + card.driver +
                                    ", which the new card does not use");
    }
  }
}

// --- NetworkManager, systemd-networkd ------------------------------------------------------------------------------

std::string first(const IniFile& ini, const std::string& section, const std::string& key) {
  const auto s = ini.find(section);
  if (s == ini.end())
    return {};
  const auto k = s->second.find(key);
  return k == s->second.end() || k->second.empty() ? std::string{} : k->second.front();
}

void read_network_manager(Collector& c) {
  for (const std::string& path : c.files("/etc/NetworkManager/system-connections")) {
    const auto text = c.draft().try_read(path);
    if (!text)
      continue;
    const IniFile ini = parse_ini(*text);
    const std::string type = first(ini, "connection", "type");
    if (type == "vlan" || type == "bridge" || type == "bond" || type == "team")
      c.made_by_software(first(ini, "connection", "interface-name"));
    if (type == "vlan")
      c.name(first(ini, "vlan", "parent"), path);
    if (!type.empty() && type != "ethernet" && type != "802-3-ethernet")
      continue;
    const std::string name = first(ini, "connection", "interface-name");
    std::string mac = normal_mac(first(ini, "ethernet", "mac-address"));
    if (mac.empty())
      mac = normal_mac(first(ini, "802-3-ethernet", "mac-address"));
    c.bind(mac, name);
    c.limited_to(mac, path);
    c.name(name, path);
    for (const char* key : {"path", "driver"})
      if (const std::string match = first(ini, "match", key);
          !match.empty() && match.find("virtio") == std::string::npos)
        c.config.troubles.push_back(path + ": the connection matches cards by " + key + " " + match +
                                    ", which the new card does not have");
  }
}

void read_networkd(Collector& c) {
  const std::string directory = "/etc/systemd/network";
  for (const std::string& path : c.files(directory)) {
    const bool link = path.ends_with(".link");
    if (path.ends_with(".netdev")) {
      if (const auto text = c.draft().try_read(path))
        c.made_by_software(first(parse_ini(*text), "NetDev", "Name"));
      continue;
    }
    if (!link && !path.ends_with(".network"))
      continue;
    const auto text = c.draft().try_read(path);
    if (!text)
      continue;
    const IniFile ini = parse_ini(*text);
    const bool hardware = !first(ini, "Match", "Path").empty() || !first(ini, "Match", "Driver").empty();
    std::string mac = normal_mac(first(ini, "Match", "MACAddress"));
    if (mac.empty())
      mac = normal_mac(first(ini, "Match", "PermanentMACAddress"));
    const bool ours = base_name(path).starts_with("10-kvmport-");
    if (link) {
      const std::string name = first(ini, "Link", "Name");
      c.bind(mac, name);
      if (!mac.empty() && !name.empty() && (ours || !hardware))
        c.config.settled.insert(mac);
      else if (!name.empty())
        c.name(name, path);
    } else {
      const std::string names = first(ini, "Match", "Name");
      const auto words = split_words(names);
      for (const Word& word : words)
        c.name(word.text, path);
      if (words.size() == 1)
        c.bind(mac, names);
      c.limited_to(mac, path);
    }
    if (hardware && !ours)
      c.config.hardware_matches.push_back(path);
  }
}

// --- ifcfg: initscripts, NetworkManager's ifcfg-rh, wicked ---------------------------------------------------------

void read_ifcfg_file(Collector& c, const std::string& path, bool suse) {
  const auto text = c.draft().try_read(path);
  if (!text)
    return;
  const auto value = [&](std::string_view name) { return shell_value(*text, name).value_or(""); };
  const std::string file_name(base_name(path).substr(6)); // after "ifcfg-"
  std::string name = value("DEVICE");
  const std::string mac = normal_mac(value(suse ? "LLADDR" : "HWADDR"));
  if (name.empty() && (suse || (mac.empty() && file_name.find(' ') == std::string::npos)))
    name = file_name;
  for (const char* key : {"BRIDGE_PORTS", "ETHERDEVICE", "PHYSDEV", "BONDING_SLAVE_0", "BONDING_SLAVE_1",
                          "BONDING_SLAVE_2", "BONDING_SLAVE_3", "BONDING_SLAVE0", "BONDING_SLAVE1"}) {
    const std::string members = value(key);
    for (const Word& word : split_words(members)) {
      c.made_by_software(name);
      c.name(word.text, path);
    }
  }
  const std::string type = lower(value("TYPE") + value("DEVICETYPE"));
  if (type.find("bridge") != std::string::npos || type.find("bond") != std::string::npos ||
      type.find("vlan") != std::string::npos || type.find("team") != std::string::npos ||
      lower(value("BRIDGE")) == "yes" || lower(value("BONDING_MASTER")) == "yes" || lower(value("VLAN")) == "yes")
    c.made_by_software(name);
  if (file_name.starts_with("eth-id-")) { // SUSE before udev: the card is in the file's name
    c.bind(normal_mac(file_name.substr(7)), {});
    return;
  }
  if (!suse) {
    c.bind(mac, name);
    c.limited_to(mac, path);
  }
  c.name(name, path);
}

void read_ifcfg(Collector& c) {
  for (const auto& [directory, suse] :
       {std::pair{"/etc/sysconfig/network-scripts", false}, std::pair{"/etc/sysconfig/network", true}})
    for (const std::string& path : c.files(directory)) {
      const std::string_view name = base_name(path);
      if (name.starts_with("ifcfg-") && name != "ifcfg-lo" && name != "ifcfg-template")
        read_ifcfg_file(c, path, suse);
    }
}

// --- smaller ones --------------------------------------------------------------------------------------------------

void read_dhcpcd_and_netctl(Collector& c) {
  if (const auto text = c.draft().try_read("/etc/dhcpcd.conf"))
    for (const std::string& line : split_lines(*text)) {
      const auto words = split_words(line_body(line));
      if (words.size() == 2 && words[0].text == "interface")
        c.name(words[1].text, "/etc/dhcpcd.conf");
    }
  for (const std::string& path : c.files("/etc/netctl"))
    if (const auto text = c.draft().try_read(path); text && shell_value(*text, "Connection") == "ethernet")
      c.name(shell_value(*text, "Interface").value_or(""), path);
  for (const std::string& path : c.files("/etc/wicked/ifconfig", ".xml"))
    if (const auto text = c.draft().try_read(path))
      for (std::size_t at = text->find("<name>"); at != std::string::npos; at = text->find("<name>", at + 6))
        c.name(text->substr(at + 6, text->find('<', at + 6) - at - 6), path);
}

// --- udev rules ----------------------------------------------------------------------------------------------------

/// The value of `key=="…"` (or NAME="…") in a udev rule.
std::string rule_value(std::string_view line, std::string_view key) {
  for (std::size_t at = line.find(key); at != std::string_view::npos; at = line.find(key, at + 1)) {
    if (at > 0 && line[at - 1] != ' ' && line[at - 1] != ',' && line[at - 1] != '\t')
      continue;
    std::string_view rest = line.substr(at + key.size());
    const std::size_t open = rest.find('"');
    if (open == std::string_view::npos || rest.substr(0, open).find_first_not_of("=: \t") != std::string_view::npos)
      continue;
    rest.remove_prefix(open + 1);
    return std::string(rest.substr(0, rest.find('"')));
  }
  return {};
}

void read_udev_rules(Collector& c) {
  for (const std::string& path : c.files("/etc/udev/rules.d", ".rules")) {
    const auto text = c.draft().try_read(path);
    if (!text)
      continue;
    std::size_t number = 0;
    for (const std::string& line : split_lines(*text)) {
      number++;
      const std::string_view body = trim(line);
      if (body.starts_with('#') || rule_value(body, "SUBSYSTEM") != "net" || rule_value(body, "NAME").empty())
        continue;
      NetRule rule;
      rule.file = path;
      rule.line = number;
      rule.name = rule_value(body, "NAME");
      if (rule.name.find_first_of("$%") != std::string::npos)
        continue; // a rule for every card
      for (const char* key : {"ATTR{address}", "ATTRS{address}", "SYSFS{address}"})
        if (rule.mac.empty())
          rule.mac = normal_mac(rule_value(body, key));
      const std::string driver = rule_value(body, "DRIVERS");
      rule.bound_to_hardware = !rule_value(body, "KERNELS").empty() || !rule_value(body, "ID").empty() ||
                               !rule_value(body, "BUS").empty() || !rule_value(body, "ENV{ID_PATH}").empty() ||
                               (!driver.empty() && driver != "?*");
      c.bind(rule.mac, rule.name);
      if (!rule.mac.empty() && !rule.bound_to_hardware)
        c.config.settled.insert(rule.mac);
      else if (rule.bound_to_hardware)
        c.name(rule.name, path);
      c.config.rules.push_back(std::move(rule));
    }
  }
}

} // namespace

std::string normal_mac(std::string_view text) {
  std::string mac;
  for (char c : trim(text)) {
    if (std::isxdigit(static_cast<unsigned char>(c)))
      mac += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    else if (c == ':' || c == '-')
      mac += ':';
    else
      return {};
  }
  if (mac.size() != 17)
    return {};
  for (std::size_t i = 0; i < mac.size(); i++)
    if ((mac[i] == ':') != (i % 3 == 2))
      return {};
  return mac;
}

IniFile parse_ini(std::string_view text) {
  IniFile ini;
  std::string section;
  for (const std::string& line : split_lines(text)) {
    const std::string_view body = trim(line);
    if (body.empty() || body.front() == '#' || body.front() == ';')
      continue;
    if (body.front() == '[' && body.back() == ']') {
      section = body.substr(1, body.size() - 2);
      continue;
    }
    const std::size_t equals = body.find('=');
    if (equals != std::string_view::npos)
      ini[section][std::string(trim(body.substr(0, equals)))].emplace_back(trim(body.substr(equals + 1)));
  }
  return ini;
}

NetworkConfig read_network_config(const Draft& draft) {
  Collector c(draft);
  read_udev_rules(c); // what ties names to MACs comes first: it decides
  read_networkd(c);
  read_netplan(c);
  read_ifcfg(c);
  read_network_manager(c);
  read_ifupdown(c);
  read_dhcpcd_and_netctl(c);
  c.finish();
  return std::move(c.config);
}

} // namespace kvmport::linux_guest
