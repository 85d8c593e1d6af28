// SPDX-License-Identifier: Apache-2.0
// The accounts that a machine has with others: domains and directories, distributors' subscriptions, anonymous counts.
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <nlohmann/json.hpp>

namespace kvmport::identity {
namespace {

using linux_guest::edit_lines;
using linux_guest::trim;

constexpr const char* popcon_rule = "popularity-contest";
constexpr const char* popcon_file = "/etc/popularity-contest.conf";
constexpr const char* snapd_rule = "snapd-device";
constexpr const char* snapd_state = "/var/lib/snapd/state.json";

void new_popcon_id(const GuestInfo&, const CloneIdentity& identity, Draft& draft) {
  const auto text = read_config(draft, popcon_file);
  if (!text)
    return;
  draft.write(popcon_file,
              edit_lines(*text,
                         [&](std::string& line, std::size_t) {
                           if (trim(line).starts_with("MY_HOSTID="))
                             line = "MY_HOSTID=\"" + derived_hex(identity, line, 32) + "\"";
                           return true;
                         }),
              "Debian counts installations by this number");
}

void report_popcon_id(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  if (const auto text = read_config(draft, popcon_file))
    if (const auto id = linux_guest::shell_value(*text, "MY_HOSTID"); id && !id->empty())
      found.push_back({popcon_rule, popcon_file, *id});
}

constexpr std::uint64_t snapd_limit = 64U << 20;
constexpr int snapd_depth = 100;

/// snapd's state; discarded when it is missing, too large, no JSON, or nested more deeply than snapd would.
nlohmann::ordered_json read_snapd_state(const Draft& draft) {
  const auto st = draft.lstat(snapd_state);
  if (!st || st->type != FileType::regular || st->size > snapd_limit)
    return nlohmann::ordered_json::value_t::discarded;
  bool too_deep = false;
  auto state = nlohmann::ordered_json::parse(
      draft.try_read(snapd_state).value_or(""),
      [&](int depth, nlohmann::ordered_json::parse_event_t, nlohmann::ordered_json&) {
        too_deep = too_deep || depth > snapd_depth;
        return !too_deep;
      },
      false);
  return too_deep ? nlohmann::ordered_json(nlohmann::ordered_json::value_t::discarded) : std::move(state);
}

/// data.auth.device of snapd's state; nothing when snapd has not registered the machine.
nlohmann::ordered_json* snapd_device(nlohmann::ordered_json& state) {
  nlohmann::ordered_json* at = &state;
  for (const char* key : {"data", "auth", "device"}) {
    if (!at->is_object() || !at->contains(key))
      return nullptr;
    at = &(*at)[key];
  }
  return at->is_object() ? at : nullptr;
}

/// As snapd does it itself when it unregisters a device: it makes a key and asks for a serial when it has none.
void forget_snapd_device(const GuestInfo&, const CloneIdentity&, Draft& draft) {
  auto state = read_snapd_state(draft);
  auto* device = snapd_device(state);
  if (!device)
    return;
  std::size_t forgotten = 0;
  for (const char* key : {"serial", "key-id", "session-macaroon"})
    forgotten += device->erase(key);
  if (forgotten > 0)
    write_discreetly(draft, snapd_state, state.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace),
                     "the snap store knows the original by its serial and key");
}

void report_snapd_device(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  auto state = read_snapd_state(draft);
  if (const auto* device = snapd_device(state); device && device->contains("serial") && (*device)["serial"].is_string())
    found.push_back({snapd_rule, snapd_state, (*device)["serial"].get<std::string>()});
}

} // namespace

std::vector<IdentityRule> account_rules() {
  return {
      {.name = "kerberos-keytab",
       .summary = "the host's Kerberos keytab: the clone must join its realm or domain itself",
       .paths = {"/etc/krb5.keytab"}},
      {.name = "ipa-client",
       .summary = "the enrolment at a FreeIPA server",
       .paths = {"/etc/ipa/default.conf", "/var/lib/ipa-client/sysrestore/*", "/var/lib/ipa-client/pki/*"},
       .unless = {{"/etc/dirsrv/slapd-*", "this is a FreeIPA server"}}},
      {.name = "sssd",
       .summary = "SSSD's caches and keys, which belong to the original's account in its domain",
       .paths = {"/var/lib/sss/db/*", "/var/lib/sss/mc/*", "/var/lib/sss/secrets/*"}},
      {.name = "samba-secrets",
       .summary = "Samba's machine account and SID: the clone must join its domain itself",
       .paths = {"/var/lib/samba/private/secrets.tdb", "/var/lib/samba/private/secrets.ldb",
                 "/var/lib/samba/private/netlogon_creds_cli.tdb", "/var/lib/samba/netsamlogon_cache.tdb"},
       .unless = {{"/var/lib/samba/private/sam.ldb", "this is a domain controller, which can't be cloned"}}},
      {.name = "redhat-registration",
       .summary = "the registration at Red Hat's services (Subscription Manager, RHN, Insights) and dnf's counts",
       .paths = {"/etc/pki/consumer/*", "/etc/pki/entitlement/*", "/etc/sysconfig/rhn/systemid",
                 "/etc/sysconfig/rhn/osad-auth.conf", "/etc/insights-client/machine-id",
                 "/etc/insights-client/.registered", "/var/lib/yum/uuid", "/var/lib/dnf/repos/*/countme",
                 "/etc/sysconfig/hw-uuid", "/etc/smolt/*"}},
      {.name = "suse-registration",
       .summary = "the registration at SUSE's Customer Center and zypper's anonymous id",
       .paths = {"/etc/zypp/credentials.d/SCCcredentials", "/var/lib/zypp/AnonymousUniqueId"}},
      {.name = "ubuntu-registration",
       .summary = "the registrations at Ubuntu Pro and Landscape",
       .paths = {"/var/lib/ubuntu-advantage/private/*", "/var/lib/ubuntu-advantage/machine-token.json",
                 "/var/lib/landscape/client/*.bpickle*"}},
      {.name = snapd_rule,
       .summary = "the key and serial under which the snap store knows the machine",
       .paths = {"/var/lib/snapd/device/private-keys-v1/*", "/var/lib/snapd/assertions/asserts-v0/serial/**"},
       .edit = forget_snapd_device,
       .report = report_snapd_device},
      {.name = popcon_rule,
       .summary = "the number by which Debian's popularity contest counts the machine, which becomes a new one",
       .edit = new_popcon_id,
       .report = report_popcon_id},
      {.name = "fwupd", .summary = "fwupd's client key", .paths = {"/var/lib/fwupd/pki/*"}},
      {.name = "accounts-service",
       .summary = "AccountsService's notes of users who logged in at the screen; off, as they hold their settings too",
       .by_default = false,
       .trace = true,
       .paths = {"/var/lib/AccountsService/users/*", "/var/lib/AccountsService/icons/*"}},
  };
}

} // namespace kvmport::identity
