// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/medium_settings.h"

#include "base/error.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/link.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <fmt/format.h>
#include <functional>
#include <map>
#include <utility>

namespace kvmport {
namespace {

[[noreturn]] void refuse(std::string_view setting, std::string_view text, std::string_view wanted) {
  throw Error("SETTING_INVALID", fmt::format("{}: \"{}\" is not valid", setting, printable(text, 80)), {},
              std::string(wanted));
}

bool made_of(std::string_view text, std::string_view more) {
  return std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || more.find(c) != more.npos;
  });
}

bool is_ipv4(const std::string& text) {
  in_addr a{};
  return ::inet_pton(AF_INET, text.c_str(), &a) == 1;
}
bool is_ipv6(const std::string& text) {
  in6_addr a{};
  return ::inet_pton(AF_INET6, text.c_str(), &a) == 1;
}
std::string checked_ip(std::string_view setting, std::string_view text) {
  std::string ip(text);
  if (!is_ipv4(ip) && !is_ipv6(ip))
    refuse(setting, text, "an IPv4 or IPv6 address");
  return ip;
}

unsigned checked_number(std::string_view setting, std::string_view text, unsigned least, unsigned most) {
  const auto n = made_of(text, "") ? parse_number(text) : std::nullopt;
  if (!n || *n < least || *n > most)
    refuse(setting, text, fmt::format("a number from {} to {}", least, most));
  return static_cast<unsigned>(*n);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == text.npos)
      return parts;
    text.remove_prefix(end + 1);
  }
}

/// Words as the kernel's next_arg() splits them: at blanks outside of double quotes.
std::vector<std::string> words(std::string_view line) {
  std::vector<std::string> out;
  std::string word;
  bool quoted = false, any = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (!quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\0')) {
      if (any)
        out.push_back(std::exchange(word, {}));
      any = false;
    } else {
      word += c;
      any = true;
    }
  }
  if (any)
    out.push_back(word);
  return out;
}

void set_address(NetworkSettings& n, std::string_view text) {
  const auto slash = text.find('/');
  if (slash == text.npos)
    refuse("p2v.net", text, "dhcp, or IP/PREFIX");
  n.dhcp = false;
  n.address = checked_ip("p2v.net", text.substr(0, slash));
  n.prefix = checked_number("p2v.net", text.substr(slash + 1), 1, is_ipv4(n.address) ? 32 : 128);
}

void set_option(NetworkSettings& n, std::string_view option) {
  const auto equals = option.find('=');
  const std::string_view key = option.substr(0, equals);
  const std::string_view value = equals == option.npos ? std::string_view() : option.substr(equals + 1);
  if (key == "gw") {
    n.gateway = checked_ip("p2v.net gw", value);
  } else if (key == "dns") {
    n.dns.push_back(checked_ip("p2v.net dns", value));
  } else if (key == "vlan") {
    n.vlan = checked_number("p2v.net vlan", value, 1, 4094);
  } else if (key == "dev") {
    const auto mac = parse_mac(value);
    n.device = mac ? *mac : std::string(value);
    if (!mac && (value.empty() || value.size() > 15 || !made_of(value, "_-.") || value.front() == '-'))
      refuse("p2v.net dev", value, "the name of a network card or its MAC address");
  } else {
    refuse("p2v.net", option, "gw=IP, dns=IP, dev=NAME or MAC, vlan=N");
  }
}

AfterCapture parse_after(std::string_view key, std::string_view text, bool dialog) {
  for (const auto after : {AfterCapture::poweroff, AfterCapture::reboot, AfterCapture::shell, AfterCapture::dialog})
    if (text == to_string(after) && (dialog || after != AfterCapture::dialog))
      return after;
  refuse(key, text, dialog ? "dialog, poweroff, reboot or shell" : "poweroff, reboot or shell");
}

bool parse_wish(std::string_view key, std::string_view text) {
  if (text.empty())
    return true;
  const auto wish = parse_bool(text);
  if (!wish)
    refuse(key, text, "yes or no");
  return *wish;
}

using Setter = std::function<void(MediumSettings&, std::string_view key, std::string_view value)>;

void set_disks(MediumSettings& s, std::string_view /*key*/, std::string_view value) {
  s.disks.clear();
  for (const auto name : split(value, ',')) {
    check_disk_name(name);
    s.disks.emplace_back(name);
  }
}

void set_enrol(MediumSettings& s, std::string_view key, std::string_view value) {
  const bool port = !value.empty() && value.find_first_not_of("0123456789") == value.npos && value.size() > 1;
  s.enrol_port = port                     ? static_cast<std::uint16_t>(checked_number(key, value, 1, 65535))
                 : parse_wish(key, value) ? default_enrol_port
                                          : std::uint16_t{0};
}

