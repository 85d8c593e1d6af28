// SPDX-License-Identifier: Apache-2.0
// Agents that report to a server under an id or key of the machine: configuration management, monitoring, security,
// private networks.
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <set>

namespace kvmport::identity {
namespace {

using linux_guest::edit_lines;
using linux_guest::split_lines;
using linux_guest::trim;

const std::vector<std::string>& wireguard_files() {
  static const std::vector<std::string> files{"/etc/wireguard/*.conf", "/etc/systemd/network/*.netdev",
                                              "/etc/NetworkManager/system-connections/*"};
  return files;
}

/// "PrivateKey = …" of WireGuard and networkd, "private-key=…" of NetworkManager.
bool has_private_key(const std::string& text) {
  for (const std::string& line : split_lines(text))
    if (const std::string body = linux_guest::lower(trim(line));
        body.starts_with("privatekey") || body.starts_with("private-key="))
      return true;
  return false;
}

void warn_of_wireguard(const GuestInfo& info, const CloneIdentity&, Draft& draft) {
  for (const std::string& path : find_files(info, draft, wireguard_files()))
    if (has_private_key(read_config(draft, path).value_or("")))
      draft.warn(path + " holds a WireGuard key and was left: the clone takes the original's place in that network as "
                        "soon as it sends there; give it a key of its own");
}

void report_wireguard(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const std::string& path : find_files(info, draft, wireguard_files()))
    if (has_private_key(read_config(draft, path).value_or("")))
      report_digest("wireguard", path, draft, found);
}

constexpr const char* falcon_store = "/opt/CrowdStrike/falconstore";

void warn_of_falcon(const GuestInfo&, const CloneIdentity&, Draft& draft) {
  if (draft.exists(falcon_store))
    draft.warn(
        std::string(falcon_store) +
        " holds the agent's id and was left, as the customer's id is in it too: run falconctl -d -f --aid in the "
        "original before cloning, or in the clone");
}

void report_falcon(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  report_digest("crowdstrike", falcon_store, draft, found);
}

const std::vector<std::string>& snmp_files() {
  static const std::vector<std::string> files{"/var/lib/snmp/snmpd.conf", "/var/lib/net-snmp/snmpd.conf"};
  return files;
}

bool is_engine_line(std::string_view line) {
  return trim(line).starts_with("oldEngineID") || trim(line).starts_with("engineBoots");
}

/// net-snmp's persistent file also has what administrators set, so only the engine's id goes.
void forget_snmp_engine(const GuestInfo& info, const CloneIdentity&, Draft& draft) {
  for (const std::string& path : find_files(info, draft, snmp_files())) {
    const auto text = read_config(draft, path);
    if (!text)
      continue;
    const std::string after = edit_lines(*text, [](std::string& line, std::size_t) { return !is_engine_line(line); });
    write_discreetly(draft, path, after, "SNMP managers know the original by its engine's id");
    if (after != *text && text->find("usmUser") != std::string::npos)
      draft.warn(path +
                 " holds keys of SNMPv3 users that were made for the old engine id: create the users anew in the "
                 "clone");
  }
}

void report_snmp_engine(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const std::string& path : find_files(info, draft, snmp_files()))
    for (const std::string& line : split_lines(read_config(draft, path).value_or("")))
      if (trim(line).starts_with("oldEngineID"))
        found.push_back({"snmp-engine", path, std::string(trim(trim(line).substr(11)))});
}

} // namespace

std::vector<IdentityRule> agent_rules() {
  return {
      {.name = "salt-minion",
       .summary = "the keys and id of a Salt minion",
       .paths = {"/etc/salt/pki/minion/*", "/etc/salt/minion_id"}},
      {.name = "chef-client",
       .summary = "the key of a Chef client; the validation key stays",
       .paths = {"/etc/chef/client.pem"}},
      {.name = "puppet-agent",
       .summary = "the certificate and key of a Puppet agent",
       .paths = {"/etc/puppetlabs/puppet/ssl/**", "/var/lib/puppet/ssl/**", "/etc/puppet/ssl/**"},
       .unless = {{"/etc/puppetlabs/puppetserver/ca/ca_key.pem", "this is Puppet's certificate authority"},
                  {"/etc/puppetlabs/puppet/ssl/ca/ca_key.pem", "this is Puppet's certificate authority"},
                  {"/var/lib/puppet/ssl/ca/ca_key.pem", "this is Puppet's certificate authority"}}},
      {.name = "cfengine", .summary = "CFEngine's host key", .paths = {"/var/cfengine/ppkeys/localhost.*"}},
      {.name = "monitoring-agents",
       .summary = "ids and tokens of monitoring and logging agents (Datadog, Elastic Beats, Netdata, Splunk, Qualys, "
                  "Wazuh), which make new ones or must be enrolled",
       .paths = {"/etc/datadog-agent/auth_token", "/var/lib/*beat/meta.json", "/var/lib/netdata/registry/*.unique.id",
                 "/var/lib/netdata/cloud.d/**", "/opt/splunkforwarder/etc/instance.cfg", "/etc/qualys/hostid",
                 "/var/ossec/etc/client.keys"}},
      {.name = "crowdstrike",
       .summary = "a warning where CrowdStrike's agent has an id",
       .edit = warn_of_falcon,
       .report = report_falcon},
      {.name = "cloud-agents",
       .summary = "ids of agents of Amazon SSM, Consul, Nomad and GitLab's runner",
       .paths = {"/var/lib/amazon/ssm/Vault/Store/*", "/opt/consul/node-id", "/var/lib/consul/node-id",
                 "/opt/nomad/data/client/client-id", "/var/lib/nomad/client/client-id",
                 "/etc/gitlab-runner/.runner_system_id"}},
      {.name = "tailscale",
       .summary = "the machine's key in a Tailscale network",
       .paths = {"/var/lib/tailscale/tailscaled.state"}},
      {.name = "zerotier",
       .summary = "the machine's key in ZeroTier networks",
       .paths = {"/var/lib/zerotier-one/identity.*"}},
      {.name = "wireguard",
       .summary = "a warning where WireGuard keys are: nothing in the guest could make new ones",
       .edit = warn_of_wireguard,
       .report = report_wireguard},
      {.name = "snmp-engine",
       .summary = "the engine id of an SNMP agent",
       .edit = forget_snmp_engine,
       .report = report_snmp_engine},
  };
}

} // namespace kvmport::identity
