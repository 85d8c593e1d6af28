// SPDX-License-Identifier: Apache-2.0
// Names under which storage knows the guest (iSCSI, NVMe over Fabrics), and lists of disks by serial number: a clone's
// disks have other numbers.
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

namespace kvmport::identity {
namespace {

using linux_guest::edit_lines;
using linux_guest::split_lines;
using linux_guest::trim;

constexpr const char* iscsi_rule = "iscsi-initiator";
constexpr const char* iscsi_file = "/etc/iscsi/initiatorname.iscsi";
constexpr const char* nvme_rule = "nvme-host";
constexpr std::size_t uuid_length = 36;

const std::vector<std::string>& nvme_files() {
  static const std::vector<std::string> files{"/etc/nvme/hostnqn", "/etc/nvme/hostid"};
  return files;
}

constexpr std::string_view iscsi_key = "InitiatorName=";

/// The naming authority stays, what it says of the machine becomes new: "iqn.1993-08.org.debian:01:" + 12 digits, as
/// iscsi-iname(8) makes it. Not left to the first boot: only some distributions generate a missing name there.
void new_initiator_name(const GuestInfo&, const CloneIdentity& identity, Draft& draft) {
  const auto text = read_config(draft, iscsi_file);
  if (!text)
    return;
  const std::string after = edit_lines(*text, [&](std::string& line, std::size_t) {
    if (!line.starts_with(iscsi_key))
      return true;
    const std::string name(trim(line.substr(iscsi_key.size())));
    const std::size_t colon = name.rfind(':');
    line = std::string(iscsi_key) + (colon == std::string::npos ? name + ":" : name.substr(0, colon + 1)) +
           derived_hex(identity, name, 12);
    return true;
  });
  if (after == *text)
    return;
  write_discreetly(draft, iscsi_file, after, "two initiators with one name take each other's sessions away");
  draft.warn(
      "the clone has a new iSCSI initiator name: targets that admit the original by its name must be told of it");
}

void report_initiator_name(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  if (const auto text = read_config(draft, iscsi_file))
    for (const std::string& line : split_lines(*text))
      if (line.starts_with(iscsi_key))
        found.push_back({iscsi_rule, iscsi_file, std::string(trim(line.substr(iscsi_key.size())))});
}

/// Both files hold the same UUID as a rule, and the same old one gives the same new one.
void new_nvme_host(const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  for (const std::string& path : find_files(info, draft, nvme_files())) {
    std::string text = read_config(draft, path).value_or("");
    const auto uuids = find_uuids(text);
    for (const std::size_t at : uuids)
      text.replace(at, uuid_length, derived_uuid(identity, text.substr(at, uuid_length)));
    if (uuids.empty())
      draft.warn(path + " holds a name that is not made of a UUID; it was left and is that of the original");
    else
      draft.write(path, text, "NVMe subsystems know the original under this name");
  }
}

void report_nvme_host(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const std::string& path : find_files(info, draft, nvme_files()))
    found.push_back({nvme_rule, path, std::string(trim(read_config(draft, path).value_or("")))});
}

} // namespace

std::vector<IdentityRule> storage_rules() {
  return {
      {.name = iscsi_rule,
       .summary = "the iSCSI initiator's name, which gets a new end; two initiators with one name fight for sessions",
       .edit = new_initiator_name,
       .report = report_initiator_name},
      {.name = nvme_rule,
       .summary = "the NVMe host's NQN and id in /etc/nvme, which become new ones",
       .edit = new_nvme_host,
       .report = report_nvme_host},
      {.name = "lvm-devices",
       .summary =
           "LVM's list of disks by serial number, which would hide the clone's disks; without the list LVM looks "
           "at all",
       .paths = {"/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*", "/etc/lvm/cache/.cache"}},
      {.name = "multipath",
       .summary = "multipath's list of the original's disks and the names that it gave them",
       .paths = {"/etc/multipath/wwids", "/etc/multipath/bindings"}},
      {.name = "blkid-cache",
       .summary = "caches of block devices, which name the original's disks",
       .paths = {"/etc/blkid.tab*", "/etc/blkid/blkid.tab*", "/var/cache/blkid/blkid.tab*"}},
      {.name = "lvm-history",
       .summary = "LVM's backups and archive of its metadata, with the original's name in them; off, as they still fit "
                  "the clone's volume groups",
       .by_default = false,
       .trace = true,
       .paths = {"/etc/lvm/archive/*", "/etc/lvm/backup/*"}},
  };
}

} // namespace kvmport::identity