const std::map<std::string, Setter, std::less<>>& setters() {
  using S = MediumSettings;
  using T = std::string_view;
  static const std::map<std::string, Setter, std::less<>> all = {
      {"p2v.server", [](S& s, T, T v) { s.server = parse_server(v); }},
      {"p2v.host_key", [](S& s, T, T v) { check_host_key(v), s.host_key = v; }},
      {"p2v.disks", set_disks},
      {"p2v.name", [](S& s, T, T v) { check_guest_name(v), s.name = v; }},
      {"p2v.net", [](S& s, T, T v) { s.network = parse_medium_network(v), s.network_preset = true; }},
      {"p2v.bandwidth", [](S& s, T, T v) { check_bandwidth(v), s.bandwidth = v; }},
      {"p2v.streams", [](S& s, T k, T v) { s.streams = checked_number(k, v, 1, 16); }},
      {"p2v.convert", [](S& s, T k, T v) { s.convert = parse_wish(k, v); }},
      {"p2v.rescue", [](S& s, T k, T v) { s.rescue = parse_wish(k, v); }},
      {"p2v.inventory", [](S& s, T k, T v) { s.inventory = parse_wish(k, v); }},
      {"p2v.enrol", set_enrol},
      {"p2v.post", [](S& s, T k, T v) { s.post = parse_after(k, v, false); }},
      {"p2v.fail", [](S& s, T k, T v) { s.fail = parse_after(k, v, true); }},
  };
  return all;
}

} // namespace

std::string to_string(AfterCapture after) {
  constexpr std::array names{"dialog", "poweroff", "reboot", "shell"};
  return names.at(static_cast<std::size_t>(after));
}

std::string ServerAddress::url() const {
  return fmt::format("ssh://{}{}{}{}", user.empty() ? "" : user + "@",
                     host.find(':') == host.npos ? host : "[" + host + "]", port == 22 ? "" : fmt::format(":{}", port),
                     directory);
}

ServerAddress parse_server(std::string_view text) {
  const auto bad = [&] { refuse("p2v.server", text, "ssh://[USER@]HOST[:PORT]/DIR"); };
  LinkTarget target;
  try {
    target = parse_link_target(std::string(text.substr(0, 1024)));
  } catch (const Error&) {
    bad();
  }
  const bool v6 = is_ipv6(target.host);
  if (text.size() > 1024 || target.host.empty() || !made_of(target.user, "._-") || (!v6 && !made_of(target.host, ".-")))
    bad();
  // Neither a server's shell nor authorized_keys needs to quote these.
  if (!made_of(target.directory, "/._-+@=~") || target.directory.find("..") != std::string::npos)
    refuse("p2v.server", target.directory, "a directory of letters, digits and / . _ - + @ = ~");
  const std::uint16_t ssh_port = 22;
  return {target.user, target.host, target.port == 0 ? ssh_port : target.port, target.directory};
}

NetworkSettings parse_medium_network(std::string_view text) {
  NetworkSettings n;
  const auto parts = split(text, ',');
  if (parts.front() != "dhcp")
    set_address(n, parts.front());
  for (const auto option : std::vector(parts.begin() + 1, parts.end()))
    set_option(n, option);
  if (n.dhcp && !n.gateway.empty())
    refuse("p2v.net", text, "gw= only with a fixed address: DHCP brings its own");
  if (!n.gateway.empty() && is_ipv4(n.gateway) != is_ipv4(n.address))
    refuse("p2v.net", text, "address and gateway of the same kind");
  return n;
}

std::string NetworkSettings::text() const {
  std::string out = dhcp ? "dhcp" : fmt::format("{}/{}", address, prefix);
  if (!gateway.empty())
    out += ",gw=" + gateway;
  for (const auto& server : dns)
    out += ",dns=" + server;
  if (!device.empty())
    out += ",dev=" + device;
  if (vlan != 0)
    out += fmt::format(",vlan={}", vlan);
  return out;
}

std::vector<std::vector<std::string>> network_commands(const NetworkSettings& n, const std::string& device,
                                                       const std::string& script) {
  std::vector<std::vector<std::string>> out;
  std::string top = device;
  out.push_back({"ip", "link", "set", "dev", device, "up"});
  if (n.vlan != 0) {
    // A name of the kernel has at most 15 bytes.
    top = fmt::format("vlan{}", n.vlan);
    out.push_back({"ip", "link", "add", "link", device, "name", top, "type", "vlan", "id", fmt::format("{}", n.vlan)});
    out.push_back({"ip", "link", "set", "dev", top, "up"});
  }
  if (n.dhcp) {
    // -n: fail without a lease; with one it stays in the background and renews it.
    out.push_back({"udhcpc", "-i", top, "-n", "-t", "6", "-T", "3", "-S", "-s", script});
    return out;
  }
  out.push_back({"ip", "addr", "replace", fmt::format("{}/{}", n.address, n.prefix), "dev", top});
  if (!n.gateway.empty())
    out.push_back(
        {"ip", is_ipv4(n.gateway) ? "-4" : "-6", "route", "replace", "default", "via", n.gateway, "dev", top});
  return out;
}

