// SPDX-License-Identifier: Apache-2.0
// LVM2 volume groups read from their physical volumes: label and metadata area with their checksums, the metadata's
// text, linear and striped volumes. Source: lvm2, lib/format_text/layout.h and lib/label/label.h (on-disk structures),
// lib/config and lib/format_text/import_vsn1.c (text). Hostile input costs bounded time: at most 1 MiB of text a
// volume, 16 levels, 4096 objects a group.
#pragma once

#include "formats/image.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// One physical volume, where it was found.
struct LvmMember {
  std::string uuid;     ///< "XXXXXX-XXXX-XXXX-XXXX-XXXX-XXXX-XXXXXX"
  std::string metadata; ///< text of the group; empty when this one holds none
};

/// Looks for a physical volume in `range`. Nothing when there is no label; Error IMAGE_CORRUPT when there is one and
/// something about it is wrong.
std::optional<LvmMember> read_lvm_member(const Image& disk, Range range);

/// Replaces UUIDs in a physical volume's label and, with names, in the committed text of its metadata areas, checksums
/// included; earlier texts that the areas still hold stay. `renew` gets the text, or one UUID, and gives it back in the
/// same length. The text's sequence number stays, which says that all copies of one number are alike: give every
/// physical volume of a group the same change, and the backup in the guest's /etc/lvm as well, which LVM else replaces.
/// Its group must not be active anywhere. False when there is no label; Error IMAGE_CORRUPT as above.
bool renew_lvm_uuids(WritableImage& disk, Range range, const std::function<std::string(const std::string&)>& renew);

/// The text, or that of a file that vgcfgbackup(8) wrote, with another name of the group: the name of its one section,
/// which nothing else in the text repeats.
std::string rename_lvm_group(std::string_view text, std::string_view before, std::string_view after);

/// A place on a physical volume.
struct LvmStripe {
  std::string member;       ///< its uuid
  std::uint64_t offset = 0; ///< bytes from its beginning
};

struct LvmSegment {
  std::uint64_t length = 0;       ///< bytes
  std::uint64_t stripe_size = 0;  ///< bytes; unused with one stripe
  std::vector<LvmStripe> stripes; ///< in order
};

struct LvmVolume {
  std::string name, uuid;
  std::vector<LvmSegment> segments; ///< in order, without gaps
  std::string unsupported;          ///< why it can't be read and written by its segments alone; empty: it can
};

struct LvmFree {
  std::string member; ///< uuid of the physical volume
  Range range;        ///< of its bytes
};

struct LvmGroup {
  std::string name, uuid;
  std::uint64_t sequence = 0; ///< the higher, the newer
  std::vector<std::string> members;
  std::vector<LvmVolume> volumes; ///< those that a guest sees: hidden ones are parts of others
  std::vector<LvmFree> free;      ///< what belongs to no volume, merged; empty when that can't be told
  std::string unsupported;        ///< exported, clustered, read-only, …; empty: nothing
};

/// Reads the text. Error IMAGE_CORRUPT.
LvmGroup parse_lvm_metadata(std::string_view text);

} // namespace kvmport
