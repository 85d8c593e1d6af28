// SPDX-License-Identifier: Apache-2.0
// Old names of LVM's volume groups and their successors, and the replacing of one by the other where a text or a path
// names a group, which it only does in notations that mean one: a bare word that happens to be its name is left alone.
// The new name has letters and digits where the old one has them and the rest as it is, so that every notation of it is
// as long as that of the old one. No errors; any thread.
#pragma once

#include "libconvert/clone/uuid_text.h"

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

struct GroupChange {
  std::string before, after;        ///< the name
  std::vector<std::string> volumes; ///< names of its logical volumes, which they keep
};

/// Everything on the disks of a clone that is called otherwise.
struct Renaming {
  std::vector<UuidChange> uuids;
  std::vector<GroupChange> groups;
};

/// A new name that follows from the old one, the seed and what is `taken` alone. Empty when there is none: a name
/// without a letter or digit, or all such names are taken.
std::string derive_group_name(std::string_view old_name, const std::string& seed, const std::set<std::string>& taken);

/// Names of devices of the group in every notation, old and new: "/dev/vg0/root", "mapper/vg0-root" ('-' in a name is
/// doubled), "lvm/vg0-root" of GRUB, "rd.lvm.lv=vg0/root", "dev-mapper-vg0\x2droot" of systemd's units, …
struct GroupNotation {
  std::string head, before, after, tail; ///< the name stands between head and tail
  std::vector<std::string> volumes;      ///< one of these follows
};
std::vector<GroupNotation> group_notations(const GroupChange& group);

/// For grep -E: the old name in this notation, and then one of the volumes as a whole.
std::string old_name_pattern(const GroupNotation& notation);

/// The contents of the file `path` (absolute, or in an initramfs) with every old name replaced, UUIDs and groups. In
/// LVM's own files also what its syntax makes a name: lists of volumes, the section of a backup.
std::string renamed_text(const std::string& path, std::string_view text, const Renaming& renaming);
/// The same for a path: of units that are called after devices, and of LVM's backups.
std::string renamed_path(std::string_view path, const Renaming& renaming);

/// A group's metadata as LVM writes it, also into files of /etc/lvm/backup.
std::string renamed_metadata(std::string_view text, const Renaming& renaming);

} // namespace kvmport