std::string resolver_file(const NetworkSettings& n) {
  std::string out;
  for (const auto& server : n.dns)
    out += "nameserver " + server + "\n";
  return out;
}

void check_host_key(std::string_view text) {
  constexpr std::string_view prefix = "SHA256:";
  if (!text.starts_with(prefix) || text.size() != prefix.size() + 43 || !made_of(text.substr(prefix.size()), "+/"))
    refuse("p2v.host_key", text, "SHA256: and 43 characters, as ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub says");
}

void check_guest_name(std::string_view text) {
  if (text.empty() || text.size() > 63 || !made_of(text, "._-") || text.front() == '-' || text.front() == '.')
    refuse("p2v.name", text, "at most 63 letters, digits and . _ -");
}

void check_disk_name(std::string_view text) {
  if (text.empty() || text.size() > 31 || !made_of(text, "_-!") || text.front() == '-')
    refuse("p2v.disks", text, "names of the kernel, as sda,nvme0n1");
}

void check_bandwidth(std::string_view text) {
  std::string_view digits = text;
  if (!digits.empty() && std::string_view("kKmMgG").find(digits.back()) != std::string_view::npos)
    digits.remove_suffix(1);
  if (digits.empty() || digits.size() > 12 || digits.find_first_not_of("0123456789") != digits.npos)
    refuse("p2v.bandwidth", text, "bytes a second, as 50M");
}

MediumSettings parse_kernel_arguments(std::string_view command_line) {
  MediumSettings s;
  for (const auto& word : words(command_line)) {
    if (!word.starts_with("p2v."))
      continue;
    const auto equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const auto setter = setters().find(key);
    if (setter == setters().end())
      throw Error("SETTING_INVALID", fmt::format("{}: there is no such setting", printable(key, 80)), {},
                  "see kvm-p2v(1) for those that there are");
    setter->second(s, key, equals == word.npos ? std::string_view() : std::string_view(word).substr(equals + 1));
  }
  return s;
}

std::vector<std::string> kernel_arguments(const MediumSettings& s) {
  std::vector<std::string> out;
  const auto add = [&](std::string_view key, std::string_view value) {
    out.push_back(fmt::format("{}={}", key, value));
  };
  if (s.server)
    add("p2v.server", s.server->url());
  if (!s.host_key.empty())
    add("p2v.host_key", s.host_key);
  if (s.enrol_port != 0)
    add("p2v.enrol", s.enrol_port == default_enrol_port ? "yes" : fmt::format("{}", s.enrol_port));
  if (s.network_preset)
    add("p2v.net", s.network.text());
  if (!s.disks.empty())
    add("p2v.disks", fmt::format("{}", fmt::join(s.disks, ",")));
  if (!s.name.empty())
    add("p2v.name", s.name);
  if (!s.bandwidth.empty())
    add("p2v.bandwidth", s.bandwidth);
  if (s.streams != 0)
    add("p2v.streams", fmt::format("{}", s.streams));
  if (!s.convert)
    add("p2v.convert", "no");
  if (s.rescue)
    add("p2v.rescue", "yes");
  if (s.inventory)
    add("p2v.inventory", "yes");
  if (s.post != AfterCapture::poweroff)
    add("p2v.post", to_string(s.post));
  if (s.fail != AfterCapture::dialog)
    add("p2v.fail", to_string(s.fail));
  return out;
}

std::vector<std::string> capture_arguments(const MediumSettings& s, const std::string& program) {
  if (!s.server)
    throw Error("SETTING_INVALID", "no server was named");
  std::vector<std::string> out{program, "capture", "--json", "--to", s.server->url()};
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty())
      out.insert(out.end(), {option, value});
  };
  add("--host-key", s.host_key);
  add("--identity", s.identity);
  add("--disks", fmt::format("{}", fmt::join(s.disks, ",")));
  add("--name", s.name);
  add("--bandwidth", s.bandwidth);
  add("--streams", s.streams == 0 ? std::string() : fmt::format("{}", s.streams));
  if (!s.convert)
    out.emplace_back("--no-convert");
  if (s.rescue)
    out.emplace_back("--rescue");
  return out;
}

} // namespace kvmport
