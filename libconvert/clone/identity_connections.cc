// SPDX-License-Identifier: Apache-2.0
// NetworkManager: its state, and the UUIDs by which it and others know connections. Connections refer to each other by
// UUID, so an old UUID is replaced wherever it stands in any of their files.
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <map>

namespace kvmport::identity {
namespace {

using linux_guest::lower;
using linux_guest::split_lines;
using linux_guest::trim;

constexpr const char* rule_name = "connection-uuids";
constexpr std::size_t uuid_length = 36;

std::vector<std::string> connection_files(const GuestInfo& info, const Draft& draft) {
  return find_files(
      info, draft,
      {"/etc/NetworkManager/system-connections/*", "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/netplan/*.yaml"});
}

/// The UUID that a line gives to a connection ("uuid=", "UUID=", "uuid:"); empty: none.
std::string own_uuid(std::string_view line) {
  const std::string body = lower(trim(line));
  if (!body.starts_with("uuid=") && !body.starts_with("uuid:"))
    return {};
  const auto found = find_uuids(body);
  return found.empty() ? std::string() : body.substr(found.front(), uuid_length);
}

/// Each connection's UUID and the file that gives it.
std::map<std::string, std::string> connection_uuids(const GuestInfo& info, const Draft& draft) {
  std::map<std::string, std::string> uuids;
  for (const std::string& path : connection_files(info, draft))
    if (const auto text = read_config(draft, path))
      for (const std::string& line : split_lines(*text))
        if (const std::string uuid = own_uuid(line); !uuid.empty())
          uuids.emplace(uuid, path);
  return uuids;
}

void rewrite_uuids(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  const auto uuids = connection_uuids(info, draft);
  const auto replaced = [&](std::string text) {
    for (const std::size_t at : find_uuids(text))
      if (const std::string old_uuid = lower(text.substr(at, uuid_length)); uuids.contains(old_uuid))
        text.replace(at, uuid_length, derived_uuid(identity, old_uuid));
    return text;
  };
  const std::string reason = "connections of two machines have UUIDs of their own; addresses are made from them";
  for (const std::string& path : connection_files(info, draft)) {
    if (const auto text = read_config(draft, path))
      write_discreetly(draft, path, replaced(*text), reason);
    // netplan names the files that NetworkManager has it write after the connections.
    if (const std::string renamed = replaced(path); renamed != path)
      draft.rename(path, renamed, reason);
  }
}

void report_uuids(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const auto& [uuid, path] : connection_uuids(info, draft))
    found.push_back({rule_name, path, uuid});
}

} // namespace

std::vector<IdentityRule> connection_rules() {
  return {
      {.name = "network-manager",
       .summary = "NetworkManager's secret key, from which it makes stable addresses and client ids, and what it "
                  "remembers of networks",
       .paths = {"/var/lib/NetworkManager/secret_key", "/var/lib/NetworkManager/seen-bssids",
                 "/var/lib/NetworkManager/timestamps"}},
      {.name = rule_name,
       .summary = "UUIDs of NetworkManager's connections (keyfiles, ifcfg, netplan) and all references to them, from "
                  "which client ids and stable addresses are made",
       .edit = rewrite_uuids,
       .report = report_uuids},
  };
}

} // namespace kvmport::identity
