// SPDX-License-Identifier: Apache-2.0
// The guest's name: where it is set, and where configuration repeats it. Services that keep their data under the name
// are only named in warnings: what they need is their own procedure.
#include "base/error.h"
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace kvmport::identity {
namespace {

using linux_guest::edit_lines;
using linux_guest::line_body;
using linux_guest::split_lines;
using linux_guest::split_words;
using linux_guest::trim;

constexpr const char* rule_name = "hostname";
constexpr const char* reason = "the clone has a name of its own";

struct Name {
  std::string host, domain; ///< "db1", "example.com"
  std::string full() const { return domain.empty() ? host : host + "." + domain; }
};

Name split_name(const std::string& text) {
  const std::size_t dot = text.find('.');
  return dot == std::string::npos ? Name{text, {}} : Name{text.substr(0, dot), text.substr(dot + 1)};
}

/// hostname(7): labels of letters, digits and hyphens, at most 64 bytes as the kernel keeps it.
void check_name(const std::string& name) {
  bool good = !name.empty() && name.size() <= 64 && name.back() != '.';
  for (std::size_t i = 0; i < name.size(); i++) {
    const bool edge = i == 0 || name[i - 1] == '.' || i + 1 == name.size() || name[i + 1] == '.';
    const bool letter = std::isalnum(static_cast<unsigned char>(name[i])) != 0;
    good = good && (letter || (name[i] == '-' && !edge) || (name[i] == '.' && i > 0 && name[i - 1] != '.'));
  }
  if (!good)
    throw Error("HOSTNAME_INVALID", "\"" + name + "\" can't be a host's name",
                "a name has at most 64 letters, digits, hyphens and dots, and its parts begin and end with a letter or "
                "digit");
}

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
}

/// Every name in `text` that is the old one, short or with any domain, becomes the new one.
std::string replace_name(std::string_view text, const Name& old_name, const Name& new_name) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && is_name_char(text[end]))
      end++;
    if (end == i) {
      out += text[i++];
      continue;
    }
    const Name found = split_name(std::string(text.substr(i, end - i)));
    if (!linux_guest::equal_nocase(found.host, old_name.host))
      out += text.substr(i, end - i);
    else if (found.domain.empty())
      out += new_name.host;
    else
      out += Name{new_name.host, found.domain == old_name.domain ? new_name.domain : found.domain}.full();
    i = end;
  }
  return out;
}

/// The domain that the old short name has in /etc/hosts.
std::string domain_in_hosts(const std::string& host, const Draft& draft) {
  if (const auto text = read_config(draft, "/etc/hosts"))
    for (const std::string& line : split_lines(*text)) {
      const std::string_view body = line_body(line);
      for (const auto& word : split_words(body.substr(0, body.find('#'))))
        if (const Name name = split_name(std::string(word.text)); name.host == host && !name.domain.empty())
          return name.domain;
    }
  return {};
}

/// KEY=value in a file of shell-like lines gets this value.
bool set_value(const std::string& path, const std::string& key, const std::string& value, Draft& draft) {
  const auto text = read_config(draft, path);
  if (!text || !linux_guest::shell_value(*text, key))
    return false;
  draft.write(path,
              edit_lines(*text,
                         [&](std::string& line, std::size_t) {
                           const std::size_t equals = line.find('=');
                           if (equals != std::string::npos && trim(line.substr(0, equals)) == key)
                             line = line.substr(0, equals + 1) +
                                    (line.find('"') != std::string::npos ? "\"" + value + "\"" : value);
                           return true;
                         }),
              reason);
  return true;
}

/// Where the name is set: exactly the new one goes there.
void set_name(const GuestInfo& info, bool with_domain, const Name& name, Draft& draft) {
  const std::string value = with_domain ? name.full() : name.host;
  bool set = false;
  for (const char* path : {"/etc/hostname", "/etc/HOSTNAME"})
    if (draft.exists(path)) {
      draft.write(path, value + "\n", reason);
      set = true;
    }
  set = set_value("/etc/sysconfig/network", "HOSTNAME", value, draft) || set;
  for (const char* key : {"hostname", "HOSTNAME"})
    set = set_value("/etc/conf.d/hostname", key, value, draft) || set;
  if (!set)
    draft.write("/etc/hostname", value + "\n", reason);
  if (const auto text = read_config(draft, "/etc/machine-info"))
    draft.write(
        "/etc/machine-info",
        edit_lines(*text, [](std::string& line, std::size_t) { return !trim(line).starts_with("PRETTY_HOSTNAME="); }),
        reason);
  if (!find_files(info, draft, {"/etc/cloud/cloud.cfg"}).empty())
    draft.write("/etc/cloud/cloud.cfg.d/99-kvmport-hostname.cfg", "preserve_hostname: true\n",
                "cloud-init would set the name that it knew before");
}

