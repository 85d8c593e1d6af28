// SPDX-License-Identifier: Apache-2.0
// Old UUIDs and their successors, and the replacing of one by the other wherever a text names it, in whichever
// notation. Every notation of the new one is as long as that of the old one, so files of fixed size and even programs
// keep theirs.
//
// A UUID is known by its form: "8-4-4-4-12" hex digits (filesystems, GPT, LUKS), "4-4" (FAT), "8-2" (a partition of an
// MBR: its disk's signature and its number), "8" (the signature itself), "6-4-4-4-4-4-6" of LVM. No errors; any thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvmport {

struct UuidChange {
  std::string what;          ///< "partition 1 of disk 0", "volume group vg0", "/dev/vg0/root (ext4)", …
  std::string before, after; ///< as blkid(8), or LVM, shows them
};

/// A new UUID of the same form as `old_uuid` that follows from it and the seed alone; equal old ones stay equal.
std::string derive_uuid(std::string_view old_uuid, const std::string& seed);

/// Every notation: as it is, escaped as in names of systemd's units ("\x2d" for '-'), and of long ones without dashes
/// and as mdadm writes them ("8:8:8:8").
std::vector<std::pair<std::string, std::string>> uuid_notations(const UuidChange& change);

/// `text` with every old UUID replaced: hex digits in either case (the new ones take the case of the old), those of
/// LVM as they are. Short forms only as whole words. The result is as long as `text`.
std::string replace_uuids(std::string_view text, const std::vector<UuidChange>& changes);

} // namespace kvmport
