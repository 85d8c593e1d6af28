// SPDX-License-Identifier: Apache-2.0
// The description of a clone: a libvirt domain's XML (https://libvirt.org/formatdomain.html) edited in place so that no
// identity is shared with its source or another machine. What no rule touches stays byte for byte; what no rule can
// decide is a warning that quotes the line. Touches no file: what the caller has to copy is said in the result.
#pragma once

#include "libconvert/clone/taken.h"

#include <map>
#include <span>

namespace kvmport {

/// What stands in for a disk of the source.
struct ClonedDisk {
  std::string path;          ///< absolute
  std::string format;        ///< "qcow2", "raw", …; empty: as the source's
  bool block_device = false; ///< `path` is a block device
};

struct DescriptionRequest {
  std::string name;                ///< of the clone; see clone_name.h
  std::optional<std::string> uuid; ///< none: a random one
  /// For the network cards in the order of the description; cards beyond the list get new ones.
  std::vector<std::string> macs;
  /// Makes the MAC addresses that are not given reproducible.
  std::optional<std::string> mac_seed;
  bool keep_hostdev = false; ///< devices of the host stay, with a warning; without it they are refused
  bool keep_serials = false; ///< serials and asset tags in <sysinfo> stay
  /// By the path in the description or the target ("vda"): disks, and paths of file-backed memory and file systems.
  std::map<std::string, ClonedDisk> disks;
  /// Empty: beside the source's, with the clone's name.
  std::string nvram_path;
  /// For new sockets, logs and console files. Empty: beside the source's.
  std::string files_directory;
};

struct DescriptionChange {
  std::string rule;
  std::size_t line = 0;      ///< in the source's text, from 1
  std::string what;          ///< "devices/interface[1]/mac@address"
  std::string before, after; ///< empty: there was none, it was removed
  std::string reason;
};

struct DescriptionWarning {
  std::string rule;
  std::size_t line = 0;
  std::string quote; ///< that line of the source's text
  std::string message;
};

/// A file that the caller copies: the clone's description names `to`.
struct CopyFile {
  std::string from, to;
};

/// The state of an emulated TPM, which swtpm keeps below a directory named by the domain's UUID (libvirt:
/// /var/lib/libvirt/swtpm/UUID), or at a path of its own. Without a copy the clone starts with an empty TPM: keys that
/// the guest has sealed in it (BitLocker, LUKS) are lost to the clone. With a copy both share those keys.
struct TpmState {
  std::string from_uuid, to_uuid;
  std::string from_path, to_path; ///< empty: libvirt's place
};

struct DescriptionResult {
  std::string xml;
  std::string uuid; ///< of the clone
  /// In the order of the rules. Rule "mac" changes every card once: before and after are what a guest has to know.
  std::vector<DescriptionChange> changes;
  std::vector<DescriptionWarning> warnings;
  std::optional<CopyFile> nvram;
  std::optional<TpmState> tpm;
};

/// Makes the clone's description of `xml`, which `source` names in errors. The new identities are claimed in `taken`,
/// which also learns those of `xml`; after an error it is as before. Other threads may not use `taken` meanwhile.
/// Errors: DESCRIPTION_INVALID; SOURCE_RUNNING (the state of a running domain, not its description); NAME_INVALID,
/// NAME_IN_USE; UUID_INVALID, UUID_IN_USE; MAC_INVALID, MAC_IN_USE; HOSTDEV_PRESENT; DISK_NOT_MAPPED (a disk that both
/// machines would write); PATH_IN_USE; PATH_TOO_LONG (of a Unix socket); DESCRIPTION_UNSUPPORTED (variables of the
/// firmware on a network); IDENTITY_EXHAUSTED.
DescriptionResult clone_description(const std::string& xml, const std::string& source,
                                    const DescriptionRequest& request, TakenIdentities& taken);

class DescriptionRun;

/// One row of the table of rules.
struct DescriptionRule {
  const char* name;
  const char* touches; ///< elements and attributes
  const char* does;
  const char* section; ///< of formatdomain.html
  void (*apply)(DescriptionRun& run);
};

/// All rules, in the order in which they are applied.
std::span<const DescriptionRule> description_rules();

} // namespace kvmport