/// Where the name is repeated: only the old one is replaced, in lines that begin with one of the keys.
struct Repeated {
  const char* pattern;
  std::vector<std::string> keys; ///< of lines; empty: all
};
const std::vector<Repeated>& repeated_in() {
  static const std::vector<Repeated> list{
      {"/etc/hosts", {}},
      {"/etc/mailname", {}},
      {"/etc/cloud/templates/hosts.*.tmpl", {}},
      {"/etc/sysconfig/network-scripts/ifcfg-*", {"DHCP_HOSTNAME", "DHCP_FQDN"}},
      {"/etc/sysconfig/network/dhcp", {"DHCLIENT_HOSTNAME_OPTION"}},
      {"/etc/NetworkManager/system-connections/*", {"dhcp-hostname", "dhcp-fqdn"}},
      {"/etc/systemd/network/*.network", {"Hostname"}},
      {"/etc/netplan/*.yaml", {"hostname:"}},
      {"/etc/dhcp/dhclient.conf", {"send host-name", "send fqdn.fqdn", "send dhcp-client-identifier"}},
      {"/etc/dhcpcd.conf", {"hostname"}},
      {"/etc/network/interfaces", {"hostname", "dhcp-hostname"}},
      {"/etc/network/interfaces.d/*", {"hostname", "dhcp-hostname"}},
  };
  return list;
}

void replace_repeated(const GuestInfo& info, const Name& old_name, const Name& new_name, Draft& draft) {
  for (const Repeated& where : repeated_in())
    for (const std::string& path : find_files(info, draft, {where.pattern})) {
      const auto text = read_config(draft, path);
      if (!text)
        continue;
      const auto concerned = [&](std::string_view line) {
        return where.keys.empty() ||
               std::ranges::any_of(where.keys, [&](const auto& key) { return trim(line).starts_with(key); });
      };
      write_discreetly(draft, path,
                       edit_lines(*text,
                                  [&](std::string& line, std::size_t) {
                                    if (concerned(line) && !trim(line).starts_with('#'))
                                      line = replace_name(line, old_name, new_name);
                                    return true;
                                  }),
                       "it repeats the name " + old_name.host);
    }
}

/// Programs that know the guest by its name and that no rule edits.
void warn_of_services(const GuestInfo& info, const Name& old_name, Draft& draft) {
  for (const std::string& path :
       find_files(info, draft,
                  {"/etc/postfix/main.cf", "/etc/exim4/update-exim4.conf.conf", "/etc/samba/smb.conf",
                   "/etc/puppet/puppet.conf", "/etc/puppetlabs/puppet/puppet.conf", "/etc/zabbix/zabbix_agent*.conf",
                   "/etc/datadog-agent/datadog.yaml", "/etc/rabbitmq/rabbitmq-env.conf", "/etc/corosync/corosync.conf",
                   "/etc/default/prometheus*", "/etc/salt/minion", "/etc/chef/client.rb", "/etc/sssd/sssd.conf"}))
    if (const auto text = read_config(draft, path)) {
      std::size_t number = 0;
      for (const std::string& line : split_lines(*text)) {
        number++;
        const std::string_view body = trim(line);
        if (!body.starts_with('#') && replace_name(body, old_name, {"", ""}) != body) {
          draft.warn(path + " line " + std::to_string(number) + " names " + old_name.host +
                     ", the original; it was left as it is");
          break;
        }
      }
    }
  if (!find_paths(info, draft, "/var/lib/rabbitmq/mnesia/rabbit@" + old_name.host).empty())
    draft.warn("RabbitMQ keeps its data under the old name; under the new one it starts empty");
  if (lvm_system_id_source(draft) == "uname")
    draft.warn("LVM takes the host's name for the owner of volume groups (system_id_source = \"uname\"): under the new "
               "name they are foreign and stay inactive. Keep the name, or change system_id_source in the original");
}

void set_hostname(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  const std::string configured = configured_hostname(draft);
  if (identity.hostname.empty()) {
    if (!configured.empty())
      draft.note("the clone keeps the name " + configured);
    return;
  }
  check_name(identity.hostname);
  if (!identity.domain.empty())
    check_name(identity.domain);
  Name old_name = split_name(configured), new_name = split_name(identity.hostname);
  const bool with_domain = !new_name.domain.empty() || !old_name.domain.empty();
  if (old_name.domain.empty() && !old_name.host.empty())
    old_name.domain = domain_in_hosts(old_name.host, draft);
  if (new_name.domain.empty())
    new_name.domain = identity.domain.empty() ? old_name.domain : identity.domain;
  set_name(info, with_domain, new_name, draft);
  if (old_name.host.empty() || old_name.host == new_name.host)
    return;
  replace_repeated(info, old_name, new_name, draft);
  warn_of_services(info, old_name, draft);
}

void report_hostname(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  if (const std::string name = configured_hostname(draft); !name.empty())
    found.push_back({rule_name, "/etc/hostname", name});
}

} // namespace

std::vector<IdentityRule> hostname_rules() {
  return {{.name = rule_name,
           .summary = "the host's name where it is set, and the old name in /etc/hosts, /etc/mailname and the DHCP "
                      "clients' configuration, so that the clone doesn't claim the original's name (needs a new name)",
           .edit = set_hostname,
           .report = report_hostname}};
}

} // namespace kvmport::identity
