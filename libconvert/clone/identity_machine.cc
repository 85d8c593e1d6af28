// SPDX-License-Identifier: Apache-2.0
// The system's own secrets and numbers: cloud-init's instance, random seeds, host id, and at the very end the machine
// id, from which DHCP clients, systemd and D-Bus derive theirs.
//
// machine-id(5), "First boot semantics": an empty /etc/machine-id gets a new id at the next boot without that being a
// "first boot", which would reset every unit to its preset; a missing file is one. systemd asks D-Bus's file before it
// makes an id, and on KVM takes the machine's UUID, so the clone must have a UUID of its own.
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::identity {
namespace {

using linux_guest::trim;

constexpr const char* machine_id = "/etc/machine-id";
constexpr const char* dbus_id = "/var/lib/dbus/machine-id";
constexpr const char* rule_name = "machine-id";
constexpr const char* reason = "the machine id: systemd, D-Bus and DHCP clients know the original by it";

std::string id_in(const std::string& path, const Draft& draft) {
  const std::string text(trim(read_config(draft, path).value_or("")));
  return text == "uninitialized" ? std::string() : text;
}

void warn_of_dependants(const GuestInfo& info, const std::string& id, Draft& draft) {
  if (const std::string source = lvm_system_id_source(draft); source == "machineid" || source == "appmachineid")
    draft.warn(
        "LVM takes the machine id for the owner of volume groups (system_id_source = \"" + source +
        "\"): with a new id they are foreign and stay inactive, the root file system's too. Leave this rule out, "
        "or change system_id_source in the original");
  if (!id.empty() && !find_paths(info, draft, "/boot/loader/entries/" + id + "-*.conf").empty())
    draft.note(
        "boot entries in /boot/loader/entries are named after the old machine id: they work, but removing an old "
        "kernel will leave its entry behind");
}

void empty_machine_id(const GuestInfo& info, const CloneIdentity&, Draft& draft) {
  warn_of_dependants(info, id_in(machine_id, draft), draft);
  const auto is_link = [&](const char* path) {
    const auto st = draft.lstat(path);
    return st && st->type == FileType::symlink;
  };
  // Older Debians have the one, newer ones the other as a link.
  if (is_link(machine_id)) {
    draft.remove(machine_id, reason);
    draft.write(machine_id, "", reason, 0444);
  }
  if (draft.exists(dbus_id) && !is_link(dbus_id))
    draft.remove(dbus_id, reason);
  if (!draft.exists(machine_id))
    return;
  if (has_systemd(draft))
    draft.empty(machine_id, reason);
  else
    draft.remove(machine_id, "D-Bus makes a missing machine id, but not when there is an empty one");
}

void report_machine_id(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const char* path : {machine_id, dbus_id}) {
    const auto st = draft.lstat(path);
    if (const std::string id = id_in(path, draft); !id.empty() && st && st->type == FileType::regular)
      found.push_back({rule_name, path, id});
  }
}

} // namespace

std::vector<IdentityRule> machine_rules() {
  return {
      {.name = "cloud-init",
       .summary =
           "what cloud-init has done for the original, so that it sets up the clone as a new instance; seeds are "
           "kept",
       .paths = {"/var/lib/cloud/instance", "/var/lib/cloud/instances/**", "/var/lib/cloud/data/**",
                 "/var/lib/cloud/sem/**"}},
      {.name = "random-seed",
       .summary = "saved random seeds, so that clones don't begin with the same randomness",
       .paths = {"/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed",
                 "/var/lib/misc/random-seed", "/var/lib/seedrng/*", "/boot/loader/random-seed",
                 "/boot/efi/loader/random-seed", "/efi/loader/random-seed"}},
      {.name = "hostid",
       .summary = "the number that gethostid(3) returns",
       .paths = {"/etc/hostid"},
       .unless = {{"/etc/zfs/zpool.cache", "ZFS pools are tied to the host id, and would not be imported"}}},
      {.name = "systemd-secrets",
       .summary = "systemd's key for credentials and its copy of the TPM's storage key",
       .paths = {"/var/lib/systemd/credential.secret", "/var/lib/systemd/tpm2-srk-public-key.*"},
       .unless = {{"/etc/credstore.encrypted/*",
                   "credentials in /etc/credstore.encrypted are encrypted with the key"}}},
      {.name = rule_name,
       .summary = "the machine id, emptied so that systemd makes a new one, and D-Bus's copy of it; always last",
       .edit = empty_machine_id,
       .report = report_machine_id},
  };
}

} // namespace kvmport::identity
