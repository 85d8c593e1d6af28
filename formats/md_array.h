// SPDX-License-Identifier: Apache-2.0
// Software RAID of Linux read from its members: version 1.x superblocks with their checksum (Linux,
// include/uapi/linux/raid/md_p.h, struct mdp_superblock_1; drivers/md/md.c, super_1_load). What is put together here is
// RAID1 and linear, when nothing is missing, failed, resyncing or reshaping: everything else is md's own work.
#pragma once

#include "formats/mapped_image.h"

#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// One member, where it was found.
struct MdMember {
  std::string array_uuid;            ///< as blkid(8) shows it: "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
  std::string name;                  ///< of the array, with the host's name before a ':', if it has one
  int level = 0;                     ///< 1: RAID1, -1: linear, …
  std::uint32_t disks = 0, role = 0; ///< how many make the array; which one this is
  std::uint64_t events = 0;
  std::uint64_t array_size = 0; ///< bytes that each member gives (RAID1)
  std::uint64_t chunk = 0;      ///< bytes
  Range data;                   ///< of the member's own bytes
  std::string unsupported;      ///< why it can't be used without md; empty: it can
};

/// Looks for a superblock in `range` (at its beginning, 4 KiB behind it, near its end). Nothing when there is none of
/// version 1; Error IMAGE_CORRUPT when its checksum or a number in it is wrong.
std::optional<MdMember> read_md_member(const Image& disk, Range range);

/// A member and what to use for it: `place.offset` is the beginning of the range that was looked at.
struct PlacedMdMember {
  MdMember member;
  MapTarget place;
};

/// Why the members of one array don't make a whole one; empty: they do, and `pieces` are its parts.
std::string assemble_md(std::vector<PlacedMdMember> members, std::vector<MapPiece>& pieces);

} // namespace kvmport
